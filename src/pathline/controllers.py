"""Controllers: how long the next step is, and whether the last one counts.

A controller is a frozen description. For each solve it makes a clock, which proposes the end of the next step and
judges the step that came back. Times are Python floats in double precision whatever the dtype of the state; a clock for
fixed steps may hold 0-d tensors instead, where derivatives with respect to times are wanted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pathline._structure import host
from pathline.row_clocks import CREEPING, RowGrid, RowPID
from pathline.status import Status
from pathline.tolerance import Tolerance

if TYPE_CHECKING:
    from pathline.solvers.base import Solver, Step
    from pathline.terms import Bound, Time


@dataclass(frozen=True)
class Setting:
    """What a clock is told about its solve; ``times`` is a sequence, or ``(n, batch)`` on the per-sample clock."""

    term: Bound
    solver: Solver
    times: Any


class Clock(Protocol):
    """The time of one solve: the loop asks for the next end, makes the step, and asks for a verdict.

    Attributes:
        t: the time reached.
        done: whether that is the end.
        failure: why no further step can be made, else None.
        measures: whether a verdict has looked at the step, so that an infinite or NaN state cannot pass.
    """

    @property
    def t(self) -> Time: ...
    @property
    def done(self) -> bool: ...
    @property
    def failure(self) -> Status | None: ...
    @property
    def measures(self) -> bool: ...

    def propose(self) -> Time:
        """The end of the next step."""
        ...

    def judge(self, y0: Tensor, step: Step) -> bool:
        """Whether the step counts; moves the time on if it does."""
        ...

    def sided(self, term: Bound) -> Bound:
        """The term as this step may see it: next to a jump, its own side only."""
        ...


class Controller(ABC):
    """Makes the clock of a solve. *Maturing.*"""

    @property
    def exact_times(self) -> bool:
        """Whether the steps are a function of the requested times.

        Derivatives with respect to these times are then those of the discrete map; else they are continuous,
        ``dL/dt_i = <g_i, f(t_i, y_i)>``.
        """
        return False

    @abstractmethod
    def clock(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> Clock:
        """The clock of one solve that starts from ``y0`` with the solver's first ``carry``."""

    def rows(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> RowGrid | RowPID:
        """The clocks of the samples, where each has its own; ``setting.times`` is ``(n, batch)``."""
        raise ValueError(f"{type(self).__name__} has no clock for each sample. Use PID(), FixedStep(dt) or Grid().")


# --- fixed steps -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedStep(Controller):
    """``N = ceil(|t1 - t0| / dt)`` equal steps, so that the last one ends on ``t1`` exactly.

    Args:
        dt: the longest step, positive, in units of time.

    Raises:
        ValueError: ``dt`` is not a positive number.
    """

    dt: float

    def __post_init__(self) -> None:
        if not (isinstance(self.dt, int | float) and 0 < self.dt < math.inf):
            raise ValueError(f"`dt` is a positive number; it is {self.dt!r}. The sign of time follows from `t`.")

    @property
    def exact_times(self) -> bool:
        """Both ends of the grid are requested times."""
        return True

    def clock(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> GridClock:
        """A clock over the equal steps."""
        t0, t1 = setting.times[0], setting.times[-1]
        # A span in float32 may exceed the intended number of steps by rounding: 0.3 / 0.1 is 3, not 4.
        n = math.ceil(abs(host(t1) - host(t0)) / self.dt * (1 - 1e-6))
        return GridClock(n, lambda k: t0 if k == 0 else t1 if k == n else t0 + (t1 - t0) * (k / n))

    def rows(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> RowGrid:
        """A clock over equal steps for each sample."""
        t0, t1 = setting.times[0], setting.times[-1]
        with torch.no_grad():
            n = torch.ceil((t1 - t0).abs() / self.dt * (1 - 1e-6))
        return RowGrid(n.long(), lambda k: torch.where(k >= n, t1, t0 + (t1 - t0) * (k / n.clamp(min=1))))


@dataclass(frozen=True)
class Grid(Controller):
    """Steps between given times.

    Args:
        times: the ends of the steps, monotone, from the first requested time to the last; None takes the requested
            times themselves.
    """

    times: Sequence[float] | Tensor | None = None

    @property
    def exact_times(self) -> bool:
        """True where the requested times are the grid."""
        return self.times is None

    def clock(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> GridClock:
        """A clock over the given times."""
        if self.times is None:
            times = distinct(setting.times)
            return GridClock(len(times) - 1, times.__getitem__)
        grid = [float(host(t)) for t in self.times]
        first, last = host(setting.times[0]), host(setting.times[-1])
        sign = math.copysign(1.0, last - first)
        rising = all((b - a) * sign > 0 for a, b in pairwise(grid))
        if len(grid) < 2 or not rising or grid[0] != first or grid[-1] != last:
            raise ValueError(
                f"`Grid(times)` runs strictly from the first requested time to the last, {first:g} to {last:g}; "
                f"it has {len(grid)} times{f' from {grid[0]:g} to {grid[-1]:g}' if grid else ''}."
            )
        return GridClock(len(grid) - 1, grid.__getitem__)

    def rows(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> RowGrid:
        """A clock over the given times of each sample, or over those of all."""
        times = setting.times
        if self.times is not None:
            given = torch.as_tensor(self.times, dtype=times.dtype, device=times.device)
            grid = given[:, None].expand(-1, times.shape[1]) if given.dim() == 1 else given
            if not (torch.equal(grid[0], times[0]) and torch.equal(grid[-1], times[-1])):
                raise ValueError(
                    "`Grid(times)` runs from the first requested time of every sample to its last; pass `(n, batch)` "
                    "where these differ, or Grid() for the requested times themselves."
                )
            times = grid
        with torch.no_grad():
            new = torch.cat([torch.ones_like(times[:1], dtype=torch.bool), times[1:] != times[:-1]])
            steps = new.sum(0) - 1
            places = torch.cumsum(new, 0) - 1
            slots = torch.full_like(places, len(times) - 1)
            first = new.nonzero()
            slots[places[first[:, 0], first[:, 1]], first[:, 1]] = first[:, 0]
        samples = torch.arange(times.shape[1], device=times.device)
        return RowGrid(steps, lambda k: times[slots[min(k, len(slots) - 1)], samples])


@dataclass(frozen=True)
class Whole(Grid):
    """One step from the first requested time to the last, for a method that chooses its own steps inside."""

    @property
    def exact_times(self) -> bool:
        """Its inner steps follow the error."""
        return False

    def clock(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> GridClock:
        """A clock of one step."""
        ends = [setting.times[0], setting.times[-1]]
        return GridClock(1, ends.__getitem__)


def distinct(times: Sequence[Time]) -> list[Time]:
    """The times without repeats."""
    return [t for i, t in enumerate(times) if i == 0 or host(t) != host(times[i - 1])]


class GridClock:
    """Fixed steps: every step counts.

    Args:
        steps: their number.
        at: ``at(k)``, the time before step ``k``; a tensor where derivatives with respect to times are wanted.
    """

    measures = False

    def __init__(self, steps: int, at: Callable[[int], Time]) -> None:
        self.steps, self.at = steps, at
        self.index = 0
        self.t = at(0)
        self.done = steps == 0
        self.failure: Status | None = None

    def propose(self) -> Time:
        """The end of the next step."""
        self.target = self.at(self.index + 1)
        return self.target

    def judge(self, y0: Tensor, step: Step) -> bool:
        """Every step counts that could be made."""
        if step.failed:
            self.failure = getattr(step, "status", None) or reason(step)
            return False
        self.index += 1
        self.t = self.target
        self.done = self.index == self.steps
        return True

    def sided(self, term: Bound) -> Bound:
        """Fixed steps know no jumps."""
        return term


# --- adaptive steps ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PID(Controller):
    """Step sizes from the error estimate.

    With the error ratio ``r_n = |error / (atol + rtol max(|y0|, |y1|))|`` (a step counts when ``r_n <= 1``) and
    ``k = embedded order + 1`` the next step is ``h safety r_n^(-(p+i+d)/k) r_(n-1)^((p+2d)/k) r_(n-2)^(-d/k)``, within
    ``[shrink, grow]`` times the last. *Stable.*

    Args:
        first_step: the first step, positive, on the per-sample clock perhaps one for each sample; by default Hairer's
            rule, which costs one evaluation.
        min_step: a tolerance that asks for less is a failure (with ``force_min_step`` such a step counts all the same).
        max_step: no step is longer.
        norm: maps the scaled error, in the structure of the state, to a number; by default the root mean square.
        must_hit: times at which a step must end.
        jumps: times at which the field jumps: a step ends there, the next one starts afresh, and no stage sees the
            other side.
        p, i, d: proportional, integral and derivative gain; by default those of the method, mostly (0, 1, 0), the
            classical controller. (0.4, 0.3, 0) is a cautious PI controller for fields that are nearly stiff.
        safety, shrink, grow: safety factor, and the limits of the change of a step.
        force_min_step: accept steps of ``min_step`` whatever their error.

    Raises:
        ValueError: a step is not positive, or ``min_step > max_step``.

    References:
        Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, II.4; Soederlind (2003), Digital
        filters in adaptive time-stepping.
    """

    first_step: float | Tensor | None = None
    min_step: float | None = None
    max_step: float | None = None
    norm: Callable[[Any], Tensor | float] | None = None
    must_hit: Sequence[float] | Tensor | None = None
    jumps: Sequence[float] | Tensor | None = None
    p: float | None = None
    i: float | None = None
    d: float | None = None
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0
    force_min_step: bool = False

    def __post_init__(self) -> None:
        for name in ("first_step", "min_step", "max_step"):
            value = getattr(self, name)
            least = value.min() if isinstance(value, Tensor) and value.numel() else value
            if least is not None and not float(least) > 0:
                raise ValueError(f"`{name}` is positive; it is {value!r}. The sign of time follows from `t`.")
        if self.min_step is not None and self.max_step is not None and self.min_step > self.max_step:
            raise ValueError(f"`min_step` is at most `max_step`; they are {self.min_step} and {self.max_step}.")
        if not (0 < self.safety <= 1 and 0 < self.shrink < 1 < self.grow):
            raise ValueError(
                "`safety` lies in (0, 1], `shrink` in (0, 1), `grow` above 1; "
                f"they are {self.safety}, {self.shrink}, {self.grow}."
            )
        if isinstance(self.jumps, Tensor) and self.jumps.requires_grad:
            raise ValueError("`jumps` requires grad, and gradients to the times of jumps are not offered: detach it.")

    def clock(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> PIDClock:
        """The clock of one solve."""
        return PIDClock(self, setting, y0, args, carry)

    def rows(self, setting: Setting, y0: Tensor, args: Any, carry: Any) -> RowPID:
        """A clock for each sample."""
        return RowPID(self, setting, y0, args, carry)

    def gains(self, solver: Solver) -> list[float]:
        """Proportional, integral and derivative gain: those given, else those of the method."""
        own = getattr(solver, "gains", (0.0, 1.0, 0.0))
        return [b if a is None else a for a, b in zip((self.p, self.i, self.d), own, strict=True)]


class PIDClock:
    """Adaptive steps on one shared clock of host floats."""

    measures = True

    def __init__(self, config: PID, setting: Setting, y0: Tensor, args: Any, carry: Any) -> None:
        self.config, self.setting = config, setting
        self._tolerance = setting.term.tolerance or Tolerance(0.0, 1.0)
        self.t, self.end = host(setting.times[0]), host(setting.times[-1])
        self.sign = 1.0 if self.end >= self.t else -1.0
        self.done = self.t == self.end
        self.failure: Status | None = None
        self.jumps = self._inside(config.jumps)
        self.stops = sorted({*self.jumps, *self._inside(config.must_hit), self.end}, key=self._ahead)
        self.gains = config.gains(setting.solver)
        self.exponent = 1.0 / ((setting.solver.embedded_order or 0) + 1)
        self.deadband = getattr(setting.solver, "deadband", 1.0)
        self.ratios = [1.0, 1.0]
        self.max_step = float(config.max_step or math.inf)
        self.min_step = float(config.min_step or 0.0)
        self.rejected = False
        self.target = self.t
        self.start = self.t
        self.hopeless = False
        self.dt = 0.0 if self.done else min(max(self._first_step(y0, args, carry), self.min_step), self.max_step)
        self.resolution = 10 * math.ulp(self.dt)
        self.creeping = 0

    def _ahead(self, t: float) -> float:
        return t * self.sign

    def _inside(self, times: Sequence[float] | Tensor | None) -> list[float]:
        found = [] if times is None else [float(t) for t in times]
        return [t for t in found if 0 < (t - self.t) * self.sign < (self.end - self.t) * self.sign]

    # --- proposing

    def propose(self) -> float:
        """The end of the next step: the stop ahead, or a step of the chosen length."""
        stop = self.stops[bisect_right(self.stops, self._ahead(self.t), key=self._ahead)]
        left = abs(stop - self.t)
        # Within a hundredth of the stop the step is stretched to it: a sliver would cost as much as a step.
        reached = self.dt >= left * 0.99 and left <= self.max_step
        self.target = stop if reached else self.t + self.sign * self.dt
        if self.target == self.t:  # a step below the resolution of the time
            self.target = math.nextafter(self.t, stop)
        return self.target

    def sided(self, term: Bound) -> Bound:
        """Next to a jump the term sees its own side only."""
        if not self.jumps or not (self.t in self.jumps or self.target in self.jumps):
            return term
        inside = {
            end: towards(end, other, term.dtype) if end in self.jumps else end
            for end, other in ((self.t, self.target), (self.target, self.t))
        }
        return term.between(min(inside.values()), max(inside.values()))

    # --- judging

    def judge(self, y0: Tensor, step: Step) -> bool:
        """Compare the error estimate with the tolerance, and choose the next length."""
        config = self.config
        h = abs(self.target - self.t)
        ratio = math.inf if step.failed else self._ratio(y0, step)
        forced = config.force_min_step and h <= self.min_step * (1 + 1e-9) and math.isfinite(ratio)
        exponent = getattr(step, "exponent", None) or self.exponent
        if not (ratio <= 1.0 or forced) or self.creeping >= CREEPING:
            return self._reject(h, ratio, exponent, step)
        factor = getattr(step, "factor", None)
        factor = self._factor(ratio, exponent) if factor is None else float(factor)
        self.ratios = [self.ratios[1], max(ratio, 1e-10)]
        if self.rejected:
            factor = min(factor, 1.0)
        if 1.0 <= factor < self.deadband:
            factor = 1.0
        # A step that a stop cut short says little: the length before the cut stands.
        grown = h * factor if h >= self.dt * 0.99 else max(h * factor, min(self.dt, h * config.grow))
        # Where the whole span is but a few roundings, steps of one rounding are all there is.
        ulp = math.ulp(self.target)
        least = 10 * ulp if abs(self.end - self.target) > 1e7 * ulp else 0.0
        self.dt = min(max(grown, least, self.min_step), self.max_step)
        self.creeping = self.creeping + 1 if least and max(h, self.dt) <= least + ulp else 0
        self.rejected = False
        self.t = self.target
        self.done = self.t == self.end
        return True

    def _reject(self, h: float, ratio: float, exponent: float, step: Step) -> bool:
        config = self.config
        finite = math.isfinite(ratio)
        factor = min(max(config.safety * ratio**-exponent, config.shrink), 1.0) if finite else config.shrink
        floor = max(self.min_step, 10 * math.ulp(self.t), self.resolution)
        # The end of a step is rounded: one of the least length may be longer than that by an ulp.
        shortest = floor * (1 + 1e-9) + math.ulp(max(abs(self.t), abs(self.target)))
        if h <= shortest or self.hopeless or self.creeping >= CREEPING:
            # A finite state with an infinite ratio is the tolerance's doing, not the field's.
            tight = finite or bool(torch.isfinite(step.y1).all())
            self.failure = reason(step) if step.failed else Status.STEP_UNDERFLOW if tight else Status.NON_FINITE
        self.dt = max(h * min(factor, 0.999), floor)
        self.rejected = True
        return False

    def _factor(self, ratio: float, k: float) -> float:
        config = self.config
        (p, i, d), (before, last) = self.gains, self.ratios
        if ratio == 0.0:
            return config.grow
        factor = config.safety * ratio ** -((p + i + d) * k)
        factor *= last ** ((p + 2 * d) * k) * before ** -(d * k)
        return min(max(factor, config.shrink), config.grow)

    def _ratio(self, y0: Tensor, step: Step) -> float:
        ratio = getattr(step, "ratio", None)
        if ratio is not None:
            return ratio.detach().item()
        error = step.error
        if error is None:
            return 0.0
        with torch.no_grad():
            scale = self._tolerance.scale(y0, step.y1)
            if isinstance(error, Tensor):
                return self._norm(error / scale)
            # Estimates of orders 5 and 3 combine to one that falls like h^8 (Hairer, Norsett, Wanner, II.10).
            fine, coarse = (self._norm(e / scale) for e in error)
            return fine * fine / math.hypot(fine, 0.1 * coarse) if fine else 0.0

    def _norm(self, scaled: Tensor) -> float:
        if self.config.norm is not None:
            return float(self.config.norm(self.setting.term.structure.unravel(scaled)))
        return self._tolerance.norm(scaled)  # pyright: ignore[reportReturnType]

    # --- the first step

    def _first_step(self, y0: Tensor, args: Any, carry: Any) -> float:
        span = abs(self.end - self.t)
        given = self.config.first_step
        if isinstance(given, Tensor) and given.numel() != 1:
            raise ValueError(
                f"`first_step` has shape {tuple(given.shape)}; on the shared clock it is one number. A step for each "
                'sample needs clock="per-sample".'
            )
        if given is not None:
            return min(float(given), span)
        setting = self.setting
        own = getattr(setting.solver, "first_step", None)
        if own is not None and (length := own()) is not None:
            return length
        if setting.solver.needs == "contract":
            raise ValueError(
                f'The first step cannot be chosen for "{setting.solver.name}", whose term has no rate dy/dt. '
                "Set controller=PID(first_step=...)."
            )
        with torch.no_grad():
            term = setting.term
            f0 = carry.detach() if setting.solver.carries_slope else term.rate(self.t, y0, args)
            scale = self._tolerance.scale(y0, y0)
            d0, d1 = self._norm(y0 / scale), self._norm(f0 / scale)
            if not math.isfinite(d1):
                self.hopeless = not bool(torch.isfinite(f0).all())  # no step from here can be finite
                return span if self.hopeless else min(1e-6, span)
            h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
            h0 = min(h0, span)
            f1 = term.rate(self.t + self.sign * h0, y0 + (self.sign * h0) * f0, args)
            d2 = self._norm((f1 - f0) / scale) / h0
        steepest = max(d1, d2)
        if not math.isfinite(steepest):
            return h0
        h1 = max(1e-6, h0 * 1e-3) if steepest <= 1e-15 else (0.01 / steepest) ** self.exponent
        return min(100 * h0, h1, span)


def reason(step: Step) -> Status:
    """Why an implicit step could not be made: the field is to blame where it returned numbers that are not finite."""
    return Status.NON_FINITE if getattr(step, "lost", None) is not None else Status.NEWTON


def towards(t: float, other: float, dtype: torch.dtype) -> float:
    """The neighbour of ``t`` in ``dtype`` on the side of ``other``."""
    here = torch.tensor(t, dtype=torch.float64)
    neighbour = here.to(dtype)
    goal = torch.tensor(other, dtype=dtype)
    while (neighbour - t) * math.copysign(1.0, other - t) <= 0:
        neighbour = torch.nextafter(neighbour, goal)
    return neighbour.item()
