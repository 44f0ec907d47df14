"""The integration loop with one clock a sample: all active samples step at once, each with its own time and step.

A sample leaves when it is done, has failed, or meets an event; from then on it costs no evaluation. Like the loop of
the shared clock, this one knows nothing of differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline import _random
from pathline._forward import watched
from pathline.controllers import Setting
from pathline.hooks import Hooks
from pathline.row_clocks import CODES, RowGrid, RowPID, on_host
from pathline.row_saving import Due, RowKeeper, Window, inside, shorten
from pathline.solvers.base import either, lasting, rows_of, spread_mask
from pathline.stats import RowStats
from pathline.status import Status

if TYPE_CHECKING:
    from pathline.loop import Problem
    from pathline.solvers.base import Step
    from pathline.terms import Bound

_EVENT, _MAX_STEPS = CODES.index(Status.EVENT), CODES.index(Status.MAX_STEPS)


@dataclass
class RowPiece:
    """One accepted step of the samples in ``index``.

    Attributes:
        index: the samples.
        t0, t1: the ends of their steps.
        number: of the step, for clocks that count.
        cut: where an event ends the step before ``t1``, else ``t1``; None where no event does.
        due: the entries.
        curve: the dense output, ``(rows, degree + 1, *state)``.
        active: for a log, the samples that were stepped with their states and carries, accepted or not.
    """

    index: Tensor
    t0: Tensor
    t1: Tensor
    number: int
    cut: Tensor | None
    due: Due
    term: Bound
    outputs: tuple[Tensor, ...]
    curve: Tensor | None = None
    y0: Any = None
    carry: Any = None
    random: Any = None
    active: Any = None

    @property
    def place(self) -> tuple[Tensor, Tensor]:
        """Where its entries stand among all rows."""
        return self.due.place

    @property
    def end(self) -> Tensor:
        """Where the next pieces begin."""
        return self.t1 if self.cut is None else self.cut


@dataclass
class RowResult:
    """What the loop returns.

    Attributes:
        code: ``(batch,)``, the status of each sample as an index of `CODES`.
        y1, t1: the last state of each sample, and its time.
        event: ``(batch,)``, the events that ended a sample's solve, a bit for each; -1 for none.
        first, first_due: the entries at the start.
        valid: ``(batch,)``, how many of its times a sample reached.
        dt: ``(batch,)``, the step that would have come next.
        suspect: samples with the state or the error estimate of the step that failed.
        tries: how many steps were tried.
    """

    code: Tensor
    y1: Tensor
    t1: Tensor
    event: Tensor
    first: tuple[Tensor, ...]
    first_due: Due
    valid: Tensor
    dt: Tensor
    pieces: list[RowPiece] = field(default_factory=list)
    spec: Any = None
    suspect: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    tries: int = 0


def clock_of(problem: Problem, times: Tensor, y0: Tensor, args: Any, carry: Any) -> RowGrid | RowPID:
    """The clocks of all samples."""
    return problem.controller.rows(Setting(problem.term, problem.solver, times), y0, args, carry)


def integrate_rows(
    problem: Problem,
    y0: Tensor,
    args: Any,
    *,
    times: Tensor | None = None,
    moved: Callable[[Tensor, Due], Tensor] | None = None,
    slope: Tensor | None = None,
    record: bool = False,
    draws: bool = False,
    log: Any = None,
) -> RowResult:
    """Integrate every sample from its first requested time to its last; the arguments are those of `integrate`."""
    solver, term = problem.solver, problem.term
    host_times: Tensor = problem.times  # pyright: ignore[reportAssignmentType]
    keeper = RowKeeper(problem.save, host_times, problem.structure, moved, times)
    start = host_times[0]
    due = keeper.step_ends(None) if problem.save.steps else keeper.due(start)
    batch = len(y0)
    result = RowResult(
        code=torch.zeros(batch, dtype=torch.long, device=y0.device),
        y1=y0,
        t1=start.clone(),
        event=torch.full((batch,), -1, device=y0.device),
        first=keeper.first(y0, due),
        first_due=due,
        valid=torch.zeros(batch, dtype=torch.long, device=y0.device),
        dt=torch.zeros_like(start),
    )
    if log is not None:
        log.clear()
        result.pieces = log
    problem.stats.rows = problem.stats.rows or _no_counts(batch, y0.device)
    if batch and bool((host_times[-1] != start).any()):
        exact = host_times if times is None else times
        calls = term.notes["calls"] = []
        try:
            carry = solver.init(term, exact[0], y0, args) if slope is None else slope
            clock = clock_of(problem, exact, y0, args, carry)
            march = _March(problem, clock, keeper, result, args, record, draws, calls)
            march.go(y0, None if draws else carry)
            march.settle()
        finally:
            del term.notes["calls"]
    else:
        result.valid = keeper.next
    result.spec = keeper.spec
    return result


def _no_counts(batch: int, device: torch.device) -> RowStats:
    return RowStats(*(torch.zeros(batch, dtype=torch.long, device=device) for _ in range(3)))


class _March:
    """Step after step, until every sample is done or has failed."""

    def __init__(
        self,
        problem: Problem,
        clock: RowGrid | RowPID,
        keeper: RowKeeper,
        result: RowResult,
        args: Any,
        record: bool,
        draws: bool,
        calls: list[Bound],
    ) -> None:
        self.problem, self.clock, self.keeper, self.result, self.args = problem, clock, keeper, result, args
        self.record, self.draws = record, draws
        self.term = problem.term
        self.samples = keeper.samples
        self.watch = None if problem.watch is None else problem.watch.rows(problem, args)
        self.left: list[tuple[np.ndarray, ...]] = []
        self.ends: list[tuple[Tensor, Tensor, Any]] = []
        self.numbers = on_host(self.samples)
        self.accepted = np.zeros_like(self.numbers)
        self.rejected = np.zeros_like(self.numbers)
        self.calls = calls
        save, free = problem.save, getattr(problem.solver, "free_dense", False)
        later = free and not (record or save.steps or save.dense or self.watch is not None)
        self.window = Window(keeper, clock.t.detach().double()) if later else None

    def go(self, y: Tensor, carry: Any) -> None:
        problem, clock, stats = self.problem, self.clock, self.problem.stats
        count, given = 0, lasting(carry)
        if self.watch is not None:
            self.watch.start(self.term, clock.t, y)
        y, carry, given = self._leave(y, carry, given, clock.done, None)
        while len(self.samples):
            if count == problem.max_steps:
                clock.failure = np.full_like(clock.failure, _MAX_STEPS)
                self._leave(y, None, None, clock.failure > 0, None)
                break
            count += 1
            t0, t1 = clock.t, clock.propose()
            sided, jumped = clock.sided(self.term)
            if jumped:
                carry = given = None  # slopes from the other side of a jump
            problem.hooks.on_step(t0, t1, y)
            random = _random.snapshot(y.device) if self.draws else None
            step: Any = problem.solver.step(sided, t0, t1, y, self.args, carry)
            good = clock.judge(y, step)
            stats.steps += 1
            mask = None if good is None else torch.from_numpy(good).to(y.device)
            step, cut, event = self._judged(step, sided, t0, t1, y, given, mask, count - 1, random)
            if len(self.calls) > 64:
                self.settle()
            self._note_failures(step)
            y, carry, given = self._onward(step, mask, y, carry, given)
            if cut is not None:
                y = cut if mask is None else torch.where(spread_mask(mask, cut), cut, y)
            self.accepted += 1 if good is None else good
            self.rejected += 0 if good is None else ~good
            leaving = clock.done | (clock.failure > 0)
            if event is not None:
                leaving = leaving | (on_host(event) >= 0)
            if leaving.any():
                y, carry, given = self._leave(y, carry, given, leaving, event)
        if self.window is not None:
            self._read()
            self.result.valid = self.keeper.next
        self.result.tries = count

    def _judged(
        self,
        step: Any,
        term: Bound,
        t0: Tensor,
        t1: Tensor,
        y: Tensor,
        given: Any,
        mask: Tensor | None,
        number: int,
        random: Any,
    ) -> tuple[Any, Tensor | None, Tensor | None]:
        """Keep what a step gives, unless no row may have it; the step, and where events cut it."""
        stats, hooks = self.problem.stats, self.problem.hooks
        accepted = None if mask is None else mask.nonzero()[:, 0]
        if accepted is not None and not len(accepted):
            stats.rejected += 1
            hooks.on_reject(t0, t1, y, step)
            return step, None, None
        stats.accepted += 1
        if mask is not None and accepted is not None and not _calm(step, mask):
            step = _Merged(self.problem.solver, term, t0, t1, y, self.args, given, accepted, step)
        cut, event = self._kept(step, term, t0, t1, y, given, accepted, number, random)
        if hooks.on_accept is not Hooks.on_accept:
            told: Any = hooks.on_accept
            rows = AcceptedRows(step, _some(self.samples, accepted), accepted)
            told(_some(t0, accepted), _some(t1, accepted), _some(y, accepted), rows)
        return step, cut, event

    def _kept(self, step: Any, term: Bound, t0: Tensor, t1: Tensor, y: Tensor, *rest: Any) -> Any:
        """What the accepted rows contribute, now or later."""
        if self.window is None:
            return self._piece(step, term, t0, t1, y, *rest)
        self.window.add(step, t0, t1, self.numbers, on_host(self.clock.t.detach().double()))
        if self.window.full:
            self._read()
        return None, None

    def _read(self) -> None:
        """Read the entries of the steps since the last time."""
        assert self.window is not None
        if self.window.steps:
            due, outputs = self.window.read()
            empty = self.keeper.times[0][:0]
            self.result.pieces.append(RowPiece(due.sample, empty, empty, 0, None, due, self.term, outputs))

    def _piece(
        self,
        step: Any,
        term: Bound,
        t0: Tensor,
        t1: Tensor,
        y: Tensor,
        given: Any,
        accepted: Tensor | None,
        number: int,
        random: Any,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Keep what the accepted rows contribute; where events fire, the states there, and which events they are."""
        keeper, clock = self.keeper, self.clock
        event = end = cut = None
        if self.watch is not None:
            event, end = self.watch.look(term, step, t0, t1, y, accepted)
            if event is not None:
                fired = event >= 0
                cut = torch.where(spread_mask(fired, y), cut_state(step, t0, t1, end, fired), step.y1)
                clock.t = torch.where(fired, end, clock.t)
        if keeper.save.steps:
            due = keeper.step_ends(accepted)
        else:
            due = keeper.due(clock.t, before=None if event is None else event >= 0)
        outputs, curve = contribution(keeper, step, t0, t1, due, clock.t, cut, accepted)
        piece = RowPiece(
            index=_some(self.samples, accepted),
            t0=_some(t0, accepted),
            t1=_some(t1, accepted),
            number=number,
            cut=None if event is None else _some(clock.t, accepted),
            due=due if accepted is None else _renumbered(due, accepted, len(t0)),
            term=term if accepted is None else term.select(accepted),
            outputs=outputs,
            curve=curve,
        )
        if self.record:
            piece.y0, piece.random = _some(y, accepted), random
            piece.carry = lasting(given if accepted is None else rows_of(given, accepted))
            if not isinstance(self.result.pieces, list):
                piece.active = self.samples, y, given
        self.result.pieces.append(piece)
        return (None, None) if event is None else (cut, event)

    def _onward(self, step: Step, good: Tensor | None, y: Tensor, carry: Any, given: Any) -> tuple[Tensor, Any, Any]:
        """The states and carries to go on from."""
        after = step.carry
        if good is None:
            return step.y1, after, lasting(after)
        again = None if self.draws else getattr(step, "retry", carry)
        if not bool(good.any()):  # nothing of such a step may enter a graph
            return y, again, given
        y = torch.where(spread_mask(good, y), step.y1, y)
        return y, either(good, after, again), either(good, lasting(after), given)

    def settle(self) -> None:
        """Count the evaluations since the last time for the samples that they were made for."""
        rows = self.problem.stats.rows
        assert rows is not None
        for term in self.calls:
            if term.index is None:
                rows.evaluations += term.calls
            else:  # a stack of stages serves a sample more than once
                rows.evaluations.index_add_(0, term.index, torch.full_like(term.index, term.calls))
            term.calls = 0
        self.calls.clear()

    def _note_failures(self, step: Any) -> None:
        failed = self.clock.failure > 0
        if failed.any():
            rows = torch.from_numpy(failed).to(self.samples.device)
            error = step.error[0] if isinstance(step.error, tuple) else step.error
            suspect = step.y1 if error is None else error
            self.result.suspect.append((self.samples[rows], suspect.detach()[rows]))

    def _leave(
        self, y: Tensor, carry: Any, given: Any, leaving: np.ndarray, event: Tensor | None
    ) -> tuple[Tensor, Any, Any]:
        """Samples that are done, have failed or met an event drop out."""
        if not leaving.any():
            return y, carry, given
        clock = self.clock
        left, stay = leaving.nonzero()[0], (~leaving).nonzero()[0]
        out, keep = (torch.from_numpy(x).to(y.device) for x in (left, stay))
        code, met = clock.failure[left], np.full(len(left), -1)
        if event is not None:
            met = on_host(event)[left]
            code = np.where((met >= 0) & (code == 0), _EVENT, code)
        dt = clock.dt[left] if isinstance(clock, RowPID) else np.zeros(len(left))
        self.left.append((self.numbers[left], code, met, dt, self.accepted[left], self.rejected[left]))
        valid = self.keeper.next[out] if self.window is None else None
        self.ends.append((y[out], clock.t[out].detach().double(), valid))
        self.samples = self.samples[keep]
        self.numbers, self.accepted, self.rejected = (x[stay] for x in (self.numbers, self.accepted, self.rejected))
        if not len(keep):
            self._finish(y.device)
            return y, None, None
        clock.select(stay, keep)
        if self.window is None:
            self.keeper.select(keep)
        self.term = self.term.select(keep)
        if self.watch is not None:
            self.watch.select(keep)
        return y[keep], rows_of(carry, keep), rows_of(given, keep)

    def _finish(self, device: torch.device) -> None:
        """Lay what the samples left with into the order of the batch."""
        result, rows, index = self.result, self.problem.stats.rows, self.problem.term.index
        assert rows is not None
        columns = [np.concatenate(column) for column in zip(*self.left, strict=True)]
        samples, code, met, dt, accepted, rejected = (torch.from_numpy(column).to(device) for column in columns)
        result.code[samples], result.event[samples] = code, met
        if isinstance(self.clock, RowPID):
            result.dt[samples] = dt
        whole = samples if index is None else index[samples]
        rows.accepted[whole] += accepted
        rows.rejected[whole] += rejected
        order = samples.argsort()
        states, times, valid = zip(*self.ends, strict=True)
        result.y1, result.t1 = torch.cat(states)[order], torch.cat(times)[order]
        if self.window is None:
            result.valid = torch.cat(valid)[order]


