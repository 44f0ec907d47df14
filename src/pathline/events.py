"""Events: what to watch for, and how a crossing is found inside a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pathline._forward import recording
from pathline._structure import host
from pathline.roots import bracket, bracket_rows
from pathline.solvers.base import horner, spread

if TYPE_CHECKING:
    from pathline.loop import Problem
    from pathline.solvers.base import Step
    from pathline.terms import Bound

#: Where in a step the side of a crossing is looked up that begins at zero: as near as rounding lets it be seen.
INSIDE = (1e-12, 1e-9, 1e-6, 1e-3)


@dataclass(frozen=True, eq=False)
class Event:
    """Something that happens at a crossing ``g(t, y) = 0``, or at given times. *Maturing.*

    A crossing is a change of sign over a step, located on the dense output. Two roots inside one step cancel and go
    unseen: bound the step with ``PID(max_step=...)`` where that can happen. A root at the start of the solve counts
    only when it is crossed again.

    Args:
        crossing: ``g(t, y)``, ``g(t, y, args)`` or ``g(y)``, one number; on the per-sample clock one for each sample,
            ``(rows,)``.
        at: times instead, ``(n,)``; on the per-sample clock also ``(n, batch)`` or a list of one tensor a sample. They
            are hit exactly, the field starts afresh behind them, and they receive gradients.
        direction: +1 for rising crossings alone, -1 for falling ones, 0 for both, in the direction of the solve.
        terminal: whether the solve ends here; by default a crossing ends it and a given time does not.
        reset: ``reset(t, y)``, ``reset(t, y, args)`` or ``reset(y)``, the state to go on from; by default the state.
        tolerance: how far the time of a crossing may be missed, in units of time; by default a few roundings.

    Raises:
        ValueError: neither or both of ``crossing`` and ``at``, or another direction.
        TypeError: ``crossing`` or ``reset`` is no function.

    Example:
        >>> import torch, pathline
        >>> ball = lambda t, y: torch.stack([y[1], torch.full_like(y[1], -9.81)])
        >>> floor = pathline.Event(crossing=lambda t, y: y[0], direction=-1)
        >>> solution = pathline.solve(ball, torch.tensor([1.0, 0.0]), (0.0, 9.0), events={"floor": floor})
        >>> round(solution.t1.item(), 3)
        0.452

    References:
        Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, II.6; Chen, Amos, Nickel (2021),
        Learning Neural Event Functions for Ordinary Differential Equations.
    """

    crossing: Callable[..., Any] | None = None
    at: Any = None
    direction: int = 0
    terminal: bool | None = None
    reset: Callable[..., Any] | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if (self.crossing is None) == (self.at is None):
            raise ValueError("An Event has either `crossing`, a function, or `at`, times; pass one of them.")
        for name in ("crossing", "reset"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"`{name}` is a function of (t, y), (t, y, args) or (y); it is {value!r}.")
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"`direction` is +1 (rising), -1 (falling) or 0 (both); it is {self.direction!r}.")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"`tolerance` is a positive time; it is {self.tolerance!r}.")

    @property
    def ends(self) -> bool:
        """Whether the solve ends here."""
        return self.at is None if self.terminal is None else self.terminal


@dataclass
class EventRecord:
    """What happened at one event. *Maturing.*

    Attributes:
        t: ``(count,)``, when it fired; ``(most, batch)`` with one clock a sample. Differentiable.
        before, after: the states there before and after the reset, with the times first.
        count: how often it fired; ``(batch,)`` with one clock a sample.
        fired: whether it did.
        valid: shaped like ``t``, bool: which entries are real. The others repeat the end of the solve.
    """

    t: Tensor
    before: Any
    after: Any
    count: Any
    fired: Any
    valid: Tensor

    @property
    def y(self) -> Any:
        """The states after the event."""
        return self.after


@dataclass(frozen=True)
class Watch:
    """What the loop looks for in its steps.

    Attributes:
        events: all events; those with ``at`` are not looked for.
        fresh: numbers of the events that have just fired where the solve begins; with one clock a sample
            ``(batch,)`` with a bit for each event.
    """

    events: Sequence[Event]
    fresh: Any

    def shared(self, problem: Problem, args: Any, t: Any, y: Tensor) -> SharedWatch | None:
        """Of one solve on the shared clock."""
        return SharedWatch(self, problem.term, args, host(t), y) if self._crossings else None

    def rows(self, problem: Problem, args: Any) -> RowWatch | None:
        """Of one solve with a clock a sample."""
        return RowWatch(self, args) if self._crossings else None

    @property
    def _crossings(self) -> bool:
        return any(event.crossing is not None for event in self.events)


class SharedWatch:
    """The values of all crossings at the time reached, and what they were a step before."""

    def __init__(self, watch: Watch, term: Bound, args: Any, t: float, y: Tensor) -> None:
        self.events, self.args = watch.events, args
        self.numbers = [i for i, event in enumerate(watch.events) if event.crossing is not None]
        self.fresh = set(watch.fresh)
        self.found: list[int] = []
        self.recording = False
        with torch.no_grad():
            self.values = {i: self.value(i, _both_sides(term), t, y) for i in self.numbers}

    def value(self, number: int, term: Bound, t: float, y: Tensor) -> float:
        """One crossing's number."""
        g = term.apply(self.events[number].crossing, t, y, self.args)
        if isinstance(g, Tensor) and g.numel() != 1:
            raise ValueError(
                f"`crossing` returned shape {tuple(g.shape)}. On the shared clock it is one number for the whole "
                'batch; for one event a sample use clock="per-sample", or reduce it, as with min().'
            )
        _check_real(g)
        g = float(host(g))
        if math.isnan(g) and bool(torch.isfinite(y).all()):  # a state that is not finite ends the solve by itself
            raise ValueError(f"`crossing` returned NaN at t = {t:g}. It is finite wherever the solution is.")
        return g

    def look(self, term: Bound, step: Step, t0: float, t1: float, y0: Tensor) -> float | None:
        """Where in this step the first event fires; ``found`` then holds the numbers of those that fire there."""
        self.recording, term = recording(), _both_sides(term)
        with torch.no_grad():
            ends = {i: self.value(i, term, t1, step.y1) for i in self.numbers}
            roots = {}
            for i in self.numbers:
                root = self._root(i, term, step, t0, t1, y0, ends[i])
                if root is not None:
                    roots[i] = root
        self.values, self.fresh = ends, set()
        if not roots:
            return None
        first = min(roots.values(), key=lambda t: abs(t - t0))
        slack = 100 * math.ulp(max(abs(t0), abs(t1)))
        self.found = [i for i, t in roots.items() if abs(t - first) <= slack]
        return first

    def _root(self, i: int, term: Bound, step: Step, t0: float, t1: float, y0: Tensor, g1: float) -> float | None:
        def g(t: float) -> float:
            return self.value(i, term, t, step.y1 if t == t1 else self._state(step, t))

        event, start, g0 = self.events[i], t0, self.values[i]
        sign = g0
        if g0 == 0.0 or (i in self.fresh and self._still_zero(g, event, t0, t1, y0, g0)):
            sign, start, g0 = self._first_move(g, t0, t1, y0, step.y1, g0)
        if sign == 0.0 or math.isnan(sign + g1) or (event.direction and event.direction * sign > 0):
            return None
        if sign * g0 <= 0:
            return start  # back through zero within a thousandth of the step
        return None if g1 * sign > 0 else bracket(g, start, t1, g0, g1, event.tolerance or 0.0)

    def _state(self, step: Step, t: float) -> Tensor:
        """Dense output; a stage that it evaluates belongs to the step, and to the step's recording."""
        with torch.set_grad_enabled(self.recording):
            return step.rows([t])[0].detach()

    def _still_zero(
        self, g: Callable[[float], float], event: Event, t0: float, t1: float, y0: Tensor, g0: float
    ) -> bool:
        """Whether a crossing that has just fired stands where rounding left it, or a reset has moved it away."""
        near = 64 * torch.finfo(y0.dtype).eps * y0.abs().max().item()
        ahead = INSIDE[-1] * (t1 - t0)
        slope = abs((g(t0 + ahead) - g0) / ahead)
        return abs(g0) <= near + slope * (8 * math.ulp(t0) + (event.tolerance or 0.0))

    def _first_move(
        self, g: Callable[[float], float], t0: float, t1: float, y0: Tensor, y1: Tensor, g0: float
    ) -> tuple[float, float, float]:
        """Of a crossing that begins at zero, but for rounding: its first move, where it shows, and the value there."""
        eps = 64 * torch.finfo(y0.dtype).eps
        near, far = (eps * y.abs().max().item() for y in (y0, y1))
        sign, start, value = 0.0, t0, g0
        for part in INSIDE:
            start = t0 + part * (t1 - t0)
            value = g(start)
            sign = sign or (value - g0 if abs(value - g0) > near + part * far else 0.0)
            if sign * value > 0:
                break
        return sign, start, value


