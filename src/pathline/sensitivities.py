"""The adjoint state as a curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline.controls.piecewise import PiecewisePolynomial
from pathline.gradients.adjoint import Adjoint, sweep
from pathline.gradients.interpolated import Trail
from pathline.gradients.recompute import bare
from pathline.solution import Solution
from pathline.stats import Stats


class Sensitivity:
    """The adjoint state ``a(t) = dL/dy(t)`` between the first and the last requested time. *Maturing.*

    At an output time the adjoint jumps by the loss's derivative with respect to that row. ``a(t)`` counts that row;
    ``a(t, after=True)`` counts the later ones only.
    """

    def __init__(self, curve: PiecewisePolynomial, unravel: Callable[[Tensor], Any], first: Tensor) -> None:
        self._curve, self._unravel, self._first = curve, unravel, first

    @property
    def ts(self) -> Tensor:
        """``(pieces + 1,)``: the ends of the backward steps, from the last time to the first."""
        return self._curve.knots

    def __call__(self, t: Tensor | float, *, after: bool = False) -> Any:
        """``a(t)``, ``(*t.shape, *state)`` in the structure of the state.

        Raises:
            ValueError: a time outside the solution's span.
        """
        values = self._curve(t, after=not after)  # the knots run backwards in time
        asked = torch.as_tensor(t, dtype=torch.float64, device=values.device)
        edge = asked == (self._curve.knots[0] if after else self._curve.knots[-1])
        edge = edge.reshape(asked.shape + (1,) * self._first.dim())
        return self._unravel(torch.where(edge, torch.zeros_like(values) if after else values + self._first, values))

    def derivative(self, t: Tensor | float, *, after: bool = False) -> Any:
        """``da/dt``, of the same shape."""
        return self._unravel(self._curve.derivative(t, after=not after))


def sensitivity(
    solution: Solution, loss: Tensor | Callable[[Any], Tensor], *, rtol: float | None = None, atol: float | None = None
) -> Sensitivity:
    """How the loss depends on the state at every time: ``a(t) = dL/dy(t)``, a curve.

    Solves ``da/dt = -a^T df/dy`` backwards from the last requested time, with a jump at every output time. The state is
    read from the solution's dense output where that was kept, ``Save(dense=True)``, which stiff and strongly damped
    fields need; else it is integrated backwards too. *Maturing.*

    Args:
        solution: of `solve`, any gradient mode, with rows of the state (no ``Save(fn=...)``).
        loss: ``loss(ys) -> scalar``, or a scalar computed from ``solution.ys`` in its graph.
        rtol: of the backward solve; by default that of the forward one.
        atol: alike.

    Returns:
        A `Sensitivity`, without gradient.

    Raises:
        ValueError: the solution was unpickled, kept other values than the state, failed, or has no length.

    Example:
        >>> import torch, pathline
        >>> solution = pathline.solve(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]))
        >>> a = pathline.sensitivity(solution, lambda ys: ys[-1].sum())
        >>> round(float(a(0.0)), 3), round(float(a(1.0)), 3)
        (0.368, 1.0)

    References:
        Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural Ordinary Differential Equations, appendix B.
    """
    if solution.source is None:
        raise ValueError("`solution` has lost its field (it was pickled). Solve again.")
    problem, args = solution.source
    if problem.per_sample or solution.events:
        raise ValueError(
            '`sensitivity` is for the shared clock without events. Solve with clock="shared", and from event to event.'
        )
    if problem.save.fn is not None or not solution.status or problem.times[0] == problem.times[-1]:
        raise ValueError("`sensitivity` needs a complete solution of positive length whose rows are the state.")
    if problem.shown is not None:
        raise ValueError("`sensitivity` is for a solve without `integrals`. Leave them out.")
    read, trail = isinstance(solution.curve, PiecewisePolynomial), None
    if read:
        trail = Trail(solution.curve.knots.tolist(), left=solution.curve.coefficients.detach().unbind())
    cotangents = problem.structure.ravel_rows(_cotangents(solution, loss))
    rows = problem.structure.ravel_rows(pytree.tree_map(torch.Tensor.detach, solution.ys))
    times = solution.ts.detach().tolist()
    knots, coefficients = [times[-1]], []

    def keep(result: Any, scale: Tensor) -> None:
        for piece in result.pieces:
            knots.append(piece.t1)
            adjoint = piece.outputs[-1] if read else piece.outputs[-1][:, 1]
            if problem.solver.needs == "split":  # there the halves stand in each other's place
                q, p = problem.term.halves(adjoint)
                adjoint = problem.term.join(p, q)
            coefficients.append(adjoint * scale)

    # A solve in one piece has no curve of pieces.
    method = "tsit5" if getattr(problem.solver, "whole", False) else None
    own = replace(problem, stats=Stats())  # the solution's counts stay its own
    with torch.no_grad():
        config = Adjoint(method=method, rtol=rtol, atol=atol, state="dense" if read else "backward")
        sweep(config, bare(own, args), times, rows, cotangents, None, [], keep, trail)
    curve = PiecewisePolynomial(torch.tensor(knots, dtype=torch.float64, device=rows.device), torch.stack(coefficients))
    at_start = torch.tensor([t == times[0] for t in times], device=rows.device)
    return Sensitivity(curve, problem.structure.unravel, cotangents[at_start].sum(0))


def _cotangents(solution: Solution, loss: Tensor | Callable[[Any], Tensor]) -> Any:
    """``dL/dys`` in the structure of ``ys``."""
    if not (isinstance(loss, Tensor) or callable(loss)):
        raise TypeError(f"`loss` is a function of ys, or a scalar computed from solution.ys; it is {loss!r}.")
    if callable(loss) and not isinstance(loss, Tensor):
        with torch.enable_grad():
            ys = pytree.tree_map(lambda x: x.detach().requires_grad_(), solution.ys)
            value = loss(ys)
    else:
        ys, value = solution.ys, loss
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise ValueError(
            "`loss` is one number in the graph of ys; it is "
            + (f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value))
            + ". Return a scalar computed from ys, such as ys[-1].square().mean()."
        )
    leaves, spec = pytree.tree_flatten(ys)
    grads = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    return pytree.tree_unflatten(
        [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)], spec
    )
