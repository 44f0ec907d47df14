"""A line for each patient: the linear mixed model, fitted by expectation and maximisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pathline.data import Series
from pathline.experiments.clinic.visits import Pairs


@dataclass(frozen=True)
class MixedTrend:
    r"""Each channel of each patient is a line around a common line. In double precision.

    $$y_{ij} = (\beta + b_i)^\top (1, t_{ij}) + \varepsilon_{ij}, \qquad b_i \sim N(0, D), \qquad
      \varepsilon_{ij} \sim N(0, \sigma^2)$$

    Args:
        beta: ``(channels, 2)``.
        spread: ``D``, ``(channels, 2, 2)``.
        noise: ``sigma^2``, ``(channels,)``.

    References:
        N. M. Laird, J. H. Ware (1982), Random-effects models for longitudinal data.
    """

    beta: Tensor
    spread: Tensor
    noise: Tensor

    def lines(self, known: Known) -> tuple[Tensor, Tensor]:
        """Mean and covariance of ``b`` given what is known: ``(..., channels, 2)`` and ``(..., channels, 2, 2)``."""
        precision = torch.linalg.inv(self.spread) + known.design / self.noise[:, None, None]
        covariance = torch.linalg.inv(precision)
        pull = known.outcome - (known.design @ self.beta[..., None])[..., 0]
        return (covariance @ (pull / self.noise[:, None])[..., None])[..., 0], covariance

    def forecast(self, series: Series, which: Pairs) -> Tensor:
        """At each visit ``then`` from the visits up to ``now``: ``(P, channels)``."""
        known = products(series).until(series)
        b, _ = self.lines(Known(known.design[which.now], known.outcome[which.now]))
        return ((self.beta + b) * design(series.times[which.then])[:, None]).sum(-1).to(series.dtype)


@dataclass(frozen=True)
class Known:
    """What the visits say of the lines: sums of ``x x'`` and ``x y`` over them, channel by channel."""

    design: Tensor
    outcome: Tensor

    def sums(self, series: Series) -> Known:
        """Over all visits of each patient."""
        return Known(*(_summed(part, series) for part in (self.design, self.outcome)))

    def until(self, series: Series) -> Known:
        """Over the visits of the patient up to each visit."""
        return Known(*(_running(part, series) for part in (self.design, self.outcome)))


def design(times: Tensor) -> Tensor:
    """``(1, t)``."""
    return torch.stack([torch.ones_like(times), times], -1)


def products(series: Series) -> Known:
    """Of each visit alone; what was not measured says nothing."""
    x, there = design(series.times), series.mask.double()
    outer = x[:, None, :, None] * x[:, None, None, :]
    values = series.values.double().nan_to_num(0.0)
    return Known(outer * there[..., None, None], x[:, None] * (values * there)[..., None])


def fit(series: Series, iterations: int) -> MixedTrend:
    """Maximum likelihood of all channels side by side."""
    parts = products(series)
    known, values, there = parts.sums(series), series.values.double().nan_to_num(0.0), series.mask.double()
    x, count = design(series.times)[:, None], there.sum(0)
    channels = values.shape[1]
    start = torch.diag(torch.tensor([0.5, 0.01], dtype=torch.float64, device=series.device)).expand(channels, 2, 2)
    model = MixedTrend(x.new_zeros(channels, 2), start, x.new_full((channels,), 0.5))
    for _ in range(iterations):
        b, covariance = model.lines(known)
        spread = (b[..., :, None] * b[..., None, :] + covariance).mean(0)
        own = (b[series.rows] * x).sum(-1)
        pull = ((values - own) * there)[..., None] * x
        beta = torch.linalg.solve(known.design.sum(0), pull.sum(0)[..., None])[..., 0]
        rest = (values - own - (beta * x).sum(-1)) * there
        unsure = (covariance[series.rows] @ x[..., None])[..., 0].mul(x).sum(-1) * there
        model = MixedTrend(beta, spread, (rest.square() + unsure).sum(0) / count)
    return model


def _summed(rows: Tensor, series: Series) -> Tensor:
    return rows.new_zeros(len(series), *rows.shape[1:]).index_add_(0, series.rows, rows)


def _running(rows: Tensor, series: Series) -> Tensor:
    """The cumulative sum within each series, without the rounding of one sum over all of them."""
    wide = rows.new_zeros(len(series), int(series.lengths.max()), *rows.shape[1:])
    wide[series.rows, series.places] = rows
    return wide.cumsum(1)[series.rows, series.places]
