"""What holds exactly, whatever was learned."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pathline import solve
from pathline.data import Series
from pathline.experiments.clinic import mixed
from pathline.experiments.clinic.models import Course
from pathline.experiments.clinic.visits import Pairs, Parts, pairs
from pathline.models import GRU
from pathline.models.recurrent import Flow

if TYPE_CHECKING:
    from pathline.experiments.clinic.config import Config
    from pathline.train import Run


def measure(config: Config, run: Run, parts: Parts, ode: Course) -> None:
    """The identities, and what the solver did."""
    which = pairs(parts.test)
    run.metric("mixed_to_gaussian", mixed_to_gaussian(parts.test, which))
    with torch.no_grad():
        run.metric("later_visits_seen", later_visits_seen(ode, parts.test, which))
        run.metric("still_to_held", still_to_held(config, parts.test))
        run.metric("step_to_tight", step_to_tight(ode, parts.test, which), "standard deviations")
        run.metric("there_and_back", there_and_back(ode, parts.test))
    run.metric("evaluations", evaluations(ode, parts.train), "of the field, an update")


def mixed_to_gaussian(series: Series, which: Pairs) -> float:
    """Forecasts of the mixed model against a Gaussian vector of all visits, conditioned on the earlier ones."""
    draw = torch.Generator().manual_seed(0)
    channels = len(series.channels)
    root = torch.randn(channels, 2, 2, generator=draw, dtype=torch.float64)
    model = mixed.MixedTrend(
        torch.randn(channels, 2, generator=draw, dtype=torch.float64).to(series.device),
        (root @ root.mT + 0.1 * torch.eye(2, dtype=torch.float64)).to(series.device),
        torch.rand(channels, generator=draw, dtype=torch.float64).to(series.device) + 0.1,
    )
    forecast = model.forecast(series.to(dtype=torch.float64), which)
    longest = int(series.lengths.argmax())
    own = (series.rows[which.then] == longest) & which.next
    now, then = which.now[own], which.then[own]
    worst = 0.0
    for channel in range(channels):
        expected = [_conditioned(model, series, channel, int(a), int(b)) for a, b in zip(now, then, strict=True)]
        worst = max(worst, float((torch.stack(expected) - forecast[own, channel]).abs().max()))
    return worst


def _conditioned(model: mixed.MixedTrend, series: Series, channel: int, now: int, then: int) -> Tensor:
    """The mean of the value at row ``then`` given those up to row ``now`` of one patient, with whole covariances."""
    first = int(series.offsets[series.rows[now]])
    known = first + series.mask[first : now + 1, channel].nonzero()[:, 0]
    x = mixed.design(series.times[torch.cat([known, known.new_tensor([then])])])
    covariance = x @ model.spread[channel] @ x.mT
    noisy = covariance[:-1, :-1] + model.noise[channel] * torch.eye(len(known), dtype=x.dtype, device=x.device)
    mean = x @ model.beta[channel]
    surprise = series.values[known, channel].double() - mean[:-1]
    return mean[-1] + covariance[-1, :-1] @ torch.linalg.solve(noisy, surprise)


def later_visits_seen(model: Course, series: Series, which: Pairs) -> float:
    """How much forecasts change where the last visit of every patient had other results: not at all."""
    last = series.offsets[1:][series.rows] - 1 == torch.arange(len(series.times), device=series.device)
    other = series.with_values(torch.where(last[:, None] & series.mask, 100.0, series.values))
    early = which.now != series.offsets[1:][series.rows[which.now]] - 1
    return float((model(series, which)[0] - model(other, which)[0])[early].abs().max())


def still_to_held(config: Config, series: Series) -> float:
    """An ODE-RNN whose field is zero against a GRU with its weights."""
    channels, static = len(series.channels), len(series.static_names)
    held = GRU(channels, config.hidden, static=static).to(series.device)
    still = copy.deepcopy(held)
    still.between = Flow(_still, method=config.method, dt=config.dt)
    return float((held(series).after - still(series).after).abs().max())


def _still(t: Tensor, h: Tensor) -> Tensor:
    return torch.zeros_like(h)


def step_to_tight(model: Course, series: Series, which: Pairs) -> float:
    """The root mean square by which forecasts change if all is solved to 1e-6 in place of long steps."""
    tight = copy.deepcopy(model)
    flow = tight.recurrent.between
    assert isinstance(flow, Flow)
    tight.recurrent.between = Flow(flow.field, method="dopri5", rtol=1e-6, atol=1e-6)
    return float((model(series, which)[0] - tight(series, which)[0]).square().mean().sqrt())


def there_and_back(model: Course, series: Series) -> float:
    """States after all visits, five years on and back again, relative to their size."""
    flow = model.recurrent.between
    assert isinstance(flow, Flow)
    assert isinstance(flow.field, nn.Module)
    field = copy.deepcopy(flow.field).double()
    start = model.recurrent(series).after.double()
    there = solve(field, start, (0.0, 5.0), method="dopri8", rtol=1e-8, atol=1e-8).y1
    back = solve(field, there, (5.0, 0.0), method="dopri8", rtol=1e-8, atol=1e-8).y1
    return float((back - start).norm() / start.norm())


def evaluations(model: Course, series: Series) -> float:
    """Of the field in one forecast of all pairs, batches counting once."""
    model(series, pairs(series))
    return float(model.recurrent.evaluations)
