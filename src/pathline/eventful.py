"""Solves with events: one plain solve from event to event, glued by what happens there.

Every stretch is differentiated by the solve's own gradient. The time of a crossing gets its derivative from the
implicit function theorem: with ``G(t) = g(t, y(t))``, ``dt = -dg / G'``. The next stretch then starts at a time that
carries a gradient, as any start may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pathline._forward import moves, recording
from pathline._structure import host
from pathline.controllers import PID, FixedStep, Grid, towards
from pathline.events import Event, EventRecord, Watch, event_times
from pathline.gradients.base import Gradient, Kept, move
from pathline.gradients.inputs import transforming
from pathline.loop import Problem, Result
from pathline.saving import Keeper
from pathline.status import Status
from pathline.times import Times

#: An event that fires again within this part of the span, twice in a row, fires infinitely often.
ZENO = 1e-9


def solve_eventful(
    differentiate: Gradient,
    problem: Problem,
    y0: Tensor,
    times: Times,
    args: Any,
    f: Any,
    events: dict[Any, Event],
) -> Kept:
    """Solve on the shared clock, from event to event."""
    return _Drive(differentiate, problem, times, args, f, events).go(y0)


@dataclass
class _Firing:
    t: Tensor
    before: Tensor
    after: Tensor


@dataclass
class _Merged:
    """What the stretches have given so far."""

    columns: list[list[Tensor]] = field(default_factory=list)
    curves: list[Tensor] = field(default_factory=list)
    pieces: list[Any] = field(default_factory=list)
    step_times: list[float] = field(default_factory=list)
    spec: Any = None

    def add(self, leaves: Sequence[Tensor]) -> None:
        """Append rows, a tensor for each leaf."""
        if not self.columns:
            self.columns = [[] for _ in leaves]
        for column, leaf in zip(self.columns, leaves, strict=True):
            column.append(leaf)


class _Drive:
    """One solve: where it stands, what is still to come."""

    def __init__(
        self, differentiate: Gradient, problem: Problem, times: Times, args: Any, f: Any, events: dict[Any, Event]
    ) -> None:
        self.differentiate, self.problem, self.times, self.args, self.f = differentiate, problem, times, args, f
        self.names, self.events = list(events), list(events.values())
        self.firings: list[list[_Firing]] = [[] for _ in self.events]
        self.start, self.end = problem.times[0], problem.times[-1]
        self.sign = 1.0 if self.end >= self.start else -1.0
        self.queue = given_times(self.events, self.start, self.end, self.sign)
        #: The start of the next stretch where it carries a gradient.
        self.moving = None if times.moving is None else times.moving[0]
        self.served = 0
        self.merged = _Merged()
        self.fresh: list[int] = []
        self.step: float | None = None
        self.gaps = [0] * len(self.events)

    def go(self, y: Tensor) -> Kept:
        """Stretch after stretch."""
        status, result = Status.SUCCESS, None
        while True:
            y, ended = self._given(y)
            if ended:
                status = Status.EVENT
                break
            goal = self.queue[0][0] if self.queue else self.end
            last = not self.queue
            kept = self._stretch(y, goal, last)
            y, result = kept.y1, kept.result
            if result.status is Status.EVENT:
                y, ended = self._crossed(y, result)
                status = Status.ZENO if self._accumulates(result.event) else Status.EVENT
                if ended or not status:
                    break
            elif not result.status:
                status = result.status
                self.start, self.moving = result.t1, None
                break
            else:
                self.start, self.fresh = goal, []
                self.moving = self.times.moving[-1] if last and self.times.moving is not None else None
                if last:
                    status = Status.SUCCESS
                    break
        return self._finished(y, status, result)

    # --- one stretch

    def _stretch(self, y: Tensor, goal: float, last: bool) -> Kept:
        """Integrate to the next given time, or to the first crossing before it."""
        requested = self.problem.times
        until = self.served
        while until < len(requested) and (last or (requested[until] - goal) * self.sign < 0):
            until += 1
        inner = requested[self.served : until]
        times = [self.start, *inner, goal]
        problem = replace(
            self.problem,
            term=self._sided(goal, last),
            times=times,
            controller=self._controller(times),
            max_steps=self._steps_left(),
            watch=Watch(self.events, self.fresh),
        )
        kept = self.differentiate.solve(problem, y, self._moving(until, goal, last), self.args, self.f)
        result = kept.result
        self.step = result.dt or self.step
        merged = self.merged
        merged.spec = merged.spec or result.spec
        if self.problem.save.steps:
            merged.add(kept.rows)
            merged.step_times += [self.start, *(host(piece.end) for piece in result.pieces)]
        else:
            reached = max(min(result.valid - 1, len(inner)), 0)
            merged.add([leaf[1 : 1 + reached] for leaf in kept.rows])
            self.served += reached
        if kept.curve is not None:
            merged.curves.append(kept.curve)
        merged.pieces += result.pieces
        return kept

    def _moving(self, until: int, goal: float, last: bool) -> Tensor | None:
        """The times of the stretch as a tensor, where one of them carries a gradient."""
        given, like = self.times.moving, self.times.shown
        end = given[-1] if last and given is not None else None
        if not last:
            end = self.queue[0][2]
            end = end if end is not None and moves(end) else None
        if not recording() or all(x is None for x in (given, self.moving, end)):
            return None
        first = like.new_tensor(self.start, dtype=torch.float64) if self.moving is None else self.moving.double()
        final = like.new_tensor(goal, dtype=torch.float64) if end is None else end.double()
        inner = (self.times.shown.detach() if given is None else given)[self.served : until].double()
        return torch.cat([first.reshape(1), inner, final.reshape(1)])

    def _sided(self, goal: float, last: bool) -> Any:
        """Next to a given time the field sees its own side only."""
        term = self.problem.term
        low = towards(self.start, goal, term.dtype) if self._at_start and self.start != goal else self.start
        high = goal if last or self.start == goal else towards(goal, self.start, term.dtype)
        if (low, high) == (self.start, goal):
            return term
        return term.between(min(low, high), max(low, high))

    _at_start = False

    def _controller(self, times: list[float]) -> Any:
        controller = self.problem.controller
        if isinstance(controller, PID) and self.step is not None:
            return replace(controller, first_step=self.step)
        if type(controller) is Grid and controller.times is not None:
            low, high = sorted((times[0], times[-1]))
            inside = [s for s in map(host, controller.times) if low < s < high]
            return Grid([times[0], *inside, times[-1]]) if times[0] != times[-1] else FixedStep(1.0)
        return controller

    def _steps_left(self) -> int | None:
        most = self.problem.max_steps
        return None if most is None else max(most - self.problem.stats.steps, 0)

    # --- what happens at an event

    def _given(self, y: Tensor) -> tuple[Tensor, bool]:
        """The events whose time is the start of the next stretch."""
        ended = self._at_start = False
        while self.queue and self.queue[0][0] == self.start and not ended:
            _, number, t = self.queue.pop(0)
            self._at_start = True
            if t is not None and moves(t):
                self.moving = t
            time = self._time() if self.moving is None else self.moving
            y, ended = self._fire(number, time, y)
        return y, ended

    def _crossed(self, y: Tensor, result: Result) -> tuple[Tensor, bool]:
        """The events that ended the last stretch."""
        self.start, self.fresh = result.t1, list(result.event)
        self.moving, ended = None, False
        time = self._time()
        if recording():
            event = self.events[result.event[0]]
            time, y = located(self.problem.term, event, time, y, self.args, _shared_value)
            self.moving = time if moves(time) else None
        for number in result.event:
            y, ends = self._fire(number, time, y)
            ended = ended or ends
        return y, ended

    def _fire(self, number: int, time: Tensor, y: Tensor) -> tuple[Tensor, bool]:
        event, before = self.events[number], y
        if event.reset is not None:
            y = reset_state(self.problem, event, time, y, self.args)
        self.firings[number].append(_Firing(time, before, y))
        return y, event.ends

    def _time(self) -> Tensor:
        return torch.tensor(self.start, dtype=torch.float64, device=self.problem.term.device)

    def _accumulates(self, numbers: list[int]) -> bool:
        """Whether an event has fired twice in a row at once after itself."""
        for i in numbers:
            times = [firing.t.item() for firing in self.firings[i][-2:]]
            close = len(times) == 2 and abs(times[1] - times[0]) <= ZENO * abs(self.end - self.problem.times[0])
            self.gaps[i] = self.gaps[i] + 1 if close else 0
        return max(self.gaps) >= 2

    # --- the end

    def _finished(self, y: Tensor, status: Status, last: Result | None) -> Kept:
        problem, merged = self.problem, self.merged
        keeper = Keeper(problem.save, problem.times, problem.structure)
        here = 0
        if status and not problem.save.steps:
            rest = problem.times[self.served :]
            here = next((i for i, t in enumerate(rest) if t != self.start), len(rest))
        if here or not merged.columns:
            n = here or 1
            merged.add(keeper.kept(y.unsqueeze(0).expand(n, *y.shape), [self.start] * n))
            merged.spec = merged.spec or keeper.spec
            self.served += here
            merged.step_times = merged.step_times or [self.start]
        result = Result(status, y, self.start, (), merged.pieces, valid=self.served, spec=merged.spec)
        result.suspect = None if last is None else last.suspect
        curve = torch.cat(merged.curves) if merged.curves else None
        time = self._time() if self.moving is None else self.moving
        rows = tuple(torch.cat(column) for column in merged.columns)
        kept = Kept(rows, curve, y, result, t1=time, events=self._records())
        kept.step_times = merged.step_times
        kept.jumped = problem.save.dense and any(
            event.reset is not None and bool(fired) and fired[-1].t.item() == self.start
            for event, fired in zip(self.events, self.firings, strict=True)
        )
        return kept

    def _records(self) -> dict[Any, EventRecord]:
        unravel, y0 = self.problem.structure.unravel, self.problem
        found = {}
        for name, firings in zip(self.names, self.firings, strict=True):
            n = len(firings)
            if firings:
                t = torch.stack([firing.t.double() for firing in firings])
                before, after = (torch.stack([getattr(x, side) for x in firings]) for side in ("before", "after"))
            else:
                t = torch.zeros(0, dtype=torch.float64, device=y0.term.device)
                before = after = self.problem.term.empty()
            valid = torch.ones(n, dtype=torch.bool, device=t.device)
            found[name] = EventRecord(t, unravel(before), unravel(after), n, n > 0, valid)
        return found


def located(term: Any, event: Event, t: Tensor, y: Tensor, args: Any, value: Any) -> tuple[Tensor, Tensor]:
    """The time of a crossing and the state there, with their derivatives to second order.

    Each pass ``t <- t - g(t, y) / G'`` with a constant ``G'`` makes one order of derivatives right.

    Args:
        term: of the solve.
        event: the crossing.
        t: its time, without gradient; 0-d or ``(rows,)``.
        y: the state there, at that fixed time.
        args: of the solve.
        value: ``value(event, term, t, y, args)``, the crossing's numbers.
    """

    def rate(s: Tensor, x: Tensor) -> Tensor:
        return term.rate(s, x, args)

    def along(s: Tensor) -> Tensor:
        return value(event, term, s, move(y.detach(), s, rate), args).sum()

    if transforming():
        slope = torch.func.grad(along)(t).detach()
    else:
        with torch.enable_grad():
            s = t.detach().requires_grad_()
            total = along(s)
            slope = torch.autograd.grad(total, s)[0] if total.requires_grad else torch.zeros_like(t)
    if bool((slope == 0).any()):
        if not moves(y):
            return t, y
        raise ValueError(
            "`crossing` grazes zero without passing through it, or depends on neither t nor y: the time of the event "
            "has no derivative. Solve under torch.no_grad(), or detach what requires grad."
        )
    time = t
    for _ in range(2):
        g = value(event, term, time, move(y, time, rate) if moves(time) else y, args)
        time = time - (g - g.detach()) / slope
    return time, move(y, time, rate) if moves(time) else y


def _shared_value(event: Event, term: Any, t: Tensor, y: Tensor, args: Any) -> Tensor:
    return torch.as_tensor(term.apply(event.crossing, t, y, args), device=y.device).reshape(()).to(t.dtype)


def reset_state(problem: Problem, event: Event, t: Tensor, y: Tensor, args: Any, term: Any = None) -> Tensor:
    """The state after the event, checked."""
    term = term or problem.term
    given = y.clone()  # a reset in place must not reach what is recorded before it
    after = problem.structure.ravel(term.apply(event.reset, t, given, args), "`reset`")
    if not isinstance(after, Tensor) or after.shape != y.shape or after.dtype != y.dtype:
        came = f"{after.dtype} {tuple(after.shape)}" if isinstance(after, Tensor) else type(after).__name__
        raise ValueError(
            f"`reset` returned {came} for a state of {y.dtype} {tuple(y.shape)}. It returns the state to go on from."
        )
    return after


def given_times(
    events: Sequence[Event], start: float, end: float, sign: float
) -> list[tuple[float, int, Tensor | None]]:
    """The times of all events with ``at`` inside the span, in their order, with their event and their tensor."""
    found: list[tuple[float, int, Tensor | None]] = []
    for number, event in enumerate(events):
        if event.at is None:
            continue
        at = event_times(event.at)
        if at.dim() > 1:
            raise ValueError(
                f"`at` has shape {tuple(at.shape)}. On the shared clock it is (n,); times of each sample's own need "
                'clock="per-sample".'
            )
        at = at.reshape(-1)
        if not bool(torch.isfinite(at.detach()).all()):
            raise ValueError("`at` is finite; it holds NaN or infinite values. Drop such times.")
        times = at.detach().double().tolist()
        found += [(t, number, at[i]) for i, t in enumerate(times) if 0 <= (t - start) * sign <= (end - start) * sign]
    return sorted(found, key=lambda item: (item[0] * sign, item[1]))
