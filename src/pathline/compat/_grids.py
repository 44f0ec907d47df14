"""The original's grids: steps of one length, grids made by a function, perturbed ends, chords between the points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathline._structure import host
from pathline.compat._errors import require
from pathline.controllers import Controller, GridClock, Setting, distinct

#: Steps of a solve that an event will end.
ENDLESS = 2**62


class _Clock(GridClock):
    """Fixed steps that nobody looks at: infinite and NaN states are returned, as the original does."""

    measures = True


@dataclass(frozen=True)
class Steps(Controller):
    """Fixed steps on the requested times, of a given length, or on the grid of a function of the times.

    Args:
        length: of a step; the last one is shorter. The first time may be a tensor whose gradient moves the grid.
        grid: a function of ``(field, y0, t)``.
        like: the dtype in which the original computes its grid: that of ``t``.
        rate: the field on flat states, for ``grid``.
        ends: one step over the whole span, for a method that makes its own.
    """

    length: float | None = None
    grid: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    like: torch.dtype = torch.float64
    rate: Callable[[Any, Tensor], Tensor] | None = None
    ends: bool = False

    @property
    def exact_times(self) -> bool:
        """The steps follow the requested times."""
        return not self.ends

    def clock(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> GridClock:
        """A clock over the steps."""
        if self.ends:
            times = [setting.times[0], setting.times[-1]]
        elif self.grid is not None:
            times = self._made(setting.times, y0)
        elif self.length is None:
            times = distinct(setting.times)
        else:
            first, last = setting.times[0], setting.times[-1]
            if math.isinf(host(last)):
                stride = math.copysign(self.length, host(last))
                return _Clock(ENDLESS, lambda k: first + k * stride)
            times = self._equal(first, last)
        return _Clock(len(times) - 1, times.__getitem__)

    def _equal(self, first: Any, last: Any) -> list[Any]:
        ends = torch.tensor([host(first), host(last)], dtype=self.like)
        assert self.length is not None
        count = int(torch.ceil((ends[1] - ends[0]).abs() / self.length + 1).item())
        # In the dtype of `t`, so that rounding yields the original's number of steps.
        offsets = (torch.arange(count, dtype=self.like) * self.length).tolist()
        sign, span = (1.0 if host(last) >= host(first) else -1.0), abs(host(last) - host(first))
        return [first, *(first + sign * offset for offset in offsets[1:-1] if offset < span), last]

    def _made(self, times: Sequence[Any], y0: Tensor) -> list[Any]:
        assert self.grid is not None
        moving = isinstance(times[0], Tensor)
        t = torch.stack(list(times)) if moving else torch.tensor(times, dtype=torch.float64, device=y0.device)
        made = self.grid(self.rate, y0, t.to(self.like))
        grid = list(made.double().unbind()) if moving else made.tolist()
        require(
            host(grid[0]) == host(times[0]) and host(grid[-1]) == host(times[-1]),
            f"`grid_constructor` returns times from t[0] = {host(times[0]):g} to t[-1] = {host(times[-1]):g}; its grid "
            f"runs from {host(grid[0]):g} to {host(grid[-1]):g}.",
        )
        return [times[0], *grid[1:-1], times[-1]]


class _Wrapped:
    """A solver that makes another one's steps with a difference."""

    def __init__(self, solver: Any) -> None:
        self.solver = solver

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["solver"], name)


class Perturbed(_Wrapped):
    """No stage sees the ends of its step: they are moved inwards to the neighbouring times of the state's dtype."""

    carries_slope = False

    def init(self, term: Any, t0: Any, y0: Tensor, args: Any) -> None:
        """A slope at the first time would be seen at a grid point."""
        return

    def step(self, term: Any, t0: Any, t1: Any, y: Tensor, args: Any, carry: Any) -> Any:
        """One step, within its own ends."""
        inside = [_beside(term.dtype, host(a), host(b)) for a, b in ((t0, t1), (t1, t0))]
        if isinstance(t0, Tensor) or isinstance(t1, Tensor):  # times that carry a gradient are moved themselves
            t0, t1 = t0 + (inside[0] - host(t0)), t1 + (inside[1] - host(t1))
            return self.solver.step(term, t0, t1, y, args, None)
        return self.solver.step(term.between(min(inside), max(inside)), t0, t1, y, args, None)


class Chords(_Wrapped):
    """Values between the grid points lie on straight lines, the original's ``interp="linear"``."""

    dense_order = 1

    def init(self, term: Any, t0: Any, y0: Tensor, args: Any) -> Any:
        """That of the other solver."""
        return self.solver.init(term, t0, y0, args)

    def step(self, term: Any, t0: Any, t1: Any, y: Tensor, args: Any, carry: Any) -> Any:
        """One step; its rows lie on the chord."""
        return _Chord(self.solver.step(term, t0, t1, y, args, carry), t0, t1, y)


class _Chord:
    def __init__(self, step: Any, t0: Any, t1: Any, y0: Tensor) -> None:
        self.step, self.t0, self.t1, self.y0 = step, t0, t1, y0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["step"], name)

    def coefficients(self, rows: Any = None) -> Tensor:
        """Of degree one in theta."""
        return torch.stack([self.y0, self.step.y1 - self.y0])

    def rows(self, times: Any) -> Tensor:
        """On the straight line between both ends."""
        t = torch.as_tensor(times, dtype=torch.float64)
        theta = ((t - self.t0) / (self.t1 - self.t0)).to(self.y0).reshape(-1, *(1,) * self.y0.dim())
        return self.y0 + theta * (self.step.y1 - self.y0)


def _beside(dtype: torch.dtype, t: float, other: float) -> float:
    """The neighbour of ``t`` towards ``other``."""
    here = torch.tensor(t, dtype=dtype)
    return torch.nextafter(here, torch.tensor(other, dtype=dtype)).item()
