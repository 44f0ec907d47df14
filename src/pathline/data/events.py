"""Events of a process whose rate is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pathline.data.series import Series


class Events(NamedTuple):
    """What `sinusoidal_events` returns."""

    events: Series
    """One channel; each row is an event, its value 1."""
    phases: Tensor
    r"""``(n,)``, $\phi$ of each series."""
    level: float
    r"""$\bar\lambda$."""
    depth: float
    """$a$."""
    period: float
    """$P$."""
    end: float
    """$T$."""

    def rate(self, t: Tensor) -> Tensor:
        """The true rate of each series at times ``(T,)``: ``(T, n)``."""
        angle = 2 * math.pi * t[:, None] / self.period + self.phases
        return self.level * (1 + self.depth * angle.sin())

    def log_likelihood(self) -> Tensor:
        """Of the events of each series under the true rate, in nats, ``(n,)``."""
        times, rows, phases = self.events.times, self.events.rows, self.phases
        turn = 2 * math.pi / self.period
        each = (self.level * (1 + self.depth * (turn * times + phases[rows]).sin())).log()
        wave = (phases.cos() - (turn * self.end + phases).cos()) / turn
        total = self.level * (self.end + self.depth * wave)
        return torch.zeros_like(phases).index_add(0, rows, each) - total


def sinusoidal_events(
    n: int = 500,
    *,
    level: float = 8.0,
    depth: float = 0.8,
    period: float = 5.0,
    end: float = 10.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Events:
    r"""Times of events that come and go in waves, each series with a phase of its own. *Maturing.*

    $$\lambda(t) = \bar\lambda \left(1 + a \sin(2\pi t / P + \phi)\right), \qquad 0 \le t \le T$$

    Drawn exactly: candidates of a constant rate $\bar\lambda (1 + a)$ are kept with probability
    $\lambda(t) / \bar\lambda (1 + a)$.

    Args:
        n: Number of series.
        level: $\bar\lambda$, the mean number of events in a unit of time.
        depth: $a$, between 0 and 1.
        period: $P$.
        end: $T$.
        generator: Source of phases and events.
        dtype: Type of the values.

    Raises:
        ValueError: A number out of range.

    Example:
        >>> from pathline.data import sinusoidal_events
        >>> found = sinusoidal_events(100, generator=torch.Generator().manual_seed(0))
        >>> len(found.events), found.rate(torch.linspace(0, 10, 5)).shape
        (100, torch.Size([5, 100]))

    References:
        P. A. W. Lewis, G. S. Shedler (1979), Simulation of nonhomogeneous Poisson processes by thinning.
    """
    if not (level > 0 and 0 <= depth <= 1 and period > 0 and end > 0):
        raise ValueError(
            "`level`, `period` and `end` are positive and `depth` lies between 0 and 1, but "
            f"{level!r}, {period!r}, {end!r} and {depth!r} came."
        )
    highest = level * (1 + depth)
    phases = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    counts = torch.poisson(torch.full((n,), highest * end, dtype=torch.float64), generator=generator).long()
    rows = torch.repeat_interleave(counts)
    times = end * torch.rand(len(rows), generator=generator, dtype=torch.float64)
    rate = level * (1 + depth * (2 * math.pi * times / period + phases[rows]).sin())
    kept = highest * torch.rand(len(rows), generator=generator, dtype=torch.float64) < rate
    times, rows = times[kept], rows[kept]
    order = times.argsort()
    order = order[rows[order].argsort(stable=True)]
    lengths = torch.bincount(rows, minlength=n)
    events = Series(times[order], torch.ones(len(order), 1, dtype=dtype), lengths, channels=("event",))
    return Events(events, phases, level, depth, period, end)
