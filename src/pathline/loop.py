"""The integration loop. It knows nothing of differentiation: gradients are handed it as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pathline import _random
from pathline._structure import host
from pathline.controllers import Controller, Setting
from pathline.saving import Keeper, Save
from pathline.stats import Stats
from pathline.status import Status

if TYPE_CHECKING:
    from pathline._structure import Structure
    from pathline.solvers.base import Solver, Step
    from pathline.terms import Bound, Time


@dataclass(frozen=True)
class Hooks:
    """Functions that the loop calls: ``on_step(t0, t1, y0)`` before a step, the others with the step behind it."""

    on_step: Callable[[Time, Time, Tensor], None] | None = None
    on_accept: Callable[[Time, Time, Tensor, Step], None] | None = None
    on_reject: Callable[[Time, Time, Tensor, Step], None] | None = None


@dataclass(frozen=True)
class Problem:
    """Everything that defines a solve except the tensors that may carry a gradient.

    Attributes:
        times: the requested times as host floats; ``times[0]`` is the start, ``times[-1]`` the end.
        check_every: how many steps pass between looks for infinite or NaN states where no error estimate would show
            them.
    """

    term: Bound
    solver: Solver
    controller: Controller
    structure: Structure
    times: Sequence[float]
    rtol: float | Tensor
    atol: float | Tensor
    save: Save
    stats: Stats
    max_steps: int | None
    hooks: Hooks = Hooks()
    check_every: int = 256


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
    """

    status: Status
    y1: Tensor
    t1: float
    first: tuple[Tensor, ...]
    pieces: list[Piece] = field(default_factory=list)
    valid: int = 0
    spec: Any = None
    suspect: Tensor | None = None


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
    """
    solver, term, stats = problem.solver, problem.term, problem.stats
    keeper = Keeper(problem.save, problem.times, problem.structure, moved, times)
    result = Result(Status.SUCCESS, y0, problem.times[0], keeper.first(y0, keeper.due(problem.times[0])))
    t0 = times[0] if times is not None else problem.times[0]
    ends_there = problem.times[0] == problem.times[-1]
    carry = None if ends_there else slope if slope is not None else solver.init(term, t0, y0, args)
    setting = Setting(term, solver, times or problem.times, problem.rtol, problem.atol)
    clock = problem.controller.clock(setting, y0, args, carry)
    hooks, y, random = problem.hooks, y0, None
    if draws:
        carry = None
    first_step, first_accepted = stats.steps, stats.accepted
    while not clock.done:
        if problem.max_steps is not None and stats.steps - first_step >= problem.max_steps:
            result.status = Status.MAX_STEPS
            break
        t0, t1 = clock.t, clock.propose()
        sided = clock.sided(term)
        if sided is not term:
            carry = None  # the slope from the other side of a jump
        if hooks.on_step is not None:
            hooks.on_step(t0, t1, y)
        if draws:
            random = _random.snapshot(y.device)
        step = solver.step(sided, t0, t1, y, args, carry)
        stats.steps += 1
        if not clock.judge(y, step):
            stats.rejected += 1
            if hooks.on_reject is not None:
                hooks.on_reject(t0, t1, y, step)
            if clock.failure is not None:
                result.status, result.suspect = clock.failure, step.y1 if step.error is None else step.error
                break
            continue
        if not clock.measures and stats.steps % problem.check_every == 0 and not finite(step.y1):
            result.status, result.suspect = Status.NON_FINITE, step.y1
            break
        stats.accepted += 1
        due = keeper.due(host(t1))
        piece = Piece(t0, t1, due, sided, keeper.outputs(step, t1, due))
        if record:
            piece.y0, piece.carry, piece.random = y, carry, random
        result.pieces.append(piece)
        if hooks.on_accept is not None:
            hooks.on_accept(t0, t1, y, step)
        y, carry = step.y1, step.carry
        result.y1, result.t1 = y, host(t1)
    suspicious = result.status is not Status.SUCCESS or not finite(result.y1)
    if not clock.measures and problem.check_every > 1 and suspicious and result.status is not Status.MAX_STEPS:
        # Fixed steps read nothing on the way; the same steps again, watched, tell where it began.
        stats.steps, stats.accepted = first_step, first_accepted
        again = replace(problem, check_every=1)
        return integrate(
            again, y0, args, times=times, moved=moved, slope=slope, record=record, draws=draws
        )
    result.valid = len(result.pieces) + 1 if problem.save.steps else keeper.next
    result.spec = keeper.spec
    return result


def finite(y: Tensor) -> bool:
    """Whether every element is finite; one read. A tracer, which has no values, is spared the question."""
    if torch.compiler.is_compiling():
        return True
    with torch.no_grad():
        return bool(torch.isfinite(y).all())