def contribution(
    keeper: RowKeeper,
    step: Step,
    t0: Tensor,
    t1: Tensor,
    due: Due,
    end: Tensor,
    cut: Tensor | None,
    accepted: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """What the rows of a step give: their entries, and their curves up to ``end``."""
    outputs = keeper.outputs(step, t0, t1 if cut is None or not keeper.save.steps else end, due, cut)
    if not keeper.save.dense:
        return outputs, None
    curve = step.coefficients(accepted).transpose(0, 1)
    return outputs, curve if cut is None else shorten(curve, _some((end - t0) / (t1 - t0), accepted))


def cut_state(step: Step, t0: Tensor, t1: Tensor, end: Tensor, fired: Tensor) -> Tensor:
    """The states where events fire, ``(rows, *state)``; the ends of the steps elsewhere."""
    row = fired.nonzero()[:, 0]
    return step.y1.index_copy(0, row, inside(step, t0, t1, row, end[row]))


def _some(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x[index]


def _renumbered(due: Due, accepted: Tensor, rows: int) -> Due:
    """Entries whose rows are counted among the accepted ones."""
    place = torch.zeros(rows, dtype=torch.long, device=accepted.device)
    place[accepted] = torch.arange(len(accepted), device=accepted.device)
    return Due(place[due.row], due.sample, due.slot)


def _calm(step: Step, good: Tensor | None) -> bool:
    """Whether a gradient may pass through this step though it leaves some rows behind.

    Their cotangent is zero, and zero times infinity is not: rows that overflowed must not share the recording.
    """
    if not torch.is_grad_enabled() or not watched(step.y1) or good is None:
        return True
    errors = step.error if isinstance(step.error, tuple) else (step.error, getattr(step, "ratio", None))
    limit = torch.finfo(step.y1.dtype).max ** 0.5  # derivatives overflow before values do
    return all(bool((x.detach()[~good].abs() < limit).all()) for x in (step.y1, *errors) if x is not None)


class AcceptedRows:
    """What a hook sees of an accepted step: the rows that moved, and which samples they are."""

    def __init__(self, step: Any, index: Tensor, accepted: Tensor | None) -> None:
        self.step, self.index, self.accepted = step, index, accepted

    @property
    def y1(self) -> Tensor:
        """The states at the ends of the steps."""
        return _some(self.step.y1, self.accepted)

    def coefficients(self) -> Tensor:
        """Their dense output, ``(degree + 1, rows, *state)``."""
        return self.step.coefficients(self.accepted)


class _Merged:
    """The step of the accepted rows alone, made again, in the place of one that overflowed in other rows."""

    def __init__(
        self,
        solver: Any,
        term: Bound,
        t0: Tensor,
        t1: Tensor,
        y: Tensor,
        args: Any,
        carry: Any,
        accepted: Tensor,
        tried: Any,
    ) -> None:
        part = rows_of(carry, accepted)
        self.accepted, self.rows = accepted, len(y)
        self.step = solver.step(term.select(accepted), t0[accepted], t1[accepted], y[accepted], args, part)
        self.y1 = y.index_copy(0, accepted, self.step.y1)
        self.error, self.failed = tried.error, tried.failed
        self.retry = self.given = lasting(carry)

    @property
    def carry(self) -> Any:
        """That of the accepted rows beside what the others had before."""
        after, spec = pytree.tree_flatten(lasting(self.step.carry))
        before, same = pytree.tree_flatten(self.given)
        if spec != same or not all(isinstance(x, Tensor) for x in (*after, *before) if x is not None):
            return None
        leaves = [
            None if a is None or b is None else b.index_copy(0, self.accepted, a)
            for a, b in zip(after, before, strict=True)
        ]
        return pytree.tree_unflatten(leaves, spec)

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """Dense output of accepted rows; of the others nothing."""
        if rows is None:
            own = self.step.coefficients()
            return own.new_zeros(len(own), self.rows, *own.shape[2:]).index_copy(1, self.accepted, own)
        place = torch.zeros(self.rows, dtype=torch.long, device=rows.device)
        place[self.accepted] = torch.arange(len(self.accepted), device=rows.device)
        return self.step.coefficients(place[rows])
