"""What the gradients share: a run of the loop, times that carry a gradient, vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from pathline._forward import watched
from pathline.events import EventRecord
from pathline.loop import Problem, integrate
from pathline.row_loop import RowResult, integrate_rows
from pathline.row_saving import Due, laid
from pathline.solvers.base import spread
from pathline.status import Status


@dataclass
class Kept:
    """A finished solve, ready to become a `Solution`.

    Attributes:
        rows: the leaves of the rows at the requested times, ``(n, *)`` each.
        curve: ``(steps, degree + 1, *state)`` and the ends of the steps, with ``Save(dense=True)``.
        y1: the last state.
        result: what the loop returned, a `Result` or a `RowResult`; its tensors may lack the gradient that ``rows``,
            ``curve`` and ``y1`` carry.
        reached: ``(n, batch)``, which rows were reached; on the per-sample clock alone.
        t1: the time of ``y1`` with its gradient, where events may have ended the solve.
        events: what happened at them.
        step_times: the times of the rows of ``Save(steps=True)``, where events part the solve.
        jumped: whether ``y1`` is behind a jump at the very end of the curve; ``(batch,)`` on the per-sample clock.
    """

    rows: tuple[Tensor, ...]
    curve: Tensor | None
    y1: Tensor
    result: Any
    reached: Tensor | None = None
    t1: Tensor | None = None
    events: dict[Any, EventRecord] = field(default_factory=dict)
    step_times: Any = None
    jumped: Any = False


class Gradient(Protocol):
    """How a solve is differentiated."""

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve; ``t`` holds the requested times where they require grad, ``field`` is what the user passed as `f`."""
        ...


def run(problem: Problem, y0: Tensor, args: Any, **options: Any) -> Any:
    """The loop of the problem's clock."""
    return (integrate_rows if problem.per_sample else integrate)(problem, y0, args, **options)


def gather(problem: Problem, result: Any) -> Kept:
    """Lay the outputs of the steps one behind the other."""
    if problem.per_sample:
        return _gather_rows(problem, result)
    dense = problem.save.dense
    columns: list[list[Tensor]] = [[leaf] for leaf in result.first]
    for piece in result.pieces:
        for column, leaf in zip(columns, piece.outputs[: len(piece.outputs) - dense], strict=False):
            column.append(leaf)
    curve = torch.stack([piece.outputs[-1] for piece in result.pieces]) if dense and result.pieces else None
    rows = tuple(torch.cat(column) if len(column) > 1 else column[0] for column in columns)
    return Kept(rows, curve, result.y1, result)


def _gather_rows(problem: Problem, result: RowResult) -> Kept:
    pieces = [piece for piece in result.pieces if len(piece.due)]
    places = [result.first_due.place, *(piece.due.place for piece in pieces)]
    batch = len(result.valid)
    n = int(result.valid.max()) if problem.save.steps and batch else len(problem.times)
    reached = torch.ones(n, batch, dtype=torch.bool, device=result.y1.device)
    rows: list[Tensor] = []
    for i, first in enumerate(result.first):
        values = torch.cat([first, *(piece.outputs[i] for piece in pieces)])
        leaf, reached = laid(values, places, (n, batch)) if batch else (values.expand(n, *values.shape), reached)
        rows.append(leaf)
    curves = [piece.curve for piece in result.pieces if piece.curve is not None]
    curve = torch.cat(curves) if problem.save.dense and curves else None
    return Kept(tuple(rows), curve, result.y1, result, reached)


# --- gradients to times ------------------------------------------------------------------------------------------


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> as a 0-d tensor."""
    product = a.conj() * b if a.is_complex() else a * b
    return product.real.sum() if product.is_complex() else product.sum()


def move(y: Tensor, t: Tensor, rate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``y`` with the derivatives of the solution with respect to its time, right to second order.

    A midpoint step of length zero: the value is ``y``, the derivative ``f(t, y)``, the second ``f_t + f_y f``, and the
    mixed one ``f_y``. With one clock a sample ``t`` is ``(rows,)``.
    """
    here, h = t.detach(), t - t.detach()
    step = spread(h, y)
    halfway = y + (step / 2) * rate(here, y)
    return y + step * rate(here + h / 2, halfway)


