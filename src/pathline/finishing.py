"""From the outputs of a gradient to a `Solution`, and to an error where the solve failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._structure import Structure, host, real_dtype
from pathline.controls.piecewise import PiecewisePolynomial, RowPiecewise
from pathline.failure import explain, explain_rows
from pathline.gradients import Kept
from pathline.gradients.inputs import transforming
from pathline.loop import Problem, finite
from pathline.row_clocks import CODES
from pathline.row_loop import RowResult
from pathline.row_saving import step_times
from pathline.saving import Save
from pathline.solution import Solution
from pathline.status import ERRORS, BatchError, Status, Statuses
from pathline.times import Times


def finish(problem: Problem, kept: Kept, times: Times, args: Any, on_failure: str) -> Solution:
    """The solution on the shared clock."""
    result, structure, save, ts = kept.result, problem.structure, problem.save, times.shown
    status = result.status
    ends = [problem.times[0], *(host(piece.end) for piece in result.pieces)]
    if save.steps:
        ts = torch.tensor(kept.step_times or ends, dtype=torch.float64, device=ts.device).to(ts.dtype)
    n = len(ts)
    valid = n if save.steps and status else len(kept.rows[0]) if save.steps else result.valid
    if save.fn is None and not transforming() and not finite(kept.rows[0]):
        # A state may be finite where a slope for the row before it is not.
        bad = ~torch.isfinite(kept.rows[0].detach().reshape(len(kept.rows[0]), -1)).all(1)
        valid, status = int(bad.nonzero()[0]), Status.NON_FINITE
        result.status, result.suspect = status, kept.rows[0][valid]
    rows = [_filled(leaf[: max(valid, 1)], n) for leaf in kept.rows]
    if save.fn is not None:
        spec = result.spec
        if spec is None:
            rows, spec = _mapped(save, structure, ts, kept.rows[0], n)
        ys = pytree.tree_unflatten(rows, spec)
    else:
        ys = structure.unravel(rows[0])
    curve = None
    if save.dense:
        curve = _curve(problem, kept, ends, args)
    if kept.t1 is not None:
        reached = kept.t1.to(ts.dtype)
    else:
        reached = ts[-1] if status else torch.tensor(result.t1, dtype=ts.dtype, device=ts.device)
    solution = Solution(
        ts=ts,
        ys=ys,
        y1=structure.unravel(kept.y1),
        t1=reached,
        valid=torch.arange(n, device=ts.device) < valid,
        status=status,
        stats=problem.stats,
        events=kept.events,
        curve=curve,
        unravel=structure.unravel,
        source=(problem, args),
    )
    if problem.shown is not None:
        solution = problem.shown(solution)
    if not status:
        solution.message = explain(problem, result, args)
        if on_failure == "raise":
            raise ERRORS[status](solution.message, solution, status)
    return solution


def finish_rows(problem: Problem, kept: Kept, times: Times, args: Any, on_failure: str, batch_first: bool) -> Solution:
    """The solution with one clock a sample."""
    result, structure, save, ts = kept.result, problem.structure, problem.save, times.shown
    assert kept.reached is not None
    valid = kept.reached
    if save.steps:
        ends = kept.step_times
        ends = step_times(result.pieces, problem.times[0], result.valid) if ends is None else ends
        ts = ends.to(ts.dtype)
    elif times.real is not None:
        valid = valid & times.real
    rows = [_still(leaf, valid) for leaf in kept.rows] if times.real is not None else kept.rows
    if save.fn is None and not transforming() and not finite(rows[0]):
        rows, valid = _without_bad(result, rows[0], valid)
    if save.fn is not None:
        spec = result.spec
        if spec is None:
            rows, spec = _mapped_rows(save, structure, ts, rows[0])
        ys = pytree.tree_unflatten(list(rows), spec)
    else:
        ys = structure.unravel(rows[0])
    status = Statuses(CODES[i] for i in result.code.tolist())
    reached = kept.t1
    if reached is None:
        done = result.code == 0
        reached = ts[-1] if bool(done.all()) and not save.steps else torch.where(done, times.shown[-1], result.t1)
    solution = Solution(
        ts=ts,
        ys=ys,
        y1=structure.unravel(kept.y1),
        t1=reached.to(ts.dtype),
        valid=valid,
        status=status,
        stats=problem.stats,
        events=kept.events,
        curve=_row_curve(problem, kept, args) if save.dense else None,
        unravel=structure.unravel,
        source=(problem, args),
    )
    if batch_first:
        solution = replace(
            solution,
            ts=solution.ts.T,
            valid=solution.valid.T,
            ys=pytree.tree_map(lambda x: x.transpose(0, 1), solution.ys),
            batch_first=True,
        )
    if problem.shown is not None:
        solution = problem.shown(solution)
    if not status:
        solution.message = explain_rows(problem, result, status, args)
        if on_failure == "raise":
            kinds = Counter(s for s in status if not s)
            error = ERRORS[next(iter(kinds))] if len(kinds) == 1 else BatchError
            raise error(solution.message, solution, kinds.most_common(1)[0][0])
    return solution


def _without_bad(result: RowResult, rows: Tensor, valid: Tensor) -> tuple[list[Tensor], Tensor]:
    """Rows up to the first of a sample that is not finite, and which they are; the sample has failed there.

    A state may be finite where a slope for the row before it is not.
    """
    n, batch = valid.shape
    bad = valid & ~torch.isfinite(rows.detach().reshape(n, batch, -1)).all(2)
    failed = bad.any(0).nonzero()[:, 0]
    result.code[failed] = CODES.index(Status.NON_FINITE)
    result.suspect.append((failed, rows.detach()[bad.long().argmax(0)[failed], failed]))
    valid = valid & (bad.cumsum(0) == 0)
    last = torch.where(valid, torch.arange(n, device=valid.device)[:, None], 0).cummax(0).values
    return [_still(rows[last, torch.arange(batch, device=valid.device)], valid)], valid


def _still(rows: Tensor, valid: Tensor) -> Tensor:
    """Rows that nobody asked for carry no gradient."""
    return torch.where(valid.reshape(*valid.shape, *(1,) * (rows.dim() - 2)), rows, rows.detach())


def _curve(problem: Problem, kept: Kept, ends: list[float], args: Any) -> PiecewisePolynomial:
    values = kept.curve
    if values is None:
        ends, values = ends[:1] * 2, _point(problem, ends[0], kept.y1, args, 2).unsqueeze(0)
    elif kept.jumped:
        behind = _point(problem, ends[-1], kept.y1, args, values.shape[1])
        ends, values = [*ends, ends[-1]], torch.cat([values, behind.unsqueeze(0)])
    return PiecewisePolynomial(torch.tensor(ends, dtype=torch.float64, device=values.device), values)


def _row_curve(problem: Problem, kept: Kept, args: Any) -> RowPiecewise:
    pieces = [piece for piece in kept.result.pieces if piece.curve is not None or kept.curve is not None]
    samples, start, end = (
        torch.cat([getattr(piece, name) for piece in pieces]) if pieces else problem.times[0][:0]
        for name in ("index", "t0", "end")
    )
    values = kept.curve
    still = torch.ones(len(problem.times[0]), dtype=torch.bool, device=start.device)
    still[samples.long()] = False
    at_rest = (still | kept.jumped).nonzero()[:, 0]
    if len(at_rest) or values is None:
        t, y = torch.where(still, problem.times[0], kept.result.t1)[at_rest], kept.y1[at_rest]
        degree = 2 if values is None else values.shape[1]
        points = _point(problem, t, y, args, degree, at_rest).transpose(0, 1)
        values = points if values is None else torch.cat([values, points])
        samples, start, end = (torch.cat(pair) for pair in ((samples.long(), at_rest), (start, t), (end, t)))
    return RowPiecewise(samples, start.detach(), end.detach(), values, len(still))


def _point(problem: Problem, t: Any, y: Tensor, args: Any, degree: int, samples: Tensor | None = None) -> Tensor:
    """The piece of a stretch of no length, a state and the slope there: ``(degree, *y.shape)``."""
    term = problem.term if samples is None else problem.term.select(samples)
    with torch.no_grad():
        slope = term.rate(t, y, args) if problem.solver.needs != "contract" else torch.zeros_like(y)
    slope = torch.where(slope.isfinite(), slope, 0.0)  # zero times NaN is NaN, and the state is one without a rate
    return torch.stack([y, slope, *[torch.zeros_like(y)] * (degree - 2)])


def _mapped(save: Save, structure: Structure, ts: Tensor, rows: Tensor, n: int) -> tuple[list[Tensor], Any]:
    """``save.fn`` over rows that a gradient returned whole."""
    assert save.fn is not None
    values = [save.fn(t.to(real_dtype(rows.dtype)), structure.unravel(y)) for t, y in zip(ts, rows, strict=False)]
    flat = [pytree.tree_flatten(value) for value in values]
    leaves = [torch.stack(column) for column in zip(*(leaves for leaves, _ in flat), strict=True)]
    return [_filled(leaf, n) for leaf in leaves], flat[0][1]


def _mapped_rows(save: Save, structure: Structure, ts: Tensor, rows: Tensor) -> tuple[list[Tensor], Any]:
    """``save.fn`` over whole rows; those that were not reached hold a state that was."""
    assert save.fn is not None
    lead = (-1,) + (1,) * (rows.dim() - 2)
    values = [
        save.fn(t.to(real_dtype(rows.dtype)).view(lead), structure.unravel(y)) for t, y in zip(ts, rows, strict=True)
    ]
    flat = [pytree.tree_flatten(value) for value in values]
    return [torch.stack(column) for column in zip(*(leaves for leaves, _ in flat), strict=True)], flat[0][1]


def _filled(rows: Tensor, n: int) -> Tensor:
    """Rows that were not reached repeat the last valid one, without gradient."""
    missing = n - len(rows)
    if missing <= 0:
        return rows
    return torch.cat([rows, rows[-1:].detach().expand(missing, *rows.shape[1:])])
