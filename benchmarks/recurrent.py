"""An epoch of an ODE-RNN on the toy sinusoids, beside a loop over the gaps that calls torchdiffeq's Euler in each.

Both hold the same weights, see the same batches, make the same updates by Adam. The loop stands at every time of the
batch in turn, as the authors' code does, and lets through its mask the series that were observed there; ours goes from
observation to observation of each series. A series of fifty points among a hundred times then makes half as many steps
of Euler; "as many evaluations" makes two in each gap, and "all times" is the loop itself with our flow in each gap.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.environment import installed
from benchmarks.rows import Point, Row
from benchmarks.timing import Work, race
from pathline import fields
from pathline.data import Series, sinusoids
from pathline.models import ODERNN, Forecaster, Recurrent
from pathline.models.recurrent.gaps import Gaps

OURS, EQUAL, UNION, CLOCK = (
    "pathline",
    "pathline, as many evaluations",
    "pathline, all times",
    "pathline, one clock a series",
)
THEIRS = "torchdiffeq, a call a gap"
#: Ours is at least so many times faster.
BAR = 3.0
HIDDEN, WIDTH = 20, 100


@dataclass(frozen=True)
class Task:
    """The toy data of the paper."""

    series: int
    points: int
    batch: int

    def batches(self) -> list[Series]:
        """Half of the points of each series, in batches."""
        generator = torch.Generator().manual_seed(0)
        data = sinusoids(self.series, self.points, generator=generator).thin(0.5, generator)
        return [data[k : k + self.batch] for k in range(0, self.series, self.batch)]

    def whole(self) -> Series:
        """A batch of which nothing is left out."""
        return sinusoids(self.batch, self.points, generator=torch.Generator().manual_seed(0))


def recurrent(*, quick: bool) -> Iterator[Row | Point]:
    """A point for each contender, then the ratios."""
    task = Task(20, 20, 10) if quick else Task(1000, 100, 50)
    batches = task.batches()
    works: dict[str, Any] = {
        OURS: lambda: ours(batches),
        EQUAL: lambda: ours(batches, steps=2),
        UNION: lambda: looped(batches, across),
        CLOCK: lambda: ours(batches, gradient="checkpointed", clock="per-sample"),
    }
    there = installed("torchdiffeq") is not None
    if there:
        check(batches[0], task.whole())
        works[THEIRS] = lambda: looped(batches, euler)
    full = () if quick else (OURS, EQUAL, UNION, THEIRS)
    contenders = {name: make() for name, make in works.items()}
    times = race(contenders, rounds=2 if quick else 12, budget=0.2 if quick else 20.0, least=2, full=full)
    for name in contenders:
        ms, *interval = times.milliseconds(name)
        yield Point("ODE-RNN, an epoch", name, ms, (interval[0], interval[1]))
    if not there:
        yield Point("ODE-RNN, an epoch", THEIRS, reason="not installed")
    line = "ODE-RNN epoch, a loop over the gaps"
    for name, bar in ((OURS, BAR), (EQUAL, BAR), (UNION, None)):
        title = f"ODE-RNN, an epoch: {THEIRS} / {name}"
        if not there:
            yield Row(title, None, None, "x", bar, line=line, reason="torchdiffeq: not installed")
            continue
        timed = times.pair(name, THEIRS)
        notes = {"ms": timed.milliseconds(), "pairs": len(timed.ours)}
        yield Row(title, timed.ratio, timed.bounds[0], "x", bar, notes=notes, line=line, interval=timed.bounds)


# --- who takes part -----------------------------------------------------------------------------------------------


def model(**options: Any) -> Forecaster:
    """The same weights each time."""
    torch.manual_seed(0)
    return Forecaster(ODERNN(1, HIDDEN, fields.MLP(HIDDEN, (WIDTH,)), **options))


def epoch(net: nn.Module, losses: list[Callable[[], Tensor]]) -> Work:
    """An update for each batch."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def work() -> None:
        for loss in losses:
            value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    return work


def ours(batches: list[Series], **options: Any) -> Work:
    """``Forecaster.loss``."""
    net = model(**options)
    return epoch(net, [lambda batch=batch: net.loss(batch) for batch in batches])


def looped(batches: list[Series], flow: Flow) -> Work:
    """One flow a gap between two times of the batch."""
    net = Loop(model(), flow)
    views = [Observed(batch) for batch in batches]
    return epoch(net, [lambda view=view: net.loss(view) for view in views])


Flow = Callable[[Recurrent, Tensor, Tensor, Tensor], Tensor]
"""The states ``(n, hidden)`` of a network after the gap from one time to another."""


def euler(recurrent: Recurrent, h: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """A step of torchdiffeq's."""
    odeint = importlib.import_module("torchdiffeq").odeint
    return odeint(recurrent.between.field, h, torch.stack([start, end]), method="euler")[-1]  # pyright: ignore[reportAttributeAccessIssue]


def across(recurrent: Recurrent, h: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Ours."""
    length = (end - start).expand(len(h))
    return recurrent.advance(h, Gaps(start.expand(len(h)), length, length[:, None]))


class Observed:
    """A batch as the loop wants it: times, and values and masks with the times first."""

    def __init__(self, batch: Series) -> None:
        view = batch.union()
        self.times = view.times.to(view.values.dtype)
        self.values, self.mask = view.values.transpose(0, 1), view.mask.transpose(0, 1).to(view.values.dtype)
        self.inputs = torch.cat([self.values, self.mask], -1)
        self.later = self.mask * (view.mask.transpose(0, 1).cumsum(0) > 1)


class Loop(nn.Module):
    """An ODE-RNN as a loop over the times of a batch.

    Args:
        model: Whose weights it shares.
        flow: What happens between two of them.
    """

    def __init__(self, model: Forecaster, flow: Flow = euler) -> None:
        super().__init__()
        ours: Any = model.recurrent
        self.recurrent, self.readout, self.flow = ours, model.readout, flow
        self.cell = nn.GRUCell(2, HIDDEN)
        with torch.no_grad():
            for name, part in (("ih", ours.cell.input), ("hh", ours.cell.state)):
                getattr(self.cell, f"weight_{name}").copy_(part.weight)
                getattr(self.cell, f"bias_{name}").copy_(part.bias)

    def loss(self, seen: Observed) -> Tensor:
        """The mean square error of each row but the first."""
        h, before = seen.values.new_zeros(seen.values.shape[1], HIDDEN), []
        for i, mask in enumerate(seen.mask):
            if i:
                h = self.flow(self.recurrent, h, seen.times[i - 1], seen.times[i])
            before.append(h)
            h = mask * self.cell(seen.inputs[i], h) + (1 - mask) * h
        square = (self.readout(torch.stack(before)) - seen.values).square()
        return (square * seen.later).sum() / seen.later.sum()


def check(batch: Series, whole: Series) -> None:
    """All compute one number: else their times would say nothing.

    Args:
        batch: On which both loops are compared.
        whole: Series that are all observed at all times, so that the loop's gaps are theirs.
    """
    mine = model()
    for seen, name, found in (
        (Observed(batch), "the loop with our flow", Loop(mine, across).loss(Observed(batch))),
        (Observed(whole), "our model", mine.loss(whole)),
    ):
        expected = Loop(mine).loss(seen)
        if not torch.allclose(found, expected, rtol=1e-4):
            raise RuntimeError(
                f"The loop's loss is {float(expected.detach())}, that of {name} {float(found.detach())}."
            )
