"""The integration loop. It knows nothing of differentiation: gradients are handed it as a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pathline import _random
from pathline._structure import host
from pathline.controllers import Clock, Controller, PIDClock, Setting
from pathline.hooks import Hooks
from pathline.row_saving import shorten
from pathline.saving import Keeper, Save
from pathline.solvers.base import lasting
from pathline.stats import Stats
from pathline.status import Status

if TYPE_CHECKING:
    from pathline._structure import Structure
    from pathline.solvers.base import Solver, Step
    from pathline.terms import Bound, Time


@dataclass(frozen=True)
class Problem:
    """Everything that defines a solve except the tensors that may carry a gradient.

    Attributes:
        times: the requested times as host floats; ``times[0]`` is the start, ``times[-1]`` the end. On the per-sample
            clock a float64 tensor ``(n, batch)``.
        check_every: how many steps pass between looks for infinite or NaN states where no error estimate would show
            them.
        watch: what looks for events, see `events`.
        shown: from a solution of this problem to what the user asked for; None where it is that.
    """

    term: Bound
    solver: Solver
    controller: Controller
    structure: Structure
    times: Any
    rtol: float | Tensor
    atol: float | Tensor
    save: Save
    stats: Stats
    max_steps: int | None
    hooks: Hooks = field(default_factory=Hooks)
    check_every: int = 256
    watch: Any = None
    shown: Any = None

    @property
    def per_sample(self) -> bool:
        """Whether every sample has its own clock."""
        return isinstance(self.times, Tensor)

    @property
    def at_rest(self) -> bool:
        """Whether there is no time to integrate over."""
        return bool((self.times[0] == self.times[-1]).all()) if self.per_sample else self.times[0] == self.times[-1]


@dataclass
class Piece:
    """One accepted step, as the gradients may want to see it again."""

    t0: Time
    t1: Time
    due: slice
    term: Bound
    outputs: tuple[Tensor, ...]
    y0: Tensor | None = None
    carry: Any = None
    random: Any = None
    cut: float | None = None
    tape: Any = None  # what a compiled step keeps for its derivative
    index = active = None  # of all samples

    @property
    def place(self) -> slice:
        """Where its rows stand among all."""
        return self.due

    @property
    def end(self) -> Time:
        """Where the next piece begins: before ``t1`` if an event cut this one."""
        return self.t1 if self.cut is None else self.cut


@dataclass
class Result:
    """What the loop returns.

    Attributes:
        y1: the last state reached, at ``t1``.
        first: the rows at the start.
        pieces: the accepted steps with their outputs.
        valid: how many of the requested times were reached.
        spec: the structure of a row of ``Save(fn=...)``.
        suspect: the state or the error estimate of the step that failed.
        dt: the step that an adaptive controller would have tried next.
        reason: what the solver said of that step.
        event: the numbers of the events that ended the solve.
    """

    status: Status
    y1: Tensor
    t1: float
    first: tuple[Tensor, ...]
    pieces: list[Piece] = field(default_factory=list)
    valid: int = 0
    spec: Any = None
    suspect: Tensor | None = None
    dt: float | None = None
    reason: str = ""
    event: list[int] = field(default_factory=list)


def integrate(
    problem: Problem,
    y0: Tensor,
    args: Any,
    *,
    times: Sequence[Time] | None = None,
    moved: Callable[[Tensor, slice], Tensor] | None = None,
    slope: Tensor | None = None,
    record: bool = False,
    draws: bool = False,
    log: Any = None,
) -> Result:
    """Integrate from the first requested time to the last.

    Args:
        problem: the solve.
        y0: the flat start.
        args: what the field receives beside time and state.
        times: the requested times as tensors, where fixed steps are to depend on them.
        moved: gives rows their derivative with respect to their times (see `Keeper`).
        slope: the first slope, where it is known.
        record: keep the state and the carry before every accepted step.
        draws: the field draws random numbers: keep the generators' state too, and leave no slope to be drawn outside
            of a step.
        log: where the accepted steps go, in place of a list.
    """
    solver, term, stats = problem.solver, problem.term, problem.stats
    keeper = Keeper(problem.save, problem.times, problem.structure, moved, times)
    result = Result(Status.SUCCESS, y0, problem.times[0], keeper.first(y0, keeper.due(problem.times[0])))
    if log is not None:
        log.clear()
        result.pieces = log
    if problem.times[0] != problem.times[-1]:
        exact = times or problem.times
        carry = solver.init(term, exact[0], y0, args) if slope is None else slope
        setting = Setting(term, solver, exact)
        clock = problem.controller.clock(setting, y0, args, carry)
        before = replace(stats)
        _march(problem, clock, keeper, result, y0, None if draws else carry, args, record, draws)
        if not clock.measures and problem.check_every > 1 and not (result.status and finite(result.y1)):
            # Fixed steps read nothing on the way; the same steps again, watched, tell where it began.
            stats.steps, stats.accepted = before.steps, before.accepted
            again = replace(problem, check_every=1)
            options = {"slope": slope, "record": record, "draws": draws, "log": log}
            return integrate(again, y0, args, times=times, moved=moved, **options)
    result.valid = len(result.pieces) + 1 if problem.save.steps else keeper.next
    result.spec = keeper.spec
    return result


def _march(
    problem: Problem,
    clock: Clock,
    keeper: Keeper,
    result: Result,
    y: Tensor,
    carry: Any,
    args: Any,
    record: bool,
    draws: bool,
) -> None:
    """Step after step, until the clock is done or something fails."""
    solver, term, stats, hooks = problem.solver, problem.term, problem.stats, problem.hooks
    watch = None if problem.watch is None else problem.watch.shared(problem, args, clock.t, y)
    last = math.inf if problem.max_steps is None else stats.steps + problem.max_steps
    given = carry  # by the step before; a retry may use a slope of its own
    while not clock.done:
        if stats.steps >= last:
            result.status = Status.MAX_STEPS
            return
        t0, t1 = clock.t, clock.propose()
        sided = clock.sided(term)
        if sided is not term:
            carry = given = None  # the slope from the other side of a jump
        hooks.on_step(t0, t1, y)
        random = _random.snapshot(y.device) if draws else None
        step = solver.step(sided, t0, t1, y, args, carry)
        stats.steps += 1
        if not clock.judge(y, step):
            stats.rejected += 1
            carry = None if draws else getattr(step, "retry", carry)
            hooks.on_reject(t0, t1, y, step)
            if clock.failure is not None:
                result.status, result.suspect = clock.failure, _suspect(step)
                result.reason = step.failed if isinstance(step.failed, str) else ""
                return
            continue
        if not clock.measures and stats.steps % problem.check_every == 0 and not finite(step.y1):
            result.status, result.suspect = Status.NON_FINITE, step.y1
            return
        stats.accepted += 1
        cut = None if watch is None else watch.look(sided, step, host(t0), host(t1), y)
        due = keeper.due(host(t1)) if cut is None else keeper.due(cut, before=True)
        piece = Piece(t0, t1, due, sided, (), cut=cut, tape=getattr(step, "tape", None))
        end, piece.outputs = contribution(keeper, step, piece)
        if record:
            piece.y0, piece.carry, piece.random = y, lasting(given), random
        result.pieces.append(piece)
        hooks.on_accept(t0, t1, y, step)
        y, carry = end, step.carry
        given = carry
        result.y1, result.t1 = y, host(piece.end)
        if watch is not None and cut is not None:
            result.status, result.event = Status.EVENT, watch.found
            break
    if isinstance(clock, PIDClock):
        result.dt = clock.dt


def contribution(keeper: Keeper, step: Step, piece: Piece) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What an accepted step gives: the state at its end (or where an event cuts it), and its outputs."""
    outputs = keeper.outputs(step, piece.t1, piece.due)
    if piece.cut is None:
        return step.y1, outputs
    end = step.y1 if piece.cut == host(piece.t1) else step.rows([piece.cut])[0]
    if keeper.save.steps:
        outputs = keeper.kept(end.unsqueeze(0), [piece.cut]) + outputs[len(outputs) - keeper.save.dense :]
    if keeper.save.dense:
        fraction = (piece.cut - host(piece.t0)) / (host(piece.t1) - host(piece.t0))
        outputs = (
            *outputs[:-1],
            shorten(outputs[-1].unsqueeze(0), torch.tensor([fraction], dtype=torch.float64, device=end.device))[0],
        )
    return end, outputs


def _suspect(step: Step) -> Tensor:
    error = step.error[0] if isinstance(step.error, tuple) else step.error
    return step.y1 if error is None else error


def finite(y: Tensor) -> bool:
    """Whether every element is finite; one read. A tracer, which has no values, is spared the question."""
    if torch.compiler.is_compiling():
        return True
    with torch.no_grad():
        # The sum of finite numbers is finite unless it overflows; only then every element is looked at.
        return math.isfinite(abs(y.sum().item())) or bool(torch.isfinite(y).all())
