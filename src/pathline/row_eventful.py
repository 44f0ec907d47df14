"""Solves with events and one clock a sample: all samples go to their next event, which then happens to each of them.

One round integrates every active sample to its own next event; the next round starts with those that go on. Like on the
shared clock every stretch is differentiated by the solve's own gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pathline._forward import moves, recording
from pathline.controllers import PID, Grid
from pathline.eventful import ZENO, located, reset_state
from pathline.events import Event, EventRecord, Watch, crossing_of, event_times
from pathline.gradients.base import Gradient, Kept
from pathline.loop import Problem
from pathline.row_clocks import CODES
from pathline.row_loop import RowPiece, RowResult
from pathline.row_saving import Due, RowKeeper, laid, step_times
from pathline.stats import RowStats
from pathline.status import Status
from pathline.times import Times

_EVENT, _ZENO = CODES.index(Status.EVENT), CODES.index(Status.ZENO)


def solve_row_eventful(
    differentiate: Gradient,
    problem: Problem,
    y0: Tensor,
    times: Times,
    args: Any,
    f: Any,
    events: dict[Any, Event],
) -> Kept:
    """Solve with one clock a sample, from event to event."""
    return _Rounds(differentiate, problem, y0, times, args, f, events).go()


@dataclass
class _Firings:
    """One event, of several samples at once."""

    number: int
    samples: Tensor
    t: Tensor
    before: Tensor
    after: Tensor


class _Rounds:
    """One solve: where each sample stands, ``(batch,)``, and what is still to come."""

    def __init__(
        self,
        differentiate: Gradient,
        problem: Problem,
        y0: Tensor,
        times: Times,
        args: Any,
        f: Any,
        events: dict[Any, Event],
    ) -> None:
        self.differentiate, self.problem, self.times, self.args, self.f = differentiate, problem, times, args, f
        self.names, self.events = list(events), list(events.values())
        requested: Tensor = problem.times
        self.batch = batch = len(y0)
        self.requested = requested
        self.start, self.end = requested[0].clone(), requested[-1]
        self.sign = torch.where(self.end >= self.start, 1.0, -1.0).to(requested)
        self.given, self.numbers, self.tensors = _given_times(self.events, self.start, self.end, self.sign)
        whole = torch.zeros(batch, dtype=torch.long, device=y0.device)
        self.pointer, self.served, self.count = whole.clone(), whole.clone(), whole.clone()
        self.fresh = whole.clone()
        self.gaps = torch.zeros(len(self.events), batch, dtype=torch.long, device=y0.device)
        self.last = torch.full((len(self.events), batch), torch.inf, dtype=torch.float64, device=y0.device)
        self.step = torch.zeros_like(self.start)
        self.code, self.t1 = whole.clone(), self.start.clone()
        self.at_start = torch.zeros_like(whole, dtype=torch.bool)
        self.firings: list[_Firings] = []
        self.places: list[tuple[Tensor, Tensor]] = []
        self.columns: list[list[Tensor]] = []
        self.ends: list[tuple[Tensor, Tensor, Tensor]] = []
        self.curves: list[Tensor] = []
        self.pieces: list[RowPiece] = []
        self.suspect: list[tuple[Tensor, Tensor]] = []
        self.step_ends: list[Tensor] = []
        self.spec: Any = None
        self.y0 = y0
        stats = problem.stats
        stats.rows = RowStats(whole.clone(), whole.clone(), whole.clone())

    def go(self) -> Kept:
        """Round after round."""
        if not self.batch:
            kept = self.differentiate.solve(self.problem, self.y0, self.times.moving, self.args, self.f)
            return replace(kept, t1=self.start, events=self._records(kept.y1, self.start))
        samples = torch.arange(self.batch, device=self.y0.device)
        y = self.y0
        moving = self.times.moving
        start = self.start if moving is None else moving[0]
        while len(samples):
            samples, y, start = self._fire_given(samples, y, start)
            if len(samples):
                samples, y, start = self._round(samples, y, start)
        return self._finished()

    # --- events at given times

    def _fire_given(self, samples: Tensor, y: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The events whose time is the start of a sample's next stretch; samples that end there leave."""
        self.at_start[samples] = False
        while len(samples):
            pointer = self.pointer[samples]
            due = self.given[pointer, samples] == self.start[samples]
            if not bool(due.any()):
                return samples, y, start
            self.pointer[samples] += due
            self.at_start[samples] |= due
            numbers = self.numbers[pointer, samples]
            leaving = torch.zeros_like(due)
            for number in torch.unique(numbers[due]).tolist():
                row = (due & (numbers == number)).nonzero()[:, 0]
                if self.tensors is not None:
                    start = start.double().index_copy(0, row, self.tensors[pointer[row], samples[row]].double())
                y, ends = self._fire(number, samples, row, start, y)
                leaving[row] |= ends
            samples, y, start = self._end(samples, y, start, leaving, _EVENT)
        return samples, y, start

    def _fire(self, number: int, samples: Tensor, row: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, bool]:
        event, before = self.events[number], y[row]
        after = before
        if event.reset is not None:
            term = self.problem.term.select(samples[row])
            after = reset_state(self.problem, event, t[row].double(), before, self.args, term)
            y = y.index_copy(0, row, after)
        self.firings.append(_Firings(number, samples[row], t[row].double(), before, after))
        return y, event.ends

    # --- one round

    def _round(self, samples: Tensor, y: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        problem, n = self.problem, len(self.requested)
        here = self.start[samples]
        coming, end = self.given[self.pointer[samples], samples], self.end[samples]
        last = ~torch.isfinite(coming)
        goal = torch.where(last, end, coming)
        keys = self.requested[:, samples] * self.sign[samples]
        until = torch.where(last, n, (keys < goal * self.sign[samples]).sum(0))
        low, high = int(self.served[samples].min()), max(int(until.max()), int(self.served[samples].min()))
        middle = self.requested[low:high, samples]
        sign = self.sign[samples]
        clamped = torch.minimum(torch.maximum(middle * sign, here * sign), goal * sign) * sign
        part = torch.cat([here[None], clamped, goal[None]])
        stretch = replace(
            problem,
            term=self._sided(samples, here, goal, last),
            times=part,
            controller=self._controller(samples),
            rtol=_of(problem.rtol, samples),
            atol=_of(problem.atol, samples),
            max_steps=None if problem.max_steps is None else max(problem.max_steps - int(self.count[samples].max()), 0),
            watch=Watch(self.events, self.fresh[samples]),
        )
        moving = self._moving(samples, start, goal, last, part, low, high)
        kept = self.differentiate.solve(stretch, y, moving, self.args, self.f)
        result: RowResult = kept.result
        self._take(kept, samples, part, low, high, until)
        y, code = kept.y1, result.code
        self.start[samples] = result.t1
        self.count[samples] += result.tries  # an upper bound of a sample's steps
        self.step[samples] = torch.where(result.dt > 0, result.dt, self.step[samples])
        self.fresh[samples] = torch.where(result.event > 0, result.event, 0)
        start = result.t1 if moving is None else torch.where((code == 0), moving[-1], result.t1)
        leaving = (code != _EVENT) & ((code != 0) | last)
        crossed = (code == _EVENT).nonzero()[:, 0]
        if len(crossed):
            y, start, ends = self._cross(samples, crossed, result.event, y, start)
            leaving = leaving.index_put((crossed,), ends)
            stuck = torch.zeros_like(leaving)
            stuck[crossed] = (self.gaps[:, samples[crossed]] >= 2).any(0)
            code = torch.where(stuck & ~leaving, _ZENO, code)
            leaving = leaving | stuck
        return self._end(samples, y, start, leaving, code)

    def _cross(
        self, samples: Tensor, crossed: Tensor, bits: Tensor, y: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The crossings that ended the last stretch of some rows."""
        ends = torch.zeros_like(crossed, dtype=torch.bool)
        settled = torch.zeros_like(ends)
        for number, event in enumerate(self.events):
            mine = ((bits[crossed] >> number) & 1).bool()
            if not bool(mine.any()):
                continue
            new = crossed[mine & ~settled]
            if len(new) and recording():
                term = self.problem.term.select(samples[new])
                time, there = located(term, event, self.start[samples[new]], y[new], self.args, crossing_of)
                start, y = start.double().index_copy(0, new, time), y.index_copy(0, new, there)
            settled |= mine
            row = crossed[mine]
            self._count_gaps(number, samples[row])
            y, terminal = self._fire(number, samples, row, start, y)
            ends |= mine & terminal
        return y, start, ends

    def _count_gaps(self, number: int, samples: Tensor) -> None:
        t = self.start[samples]
        span = (self.end - self.requested[0])[samples].abs()
        close = (t - self.last[number, samples]).abs() <= ZENO * span
        self.gaps[number, samples] = torch.where(close, self.gaps[number, samples] + 1, 0)
        self.last[number, samples] = t

    def _take(self, kept: Kept, samples: Tensor, part: Tensor, low: int, high: int, until: Tensor) -> None:
        """Keep the rows that this round is the first to reach, its curves and its pieces."""
        result = kept.result
        assert kept.reached is not None
        self.spec = self.spec or result.spec
        shift = self.served[samples]
        if self.problem.save.steps:
            slot, row = kept.reached.nonzero().unbind(1)
            self.served[samples] += result.valid
            self._add([leaf[slot, row] for leaf in kept.rows], slot + shift[row], samples[row])
            self.step_ends.append(step_times(result.pieces, part[0], result.valid)[slot, row])
        else:
            slots = torch.arange(low, high, device=samples.device)[:, None]
            mine = kept.reached[1:-1] & (slots >= self.served[samples]) & (slots < until)
            slot, row = mine.nonzero().unbind(1)
            self._add([leaf[1:-1][slot, row] for leaf in kept.rows], slot + low, samples[row])
            self.served[samples] += mine.sum(0)
        if kept.curve is not None:
            self.curves.append(kept.curve)
        for piece in result.pieces:
            due = piece.due
            slot = due.slot + shift[due.sample] if self.problem.save.steps else due.slot
            whole = Due(due.row, samples[due.sample], slot)
            self.pieces.append(replace(piece, index=samples[piece.index], due=whole))
        self.suspect += [(samples[rows], error) for rows, error in result.suspect]

    def _add(self, leaves: Sequence[Tensor], slot: Tensor, sample: Tensor) -> None:
        if not len(slot):
            return
        if not self.columns:
            self.columns = [[] for _ in leaves]
        for column, leaf in zip(self.columns, leaves, strict=True):
            column.append(leaf)
        self.places.append((slot, sample))

    def _sided(self, samples: Tensor, here: Tensor, goal: Tensor, last: Tensor) -> Any:
        """Next to a given time the field sees its own side only."""
        term = self.problem.term.select(samples)
        starts, ends = self.at_start[samples] & (here != goal), ~last & (here != goal)
        if not bool((starts | ends).any()):
            return term
        t, target = here.to(term.dtype), goal.to(term.dtype)
        first = torch.where(starts, torch.nextafter(t, target).double(), here)
        final = torch.where(ends, torch.nextafter(target, t).double(), goal)
        return term.between(torch.minimum(first, final), torch.maximum(first, final))

    def _controller(self, samples: Tensor) -> Any:
        controller = self.problem.controller
        if isinstance(controller, Grid) and controller.times is not None:
            raise ValueError(
                "Events with Grid(times) are not offered on the per-sample clock. Use FixedStep(dt) or PID()."
            )
        if not isinstance(controller, PID):
            return controller
        known = self.step[samples]
        first = known if bool((known > 0).all()) else controller.first_step
        return replace(
            controller,
            first_step=first,
            must_hit=_of_columns(controller.must_hit, samples),
            jumps=_of_columns(controller.jumps, samples),
        )

    def _moving(
        self, samples: Tensor, start: Tensor, goal: Tensor, last: Tensor, part: Tensor, low: int, high: int
    ) -> Tensor | None:
        """The times of the round as a tensor, where one of them carries a gradient."""
        given = self.times.moving
        grads = [given, start, self.tensors]
        if not recording() or not any(x is not None and moves(x) for x in grads):
            return None
        final = goal
        if given is not None:
            final = torch.where(last, given[-1, samples].double(), final)
        if self.tensors is not None:
            final = torch.where(last, final, self.tensors[self.pointer[samples], samples].double())
        middle = part[1:-1]
        if given is not None:
            own = given[low:high, samples].double()
            middle = torch.where(own.detach() == middle, own, middle)
        return torch.cat([start.double()[None], middle, final[None]])

    # --- the end

    def _end(
        self, samples: Tensor, y: Tensor, start: Tensor, leaving: Tensor, code: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples that leave; rows that stand exactly where they end hold the state behind the event."""
        if not bool(leaving.any()):
            return samples, y, start
        out, keep = leaving.nonzero()[:, 0], (~leaving).nonzero()[:, 0]
        gone = samples[out]
        self.code[gone] = code[out] if isinstance(code, Tensor) else code
        self.ends.append((gone, y[out], start.double()[out]))
        ok = torch.tensor([bool(CODES[c]) for c in self.code[gone].tolist()], device=gone.device)
        if not self.problem.save.steps:
            slots = torch.arange(len(self.requested), device=gone.device)[:, None]
            here = (slots >= self.served[gone]) & (self.requested[:, gone] == self.start[gone]) & ok
            slot, row = here.nonzero().unbind(1)
            if len(slot):
                keeper = RowKeeper(self.problem.save, self.requested, self.problem.structure)
                self._add(keeper.kept(y[out][row], self.requested[slot, gone[row]]), slot, gone[row])
                self.spec = self.spec or keeper.spec
                self.served[gone] += here.sum(0)
        return samples[keep], y[keep], start[keep]

    def _finished(self) -> Kept:
        problem, batch = self.problem, self.batch
        samples = torch.cat([s for s, _, _ in self.ends])
        order = samples.argsort()
        y1 = torch.cat([y for _, y, _ in self.ends])[order]
        t1 = torch.cat([t for _, _, t in self.ends])[order]
        n = int(self.served.max()) if problem.save.steps else len(self.requested)
        laid_out = [laid(torch.cat(column), self.places, (n, batch)) for column in self.columns]
        result = RowResult(
            code=self.code,
            y1=y1,
            t1=t1.detach(),
            event=torch.full_like(self.code, -1),
            first=(),
            first_due=Due(*[samples[:0]] * 3),
            valid=self.served,
            dt=self.step,
            pieces=self.pieces,
            spec=self.spec,
            suspect=self.suspect,
        )
        curve = torch.cat(self.curves) if self.curves else None
        rows = tuple(leaf for leaf, _ in laid_out)
        ends = laid(torch.cat(self.step_ends), self.places, (n, batch))[0] if self.step_ends else None
        jumped = torch.zeros_like(self.at_start)
        for fired in self.firings if problem.save.dense else []:
            if self.events[fired.number].reset is not None:
                jumped[fired.samples] |= fired.t.detach() == result.t1[fired.samples]
        return Kept(rows, curve, y1, result, laid_out[0][1], t1, self._records(y1, t1), ends, jumped)

    def _records(self, y1: Tensor, t1: Tensor) -> dict[Any, EventRecord]:
        unravel = self.problem.structure.unravel
        found = {}
        for number, name in enumerate(self.names):
            mine = [firings for firings in self.firings if firings.number == number]
            count = torch.zeros_like(self.served)
            places = []
            for firings in mine:
                places.append((count[firings.samples], firings.samples))
                count[firings.samples] += 1
            most = int(count.max()) if self.batch else 0
            valid = torch.arange(most, device=count.device)[:, None] < count
            t, before, after = (x.detach().expand(most, *x.shape).clone() for x in (t1, y1, y1))
            for (slot, samples), firings in zip(places, mine, strict=True):
                t = t.index_put((slot, samples), firings.t)
                before = before.index_put((slot, samples), firings.before)
                after = after.index_put((slot, samples), firings.after)
            found[name] = EventRecord(t, unravel(before), unravel(after), count, count > 0, valid)
        return found


def _of(value: Any, samples: Tensor) -> Any:
    return value[samples] if isinstance(value, Tensor) and value.dim() and len(value) > 1 else value


def _of_columns(times: Any, samples: Tensor) -> Any:
    return times[:, samples] if isinstance(times, Tensor) and times.dim() == 2 else times


def _given_times(
    events: Sequence[Event], start: Tensor, end: Tensor, sign: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``(n, batch)``: the times of all events with ``at`` in their order, then infinity; their events.

    Third, the times once more with their gradients, if they have any.
    """
    batch = len(start)
    columns, numbers = [], []
    for number, event in enumerate(events):
        if event.at is None:
            continue
        at = _at(event.at, batch, start)
        columns.append(at)
        numbers.append(torch.full(at.shape, number, device=start.device))
    never = torch.full_like(start, torch.inf)[None]
    if not columns:
        return never, torch.zeros_like(never, dtype=torch.long), None
    at, which = torch.cat(columns), torch.cat(numbers)
    here = at.detach()
    inside = ((here - start) * sign >= 0) & ((end - here) * sign >= 0)
    key = torch.where(inside, here * sign, torch.inf)
    order = key.argsort(dim=0, stable=True)
    times = torch.where(inside, here, torch.inf).gather(0, order)
    tensors = torch.cat([at.gather(0, order), end[None]]) if moves(at) else None
    return torch.cat([times, never]), torch.cat([which.gather(0, order), torch.zeros_like(which[:1])]), tensors


def _at(at: Any, batch: int, like: Tensor) -> Tensor:
    if isinstance(at, list) and at and all(isinstance(x, Tensor) and x.dim() == 1 for x in at):
        if len(at) != batch:
            raise ValueError(f"`at` as a list has one tensor for each of the {batch} samples; it has {len(at)}.")
        most = max(len(x) for x in at)
        return torch.stack([torch.cat([x.to(like), like.new_full((most - len(x),), torch.inf)]) for x in at], dim=1)
    given = event_times(at).to(like)
    given = given.reshape(-1, 1).expand(-1, batch) if given.dim() < 2 else given
    if given.dim() != 2 or given.shape[1] != batch:
        raise ValueError(
            f"`at` has shape {tuple(given.shape)} for {batch} samples. It is (n,) for all, (n, batch), or a list of "
            "one tensor a sample."
        )
    if bool(torch.isnan(given.detach()).any()):
        raise ValueError("`at` holds NaN. Drop such times; fill up with infinity what some samples lack.")
    return given