def move_start(problem: Problem, y0: Tensor, t: Tensor | None, args: Any) -> Tensor:
    """The start with its derivative with respect to the first time, unless fixed steps carry it."""
    if t is None or problem.controller.exact_times:
        return y0
    here, h = t[0].detach(), t[0] - t[0].detach()
    step = spread(h, y0)
    # The same step backwards, from the moved time to where the solve begins.
    halfway = y0 - (step / 2) * problem.term.rate(here + h, y0, args)
    return y0 - step * problem.term.rate(here + h / 2, halfway, args)


def move_end(problem: Problem, kept: Kept, t: Tensor | None, args: Any) -> Kept:
    """The last state with its derivative with respect to the last time, unless fixed steps carry it."""
    if t is None or problem.controller.exact_times:
        return kept
    if problem.per_sample:
        at_end = (kept.result.code == 0) & (t[-1] == kept.result.t1)
        end = torch.where(at_end, t[-1], kept.result.t1)
    elif kept.result.status is Status.SUCCESS:
        end = t[-1]
    else:
        return kept
    return replace(kept, y1=move(kept.y1, end, lambda t1, y: problem.term.rate(t1, y, args)))


def timed(problem: Problem, t: Tensor | None, args: Any) -> dict[str, Any]:
    """What the loop needs so that its rows depend on the requested times."""
    if t is None:
        return {}
    if problem.controller.exact_times:
        return {"times": t.double() if problem.per_sample else list(t.double().unbind())}
    rate = problem.term.rate

    def moved(rows: Tensor, due: slice) -> Tensor:
        return torch.stack([move(y, ti, lambda s, x: rate(s, x, args)) for y, ti in zip(rows, t[due], strict=True)])

    def moved_entries(values: Tensor, due: Due) -> Tensor:
        term = problem.term.select(due.sample)
        return move(values, t[due.place], lambda s, x: term.rate(s, x, args))

    return {"moved": moved_entries if problem.per_sample else moved}


# --- vector-Jacobian products ------------------------------------------------------------------------------------


def alive(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors inside wrappers that outlived their transform, as where torch.func.vjp has returned.

    Such a wrapper says of its tensor what held inside.
    """
    return [None if x is None else torch._C._functorch.unwrap_if_dead(x) for x in tensors]  # pyright: ignore[reportAttributeAccessIssue]


def differentiated(*tensors: Tensor | None) -> bool:
    """Whether a backward pass is to be differentiated in turn: where torch.func asks for it, something has to move."""
    return torch.is_grad_enabled() and any(x is not None and watched(x) for x in alive(tensors))


def aliases(tensors: Sequence[Tensor | None], create_graph: bool) -> list[Tensor | None]:
    """Fresh names for inputs of a recomputation, so that its graph ends at them.

    With ``create_graph`` they stay linked to the originals; a gradient with respect to an alias still stops there.
    """
    tensors = alive(tensors)
    if create_graph:
        with torch.enable_grad():  # asked for under no_grad, they would lose their link
            return [
                None if x is None else x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in tensors
            ]
    return [None if x is None else x.detach().requires_grad_() for x in tensors]


def pull_back(
    outputs: list[Any], cotangents: Sequence[Tensor | None], inputs: Sequence[Tensor], create_graph: bool
) -> list[Tensor | None]:
    """``sum_j cotangent_j^T d output_j / d input_i`` for every input; None where nothing depends on it.

    Empties ``outputs``: the graph needs their edges alone, and their memory is that of two states and more.
    """
    pairs = [
        (get_gradient_edge(y), g)
        for y, g in zip(outputs, cotangents, strict=True)
        if y is not None and g is not None and y.requires_grad
    ]
    outputs.clear()
    if not pairs or not inputs:
        return [None] * len(inputs)
    grads = torch.autograd.grad(
        [edge for edge, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True, create_graph=create_graph
    )
    return list(grads)


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum, where None is zero."""
    return b if a is None else a if b is None else a + b


class Sum:
    """Sums of cotangents, in place where no graph is wanted."""

    def __init__(self, count: int, in_place: bool) -> None:
        self.values: list[Tensor | None] = [None] * count
        self.in_place = in_place

    def add(self, terms: Sequence[Tensor | None]) -> None:
        """Add one term to each sum; None is zero."""
        for i, term in enumerate(terms):
            value = self.values[i]
            if term is None:
                continue
            if not self.in_place:
                self.values[i] = add(value, term)
            elif value is None:
                self.values[i] = term.clone()  # autograd may hand the same tensor to two inputs
            else:
                value.add_(term)
