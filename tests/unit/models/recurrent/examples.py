"""Small ragged series, and each model walked through row by row, as its equations read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pathline import fields
from pathline.data import Series
from pathline.models import GRU, GRUD, ODERNN, GRUdt, Recurrent

LENGTHS = torch.tensor([3, 0, 5, 1, 5])
MODELS = {
    "gru": GRU,
    "gru_dt": GRUdt,
    "gru_d": GRUD,
    "ode_rnn": ODERNN,
    "substeps": lambda channels, hidden, **more: ODERNN(channels, hidden, steps=3, **more),
    "longest step": lambda channels, hidden, **more: ODERNN(channels, hidden, dt=0.2, **more),
    "two layers": lambda channels, hidden, **more: ODERNN(
        channels, hidden, fields.MLP(hidden, (5, 6), activation="silu"), **more
    ),
    "linear": lambda channels, hidden, **more: ODERNN(
        channels, hidden, nn.Sequential(nn.Linear(hidden, hidden)), dt=0.3, **more
    ),
    "midpoint": lambda channels, hidden, **more: ODERNN(channels, hidden, method="midpoint", **more),
    "of time": lambda channels, hidden, **more: ODERNN(channels, hidden, fields.MLP(hidden, time=True), **more),
}


def ragged(*, complete: bool = False, seed: int = 0) -> Series:
    """Five series of two channels, one without a row; with gaps in both channels, and a row without a value."""
    generator = torch.Generator().manual_seed(seed)
    count = int(LENGTHS.sum())
    times = torch.cat([torch.rand(int(n), generator=generator).double().sort().values * 3 for n in LENGTHS])
    values = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    if not complete:
        values[2, 0] = values[0, 1] = values[4] = values[9, 0] = torch.nan
    return Series(times, values, LENGTHS, labels=torch.arange(5) % 3, row_labels=torch.arange(count) % 3)


def made(name: str, **more: int) -> Recurrent:
    """A model in double precision whose parts all do something."""
    model = MODELS[name](2, 4, **more).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.6, 0.9)
    return model


def walked(model: Recurrent, series: Series, reverse: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """States before and after each row, and the last ones: one series after the other, one row after the other.

    A row without a value is passed and not remembered, unless the model takes known inputs: then it is read.
    """
    before, after = torch.zeros(2, len(series.times), model.hidden, dtype=torch.float64).unbind()
    final = torch.zeros(len(series), model.hidden, dtype=torch.float64)
    for i in range(len(series)):
        rows = list(range(int(series.offsets[i]), int(series.offsets[i + 1])))
        h, last, seen, previous = final[i], torch.zeros(2, dtype=torch.float64), None, None
        for row in reversed(rows) if reverse else rows:
            time, mask = series.times[row], series.mask[row]
            heard = time.expand(2) if seen is None else seen
            gap = time - (time if previous is None else previous)
            silence = (time - heard).abs()
            passing = h if previous is None else moved(model, h, previous, gap, silence)
            before[row] = after[row] = passing
            if not mask.any() and not model.inputs:
                continue
            x = torch.where(mask, series.values[row], 0.0)
            known = None if series.inputs is None else series.inputs[row]
            h = after[row] = updated(model, passing, x, mask, gap, silence, last, known)
            seen = heard
            last, seen, previous = torch.where(mask, series.values[row], last), torch.where(mask, time, seen), time
        final[i] = h
    return before, after, final


def moved(model: Recurrent, h: Tensor, start: Tensor, gap: Tensor, silence: Tensor) -> Tensor:
    """From one row to the next: nothing, GRU-D's decay, or Euler's steps (the midpoint's) along the field."""
    between = model.between
    if type(between).__name__ == "Hold":
        return h
    if type(between).__name__ == "Decay":
        return h * torch.exp(-torch.relu(between.rate.weight @ silence + between.rate.bias))
    count = between.steps if between.dt is None else max(1, int(torch.ceil(gap.abs() / between.dt)))
    field, dt = between.field, gap / count
    timed = getattr(field, "time", None) is not None
    for k in range(count):
        t = start + k * dt
        rate = (lambda t, y: field(t, y)) if timed else (lambda t, y: field(y))
        if between.method == "euler":
            h = h + dt * rate(t, h)
        else:
            h = h + dt * rate(t + dt / 2, h + dt / 2 * rate(t, h))
    return h


def updated(
    model: Recurrent,
    h: Tensor,
    x: Tensor,
    mask: Tensor,
    gap: Tensor,
    silence: Tensor,
    last: Tensor,
    known: Tensor | None,
) -> Tensor:
    """The gated recurrent unit, from PyTorch's own cell."""
    if model.impute:
        fade = torch.exp(-torch.relu(model.features.weight * silence + model.features.bias))
        x = torch.where(mask, x, fade * last)
    parts = [x, mask.double()] + ([gap.abs()[None]] if model.dt else [])
    parts += [known] if model.inputs and known is not None else []
    cell, ours = nn.GRUCell(model.cell.inputs, model.hidden, dtype=torch.float64), model.cell
    with torch.no_grad():
        for name, part in (("ih", ours.input), ("hh", ours.state)):
            getattr(cell, f"weight_{name}").copy_(part.weight)
            getattr(cell, f"bias_{name}").copy_(part.bias)
    return cell(torch.cat(parts), h)
