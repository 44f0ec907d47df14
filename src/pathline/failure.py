"""Why a solve failed, in words: which, where, how stiff it looks, and what to try."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pathline.controllers import FixedStep, Grid
from pathline.loop import Problem, Result
from pathline.row_loop import RowResult
from pathline.status import Status, Statuses


def explain(problem: Problem, result: Result, args: Any) -> str:
    """The message of a failed solve."""
    stats = problem.stats
    where = _where(problem, result)
    count = f"{stats.steps} steps, {stats.accepted} accepted"
    tail = f"The solution up to t = {result.t1:g} is in `error.solution`."
    if result.reason and getattr(problem.solver, "whole", False):
        return f"{result.reason[:1].upper()}{result.reason[1:]} ({count}). {tail}"
    if result.status is Status.NON_FINITE:
        cause = _non_finite(problem, result, args)
        return f"{cause}{where}, after t = {result.t1:g} ({count}). {_cure_non_finite(problem)} {tail}"
    stiffness = _stiffness(problem, result, args)
    looks = f", and the field looks stiff (|J| about {stiffness:.0e})" if _stiff(problem, result, stiffness) else ""
    if result.status is Status.MAX_STEPS:
        explicit = not getattr(problem.solver, "implicit", False)
        other = '"kvaerno5"' if problem.solver.name == "auto" else '"kvaerno5", or "auto"'
        stiff = f"Try method={other}; or raise" if looks and explicit else "Raise"
        return (
            f"`max_steps` = {problem.max_steps} was reached at t = {result.t1:g} of {problem.times[-1]:g} ({count})"
            f"{looks}.{_unresolved(problem, result.y1)} {stiff} max_steps, or {_fewer_steps(problem)}. {tail}"
        )
    if result.status is Status.ZENO:
        return f"An event fires infinitely often near t = {result.t1:g} ({count}). {_CURES[Status.ZENO]} {tail}"
    if result.status is Status.NEWTON:
        adapts = _adapts(problem)
        tried = ", however short the step" if adapts else ""
        cure = _CURES[Status.NEWTON] if adapts else 'Set a smaller `dt`, or an adaptive method such as "kvaerno5".'
        return (
            f'The Newton iteration of "{problem.solver.name}" does not converge at t = {result.t1:g}{where} after '
            f"{count}{tried}. {cure} {tail}"
        )
    return (
        f"The step size fell below its least value at t = {result.t1:g}{where} after {count}{looks}. "
        f"The solution may be singular there, or the tolerance too tight for {_dtype(result.y1)}: loosen it"
        f"{_tolerances(problem)}{_wider(result.y1)}. {tail}"
    )


def explain_rows(problem: Problem, result: RowResult, status: Statuses, args: Any) -> str:
    """The message of a solve in which samples failed: how many, and the first of each kind."""
    failed = status.failed
    lines = [f"{len(failed)} of {len(status)} samples failed."]
    stats = problem.stats.rows
    assert stats is not None
    kinds = {status[i]: i for i in reversed(failed)}
    for kind, sample in sorted(kinds.items(), key=lambda pair: pair[1]):
        count = sum(s is kind for s in status)
        t, steps = float(result.t1[sample]), int(stats.accepted[sample] + stats.rejected[sample])
        component = _component(result, sample)
        others = f" (and {count - 1} more like it)" if count > 1 else ""
        lines.append(f"Sample {sample}{others} {_REASONS[kind]} at t = {t:g}{component}, after {steps} steps.")
    lines.append(
        f"{_CURES[next(iter(kinds))]} Each sample's reason is in `error.solution.status`, its time in "
        "`error.solution.t1`; the others finished and are right."
    )
    return " ".join(lines)


_REASONS = {
    Status.MAX_STEPS: "took `max_steps` steps and ended",
    Status.STEP_UNDERFLOW: "ran into a vanishing step size",
    Status.NON_FINITE: "became infinite or NaN",
    Status.NEWTON: "met a Newton iteration that does not converge",
    Status.ZENO: "met an event that fires infinitely often",
}
_CURES = {
    Status.MAX_STEPS: 'Raise max_steps, loosen the tolerance, or try a stiff method such as "kvaerno5".',
    Status.STEP_UNDERFLOW: "The solution may be singular there, or the tolerance too tight for the dtype.",
    Status.NON_FINITE: "Look at the field there; a solution that blows up ends at its singularity.",
    Status.NEWTON: "Look at the field there: is it smooth, and is a given Jacobian right?",
    Status.ZENO: "End the solve at that event (terminal=True), or stop it by another one.",
}


def _component(result: RowResult, sample: int) -> str:
    for samples, suspect in result.suspect:
        place = (samples == sample).nonzero()
        if len(place):
            size = suspect[int(place[0])].abs().flatten()
            if not size.numel():
                return ""
            worst = (~torch.isfinite(size)).float() if not bool(torch.isfinite(size).all()) else size
            return f" (component {int(worst.argmax())})"
    return ""


def _dtype(y: Tensor) -> str:
    return str(y.dtype).removeprefix("torch.")


def _wider(y: Tensor) -> str:
    wide = torch.complex128 if y.is_complex() else torch.float64
    return "" if y.dtype == wide else f", or use {str(wide).removeprefix('torch.')}"


def _unresolved(problem: Problem, y: Tensor) -> str:
    """A tolerance that rounding alone exceeds."""
    eps = torch.finfo(y.dtype).eps
    if not _adapts(problem) or isinstance(problem.rtol, Tensor) or not 0 < problem.rtol < eps:
        return ""
    return f" rtol={problem.rtol:g} is below what {_dtype(y)} resolves ({eps:.1e}): loosen it{_wider(y)}."


def _adapts(problem: Problem) -> bool:
    return problem.solver.adaptive and not isinstance(problem.controller, FixedStep | Grid)


def _fewer_steps(problem: Problem) -> str:
    return f"loosen the tolerance{_tolerances(problem)}" if _adapts(problem) else "take longer steps"


def _tolerances(problem: Problem) -> str:
    values = (problem.rtol, problem.atol)
    if any(isinstance(x, Tensor) for x in values):
        return ""
    return f" (now rtol={values[0]:g}, atol={values[1]:g})"


def _where(problem: Problem, result: Result) -> str:
    """The sample and component at which the failed step was worst."""
    suspect = result.suspect
    if suspect is None or not suspect.numel() or suspect.dim() == 0:
        return ""
    size = suspect.detach().abs().flatten()
    worst = (~torch.isfinite(size)).float() if not bool(torch.isfinite(size).all()) else size
    index = int(worst.argmax())
    if not problem.structure.plain:
        return f" (element {index} of the flattened state)"
    place = torch.unravel_index(torch.tensor(index), suspect.shape)
    if suspect.dim() == 1:
        return f" (component {int(place[0])})"
    inner = [int(i) for i in place[1:]]
    return f" (sample {int(place[0])}, component {inner[0] if len(inner) == 1 else tuple(inner)})"


def _non_finite(problem: Problem, result: Result, args: Any) -> str:
    """Whether the field itself is the culprit where the solution still is finite."""
    with torch.no_grad():
        dy = problem.term.rate(result.t1, result.y1, args) if problem.solver.needs != "contract" else None
    if dy is not None and not bool(torch.isfinite(dy).all()):
        kind = "NaN" if bool(torch.isnan(dy).any()) else "infinite"
        return f"`f` returned {kind} values for a finite state"
    return "The solution became infinite or NaN"


def _cure_non_finite(problem: Problem) -> str:
    if _adapts(problem):
        return "Look at the field there; a solution that blows up ends at its singularity."
    return 'Fixed steps may be too long for this field: set a smaller `dt`, or an adaptive method such as "tsit5".'


def _stiffness(problem: Problem, result: Result, args: Any) -> float:
    """The largest stretching of the field around the last state, by a few power iterations on differences."""
    if problem.solver.needs == "contract" or not result.y1.numel():
        return 0.0
    with torch.no_grad():
        y = result.y1.detach()
        f = problem.term.rate(result.t1, y, args)
        eps = torch.finfo(y.dtype).eps ** 0.5 * (1.0 + float(torch.linalg.vector_norm(y)))
        direction, growth = torch.ones_like(y), 0.0
        for _ in range(4):
            direction = direction / torch.linalg.vector_norm(direction).clamp_min(1e-30)
            change = (problem.term.rate(result.t1, y + eps * direction, args) - f) / eps
            growth = float(torch.linalg.vector_norm(change))
            if not 0 < growth < float("inf"):
                return 0.0
            direction = change
    return growth


def _stiff(problem: Problem, result: Result, growth: float) -> bool:
    """Many stable steps' worth of the fastest mode lie in the span."""
    return growth * abs(problem.times[-1] - problem.times[0]) > 1e3
