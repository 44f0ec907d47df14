"""Costs of the steps themselves: what a solver's own estimates say, summed over the accepted steps.

The field gives these entries of the state the rate zero; a solver around the solver adds to them at each step's end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pathline.solvers.base import combine, sparse, spread
from pathline.solvers.runge_kutta import RungeKutta, RungeKuttaStep

if TYPE_CHECKING:
    from pathline.solvers.base import Solver
    from pathline.terms import Bound, Time


@runtime_checkable
class StepCost(Protocol):
    """A number for each accepted step. *Experimental.*"""

    def check(self, solver: RungeKutta) -> None:
        """Raise ValueError where the method has no such estimate."""
        ...

    def of_step(self, step: RungeKuttaStep, seen: int, *, rows: bool) -> Tensor:
        """The cost of one step, from the first ``seen`` entries: a number, or with ``rows`` one for each row."""
        ...


class ErrorEstimate:
    """The error estimates of the accepted steps, ``sum_j E_j |h_j|``, differentiable.

    ``E_j`` is the root mean square of the embedded method's estimate of the local error, in the units of the state. As
    an entry of ``integrals`` its value at the last time is the sum over the whole solve; in a loss it teaches the model
    to be easy to solve. For explicit Runge-Kutta methods, under ``gradient="backprop"`` and ``"checkpointed"``: the
    continuous adjoint knows no steps. *Experimental.*

    Example:
        >>> import torch, pathline
        >>> costs = {"error": pathline.ErrorEstimate()}
        >>> solution = pathline.solve(lambda t, y: torch.cos(9 * y), torch.ones(2), (0.0, 1.0), integrals=costs)
        >>> bool(0 < solution.integrals["error"][-1] < 1e-4)
        True

    References:
        Pal, Ma, Shah, Rackauckas (2021), Opening the Blackbox: Accelerating Neural Differential Equations by
        Regularizing Internal Solver Heuristics.
    """

    def check(self, solver: RungeKutta) -> None:
        """Raise ValueError for a method without an embedded one."""
        if not solver.adaptive:
            raise ValueError(f'`ErrorEstimate` needs a method with an error estimate; "{solver.name}" has none.')

    def of_step(self, step: RungeKuttaStep, seen: int, *, rows: bool) -> Tensor:
        """``E |h|``."""
        zero, h = torch.zeros_like(step.y0), spread(step.t1 - step.t0, step.y0)
        sizes = [
            mean_square_root(combine(zero, h, sparse(weights), step.ks), seen, rows=rows)
            for weights in step.solver.tableau.error_weights
        ]
        if len(sizes) == 1:
            return sizes[0] * _length(step, sizes[0])
        fine, coarse = sizes  # as the controller combines them
        both = torch.sqrt(fine.square() + 0.01 * coarse.square()).clamp_min(torch.finfo(fine.dtype).tiny)
        return fine.square() / both * _length(step, fine)


class StiffnessEstimate:
    """How stiff the accepted steps find the field, ``sum_j S_j``, differentiable.

    ``S_j = |k_s - k_(s-1)| / |Y_s - Y_(s-1)|``, for two stages at the same time: an estimate of the size of the largest
    eigenvalue of the Jacobian. For explicit Runge-Kutta methods whose last two stages stand at the end of the step
    (tsit5, dopri5, dopri8), under ``gradient="backprop"`` and ``"checkpointed"``. *Experimental.*

    Example:
        >>> import torch, pathline
        >>> costs = {"stiffness": pathline.StiffnessEstimate()}
        >>> solution = pathline.solve(lambda t, y: -30 * y, torch.ones(2), (0.0, 1.0), integrals=costs)
        >>> round(float(solution.integrals["stiffness"][-1]) / solution.stats.accepted)
        30

    References:
        Pal, Ma, Shah, Rackauckas (2021), Opening the Blackbox: Accelerating Neural Differential Equations by
        Regularizing Internal Solver Heuristics; Hairer, Wanner (1996), Solving Ordinary Differential Equations II,
        IV.2.
    """

    def check(self, solver: RungeKutta) -> None:
        """Raise ValueError where the last two stages stand at different times."""
        nodes = [float(c) for c in solver.tableau.c]
        if len(nodes) < 3 or nodes[-1] != nodes[-2]:
            raise ValueError(
                f'`StiffnessEstimate` compares two stages at the same time, and those of "{solver.name}" stand at '
                'different ones. Use method="tsit5" or "dopri5".'
            )

    def of_step(self, step: RungeKuttaStep, seen: int, *, rows: bool) -> Tensor:
        """``S``."""
        a, h = step.solver.tableau.a, spread(step.t1 - step.t0, step.y0)
        last, before = (combine(torch.zeros_like(step.y0), h, sparse(a[i]), step.ks) for i in (-1, -2))
        slopes = mean_square_root(step.ks[len(a) - 1] - step.ks[len(a) - 2], seen, rows=rows)
        apart = mean_square_root(last - before, seen, rows=rows)
        return slopes / apart.clamp_min(torch.finfo(apart.dtype).tiny ** 0.5)


def mean_square_root(x: Tensor, seen: int, *, rows: bool) -> Tensor:
    """The root mean square of the first ``seen`` entries of the last dimension; with ``rows`` of each row."""
    x = x[..., :seen]
    if rows:
        return torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1) / math.sqrt(max(x[:1].numel(), 1))
    return torch.linalg.vector_norm(x) / math.sqrt(max(x.numel(), 1))


def _length(step: RungeKuttaStep, like: Tensor) -> Any:
    h: Any = step.t1 - step.t0
    return h.abs().to(like.dtype) if isinstance(h, Tensor) else abs(h)


class Stepwise:
    """A solver, and costs of its steps in the last entries of the state.

    Args:
        base: an explicit Runge-Kutta method.
        costs: by the place of their entry in the last dimension of the flat state.
        seen: how many entries are the user's state.
        rows: whether each row of the state has its own costs.
    """

    def __init__(self, base: Solver, costs: Mapping[int, StepCost], seen: int, *, rows: bool) -> None:
        if not isinstance(base, RungeKutta):
            raise ValueError(
                f'The estimates of a step are differentiable for explicit Runge-Kutta methods; "{base.name}" is none. '
                'Use method="tsit5" or "dopri5".'
            )
        for cost in costs.values():
            cost.check(base)
        self.base, self.costs, self.seen, self.by_row = base, costs, seen, rows

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> Any:
        """What the first step starts with."""
        return self.base.init(term, t0, y0, args)

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Any) -> CostedStep:
        """One step, with its costs added at its end."""
        step: Any = self.base.step(term, t0, t1, y, args, carry)
        added = torch.zeros_like(y)
        columns = list(added.unbind(-1))
        for place, cost in self.costs.items():
            columns[place] = cost.of_step(step, self.seen, rows=self.by_row).to(y.dtype)
        return CostedStep(step, torch.stack(columns, dim=-1))


class CostedStep:
    """A step, and what it adds to the entries of its costs: along the step, at a constant rate."""

    def __init__(self, step: RungeKuttaStep, added: Tensor) -> None:
        self.inner, self.added = step, added
        self.y1 = step.y1 + added

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def rows(self, times: Sequence[float] | Tensor) -> Tensor:
        """Dense output at times inside the step."""
        rows, (t0, t1) = self.inner.rows(times), (self.inner.t0, self.inner.t1)
        theta = (torch.as_tensor(times, dtype=torch.float64, device=rows.device) - t0) / (t1 - t0)
        return rows + theta.to(self.added.real.dtype).reshape(-1, *(1,) * self.added.dim()) * self.added

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """Dense output in powers of theta."""
        curve = self.inner.coefficients() if rows is None else self.inner.coefficients(rows)
        added = self.added if rows is None else self.added[rows]
        flat = torch.zeros_like(added)
        return curve + torch.stack([flat, added, *[flat] * (len(curve) - 2)])
