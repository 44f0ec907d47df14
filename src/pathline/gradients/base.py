"""What the gradients share: a run of the loop, times that carry a gradient, vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pathline.loop import Problem, Result


@dataclass
class Kept:
    """A finished solve, ready to become a `Solution`.

    Attributes:
        rows: the leaves of the rows at the requested times, ``(n, *)`` each.
        curve: ``(steps, degree + 1, *state)`` and the ends of the steps, with ``Save(dense=True)``.
        y1: the last state.
        result: what the loop returned; its tensors may lack the gradient that ``rows``, ``curve`` and ``y1`` carry.
    """

    rows: tuple[Tensor, ...]
    curve: Tensor | None
    y1: Tensor
    result: Result


class Gradient(Protocol):
    """How a solve is differentiated."""

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve; ``t`` holds the requested times where they require grad, ``field`` is what the user passed as `f`."""
        ...


def gather(problem: Problem, result: Result) -> Kept:
    """Lay the outputs of the steps one behind the other."""
    dense = problem.save.dense
    columns: list[list[Tensor]] = [[leaf] for leaf in result.first]
    for piece in result.pieces:
        for column, leaf in zip(columns, piece.outputs[: len(piece.outputs) - dense], strict=False):
            column.append(leaf)
    curve = torch.stack([piece.outputs[-1] for piece in result.pieces]) if dense and result.pieces else None
    rows = tuple(torch.cat(column) if len(column) > 1 else column[0] for column in columns)
    return Kept(rows, curve, result.y1, result)


# --- gradients to times ------------------------------------------------------------------------------------------


class _Moved(torch.autograd.Function):
    """``y`` unchanged, with the derivative ``dy/dt = slope``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, t: Tensor, slope: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])
        ctx.save_for_forward(inputs[2])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        t, slope = ctx.saved_tensors
        return g, inner(g, slope).to(t.dtype), None

    @staticmethod
    def jvp(ctx: Any, y_tangent: Tensor, t_tangent: Tensor, _: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,) = ctx.saved_tensors
        return y_tangent + slope * t_tangent.to(slope.dtype)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> as a 0-d tensor."""
    product = a.conj() * b if a.is_complex() else a * b
    return product.real.sum() if product.is_complex() else product.sum()


def move(y: Tensor, t: Tensor, rate: Callable[[Tensor, Tensor], Tensor], sign: float = 1.0) -> Tensor:
    """``y`` with ``dy/dt = sign * f(t, y)``, right to second order.

    The slope is evaluated twice, the second time at a state that already moves with ``t``: that gives the second
    derivative ``f_t + sign * f_y f``.
    """
    once = _Moved.apply(y, t, sign * rate(t, y))
    return _Moved.apply(y, t, sign * rate(t, once))


def move_start(problem: Problem, y0: Tensor, t: Tensor | None, args: Any) -> Tensor:
    """The start with its derivative with respect to the first time, unless fixed steps carry it."""
    if t is None or problem.controller.exact_times:
        return y0
    return move(y0, t[0], lambda t0, y: problem.term.rate(t0, y, args), sign=-1.0)


def timed(problem: Problem, t: Tensor | None, args: Any) -> dict[str, Any]:
    """What the loop needs so that its rows depend on the requested times."""
    if t is None:
        return {}
    if problem.controller.exact_times:
        return {"times": list(t.double().unbind())}

    def moved(rows: Tensor, due: slice) -> Tensor:
        rate = problem.term.rate
        return torch.stack([move(y, ti, lambda s, x: rate(s, x, args)) for y, ti in zip(rows, t[due], strict=True)])

    return {"moved": moved}


# --- vector-Jacobian products ------------------------------------------------------------------------------------


def aliases(tensors: Sequence[Tensor | None], create_graph: bool) -> list[Tensor | None]:
    """Fresh names for inputs of a recomputation, so that its graph ends at them.

    With ``create_graph`` they stay linked to the originals; a gradient with respect to an alias still stops there.
    """
    if create_graph:
        return [
            None if x is None else x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in tensors
        ]
    return [None if x is None else x.detach().requires_grad_() for x in tensors]


def pull_back(
    outputs: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
    create_graph: bool,
) -> list[Tensor | None]:
    """``sum_j cotangent_j^T d output_j / d input_i`` for every input; None where nothing depends on it."""
    pairs = [
        (y, g) for y, g in zip(outputs, cotangents, strict=True) if y is not None and g is not None and y.requires_grad
    ]
    if not pairs or not inputs:
        return [None] * len(inputs)
    grads = torch.autograd.grad(
        [y for y, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True, create_graph=create_graph
    )
    return list(grads)


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum, where None is zero."""
    return b if a is None else a if b is None else a + b