class RowWatch:
    """The same for every active sample; the events of a row are the bits of a whole number."""

    def __init__(self, watch: Watch, args: Any) -> None:
        self.events, self.args = watch.events, args
        self.numbers = [i for i, event in enumerate(watch.events) if event.crossing is not None]
        self.fresh: Tensor = watch.fresh
        self.values: dict[int, Tensor] = {}
        self.recording = False

    def start(self, term: Bound, t: Tensor, y: Tensor) -> None:
        """The values where the solve begins."""
        with torch.no_grad():
            self.values = {i: self.value(i, _both_sides(term), t, y) for i in self.numbers}

    def select(self, keep: Tensor) -> None:
        """Drop all other rows."""
        self.values = {i: g[keep] for i, g in self.values.items()}
        self.fresh = self.fresh[keep]

    def value(self, number: int, term: Bound, t: Tensor, y: Tensor) -> Tensor:
        """One crossing's numbers, ``(rows,)``."""
        return crossing_of(self.events[number], term, t, y, self.args)

    def look(
        self, term: Bound, step: Any, t0: Tensor, t1: Tensor, y0: Tensor, accepted: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Which events fire in each row (-1 where none does), and where the first of them does; None if none at all."""
        self.recording = recording()
        with torch.no_grad():
            event, end = self._look(_both_sides(term), step, t0.detach(), t1.detach(), y0, accepted)
        return event, None if end is None else end.detach()  # `no_grad` holds back no tangent

    def _look(
        self, term: Bound, step: Any, t0: Tensor, t1: Tensor, y0: Tensor, accepted: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        moved = torch.ones_like(t0, dtype=torch.bool)
        if accepted is not None:
            moved = torch.zeros_like(moved).index_fill(0, accepted, True)
        y1 = torch.where(moved.reshape(-1, *(1,) * (y0.dim() - 1)), step.y1, y0)
        end = torch.where(moved, t1, t0)
        ends = {i: self.value(i, term, end, y1) for i in self.numbers}
        roots = [self._roots(i, term, step, t0, t1, y0, ends[i], moved) for i in self.numbers]
        self.values = ends
        self.fresh = torch.where(moved, 0, self.fresh)
        if not any(root is not None for root in roots):
            return None, None
        never = torch.full_like(t0, math.inf)
        ahead = torch.stack([never if root is None else (root - t0).abs() for root in roots])
        first, which = ahead.min(0)
        slack = 100 * torch.finfo(t0.dtype).eps * torch.maximum(t0.abs(), t1.abs())
        bits = sum(((a <= first + slack).long() << i for i, a in zip(self.numbers, ahead, strict=True)), which * 0)
        fired = torch.isfinite(first)
        time = torch.stack([t1 if root is None else root for root in roots]).gather(0, which[None])[0]
        return torch.where(fired, bits, -1), torch.where(fired, time, end)

    def _roots(
        self, i: int, term: Bound, step: Any, t0: Tensor, t1: Tensor, y0: Tensor, g1: Tensor, moved: Tensor
    ) -> Tensor | None:
        event, g0 = self.events[i], self.values[i]
        fresh = moved & ((self.fresh >> i) & 1).bool()
        begins = moved & (g0 == 0)
        if bool(fresh.any()):
            row = fresh.nonzero()[:, 0]
            begins = begins.index_put((row,), begins[row] | self._still_zero(i, term, step, row, t0, t1, y0))
        sign, low, glow = g0, t0, g0
        if bool(begins.any()):
            row = begins.nonzero()[:, 0]
            moves = self._first_move(i, term, step, row, t0, t1, y0)
            sign, low, glow = (x.index_copy(0, row, y) for x, y in zip((sign, low, glow), moves, strict=True))
        watched = moved & (sign != 0)
        if event.direction:
            watched &= event.direction * sign < 0
        again = watched & (sign * glow <= 0)  # back through zero within a thousandth of the step
        crossed = watched & ~again & (g1 * sign <= 0)
        if not bool((crossed | again).any()):
            return None
        roots = torch.where(again, low, torch.full_like(t0, math.inf))
        row = crossed.nonzero()[:, 0]
        if len(row):
            g = self._inside(i, term, step, row, t0, t1)
            found = bracket_rows(g, low[row], t1[row], glow[row], g1[row], event.tolerance or 0.0)
            roots = roots.index_copy(0, row, found)
        return roots

    def _still_zero(self, i: int, term: Bound, step: Any, row: Tensor, t0: Tensor, t1: Tensor, y0: Tensor) -> Tensor:
        """Whether crossings that have just fired stand where rounding left them, or a reset has moved them away."""
        g0 = self.values[i][row]
        near = 64 * torch.finfo(y0.dtype).eps * _largest(y0[row], t0)
        ahead = INSIDE[-1] * (t1 - t0)[row]
        slope = ((self._inside(i, term, step, row, t0, t1)(t0[row] + ahead) - g0) / ahead).abs()
        room = 8 * torch.finfo(t0.dtype).eps * t0[row].abs() + (self.events[i].tolerance or 0.0)
        return g0.abs() <= near + slope * room

    def _first_move(
        self, i: int, term: Bound, step: Any, row: Tensor, t0: Tensor, t1: Tensor, y0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of crossings that begin at zero: their first move, where it shows, and the value there."""
        g, begin = self._inside(i, term, step, row, t0, t1), self.values[i][row]
        near, far = (64 * torch.finfo(y0.dtype).eps * _largest(y[row], t0) for y in (y0, step.y1))
        sign, shown = torch.zeros_like(begin), torch.zeros_like(row, dtype=torch.bool)
        start, value = t0[row], begin
        for part in INSIDE:
            here = t0[row] + part * (t1 - t0)[row]
            inside = g(here)
            move = inside - begin
            sign = torch.where((sign == 0) & (move.abs() > near + part * far), move, sign)
            start, value = torch.where(shown, start, here), torch.where(shown, value, inside)
            shown = shown | (sign * value > 0)
        return sign, start, value

    def _inside(
        self, i: int, term: Bound, step: Any, row: Tensor, t0: Tensor, t1: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """The crossing as a function of times inside the steps of some rows."""
        with torch.set_grad_enabled(self.recording):  # a stage that this evaluates belongs to the step
            curve = step.coefficients(row).detach()
        some = term.select(row)
        start, length = t0[row], (t1 - t0)[row]

        def g(t: Tensor) -> Tensor:
            return self.value(i, some, t, horner(curve, spread((t - start) / length, curve[0])))

        return g


def _both_sides(term: Bound) -> Bound:
    """The term with the times as they are: a crossing that changes sign at a jump would be missed from either side."""
    return term.between(-math.inf, math.inf)


def _largest(y: Tensor, like: Tensor) -> Tensor:
    """The largest size of a component in each row."""
    return y.abs().reshape(len(y), -1).amax(1).to(like.dtype)


def _check_real(g: Any) -> None:
    number = g.is_floating_point() if isinstance(g, Tensor) else isinstance(g, float | int) and not isinstance(g, bool)
    if not number:
        came = g.dtype if isinstance(g, Tensor) else type(g).__name__
        raise TypeError(
            f"`crossing` returned {came}. It is a real number whose sign changes at the event: y - 1, not y > 1."
        )


def event_times(at: Any) -> Tensor:
    """``Event(at=...)`` as a tensor; what requires grad keeps it."""
    try:
        if isinstance(at, list | tuple) and any(isinstance(x, Tensor) for x in at):
            at = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in at])
        at = at if isinstance(at, Tensor) else torch.as_tensor(at, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"`at` is a tensor of times, or numbers; it is {at!r}. Pass [0.5, 1.0], for example.") from None
    if at.is_complex() or at.dtype == torch.bool:
        raise TypeError(f"`at` is real; it has dtype {at.dtype}. Pass at.real or at.float().")
    return at


def crossing_of(event: Event, term: Bound, t: Tensor, y: Tensor, args: Any) -> Tensor:
    """The crossing of each row, ``(rows,)``, in double precision."""
    g = term.apply(event.crossing, t, y, args)
    if not isinstance(g, Tensor) or g.numel() != len(y) or len(g) != len(y):
        came = tuple(g.shape) if isinstance(g, Tensor) else type(g).__name__
        raise ValueError(
            f"`crossing` returned {came} for {len(y)} samples. On the per-sample clock it is one number for each of "
            "them, (rows,)."
        )
    _check_real(g)
    g = g.reshape(-1).to(t.dtype)
    if bool((torch.isnan(g) & torch.isfinite(y.detach().reshape(len(y), -1)).all(1)).any()):
        raise ValueError(f"`crossing` returned NaN near t = {float(t[0]):g}. It is finite wherever the solution is.")
    return g
