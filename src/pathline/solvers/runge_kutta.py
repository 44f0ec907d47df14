"""Explicit Runge-Kutta methods, driven by their tableau."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline._forward import constant
from pathline.solvers.base import Weights, combine, sparse, spread

if TYPE_CHECKING:
    from pathline.tableaus import Tableau
    from pathline.terms import Bound, Time


class RungeKutta:
    """An explicit Runge-Kutta method.

    ``k_i = f(t0 + c_i h, y0 + h sum_j a_ij k_j)``, ``y1 = y0 + h sum_i b_i k_i``; the error estimate is
    ``h sum_i (b_i - b*_i) k_i``. Dense output is the tableau's own, or cubic Hermite. *Stable.*

    Args:
        tableau: the coefficients.
        gains: proportional, integral and derivative gain of a PID controller that is told none.

    Example:
        >>> import pathline
        >>> pathline.METHODS["dopri5"].order, pathline.METHODS["dopri5"].fsal
        (5, True)
    """

    needs = "rate"
    carries_slope = True

    def __init__(self, tableau: Tableau, gains: tuple[float, float, float] = (0.0, 1.0, 0.0)) -> None:
        self.tableau, self.gains = tableau, gains
        self.name = tableau.name
        self.fsal = tableau.fsal
        self.stages = tableau.stages
        self.adaptive = bool(tableau.embedded)
        # Plain attributes: TorchDynamo can't enter the lock of a cached property.
        self._fractions = [float(c) for c in tableau.c[1:]]
        self._stage_weights = [sparse(row) for row in tableau.a[1:]]
        self._weights = sparse(tableau.b)
        self._errors: list[Weights] = [sparse(weights) for weights in tableau.error_weights]

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.tableau.order

    @property
    def embedded_order(self) -> int | None:
        """Order of the error estimate; None for a fixed-step method."""
        return self.tableau.embedded_order

    @property
    def free_dense(self) -> bool:
        """Whether dense output costs no evaluation."""
        return self.fsal and not self.tableau.extra

    @property
    def dense_order(self) -> int:
        """Order of the dense output."""
        return self.tableau.dense_order

    @cached_property
    def _nodes(self) -> Tensor:
        return constant(lambda: torch.tensor(self._fractions, dtype=torch.float64).unsqueeze(1))

    @cached_property
    def _polynomial(self) -> Tensor:
        """``(degree, stages)``, double precision."""
        return constant(lambda: torch.from_numpy(self.tableau.dense_weights.T.copy()))

    @cached_property
    def _powers(self) -> np.ndarray:
        return np.arange(1, self.tableau.dense_weights.shape[1] + 1)

    @cached_property
    def _extra(self) -> list[tuple[float, Weights]]:
        """Stages that only dense output needs: the slope at the end, then the printed ones."""
        end = [] if self.fsal else [(1.0, self._weights)]
        return end + [(float(c), sparse(row)) for c, row in self.tableau.extra]

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> Tensor:
        """The first slope."""
        return term.rate(t0, y0, args)

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Tensor | None) -> RungeKuttaStep:
        """One step; ``carry`` is the slope at ``(t0, y)`` where the step before left it."""
        dt = t1 - t0
        h = spread(dt, y)
        ks = [term.rate(t0, y, args) if carry is None else carry]
        y_i = y
        for t, row in zip(self._times(term, t0, t1, dt), self._stage_weights, strict=True):
            y_i = combine(y, h, row, ks)
            ks.append(term.rate(t, y_i, args))
        y1 = y_i if self.fsal else combine(y, h, self._weights, ks)
        return RungeKuttaStep(self, term, t0, t1, y, y1, ks, args, self._error(h, ks))

    def _times(self, term: Bound, t0: Time, t1: Time, dt: Time) -> Sequence[Time]:
        """Of the stages after the first; of all rows at once, where each has its own."""
        if isinstance(t0, Tensor) and isinstance(dt, Tensor) and dt.dim():
            nodes = self._nodes.to(dt.device)
            return term.shaped(torch.where(nodes == 1.0, t1, torch.addcmul(t0, nodes, dt))).unbind()
        return [t1 if c == 1.0 else t0 + c * dt for c in self._fractions]

    def _error(self, h: Any, ks: list[Tensor]) -> Tensor | tuple[Tensor, Tensor] | None:
        if not self._errors:
            return None
        with torch.no_grad():
            if isinstance(h, Tensor) and h.dim() == 0:
                h = h.item()
            estimates = [_weighted(h, weights, ks) for weights in self._errors]
        return estimates[0] if len(estimates) == 1 else (estimates[0], estimates[1])


def _weighted(dt: Any, weights: Weights, ks: Sequence[Tensor]) -> Tensor:
    """``dt * sum(w * k)``."""
    (first, scale), *rest = weights
    if isinstance(dt, Tensor):
        total = ks[first] * scale
        for i, w in rest:
            total.add_(ks[i], alpha=w)
        return total.mul_(dt)
    total = ks[first] * (dt * scale)
    for i, w in rest:
        total.add_(ks[i], alpha=dt * w)
    return total


def product(weights: Tensor, slopes: Tensor) -> Tensor:
    """``(n, *state)``: the slopes combined by the rows of ``weights``, in the slopes' dtype under autocast too."""
    kind = slopes.device.type
    if torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return product(weights, slopes)
    combined = weights.to(slopes.dtype) @ slopes.reshape(len(slopes), -1)
    return combined.view(len(weights), *slopes.shape[1:])


class RungeKuttaStep:
    """One step and its dense output; the stages that only dense output needs are evaluated at the first question."""

    failed = None
    __slots__ = ("args", "error", "ks", "solver", "t0", "t1", "term", "y0", "y1")

    def __init__(
        self,
        solver: RungeKutta,
        term: Bound,
        t0: Time,
        t1: Time,
        y0: Tensor,
        y1: Tensor,
        ks: list[Tensor],
        args: Any,
        error: Tensor | tuple[Tensor, Tensor] | None,
    ) -> None:
        self.solver, self.term, self.args = solver, term, args
        self.t0, self.t1, self.y0, self.y1, self.ks, self.error = t0, t1, y0, y1, ks, error

    @property
    def carry(self) -> Tensor | None:
        """The slope at the end, where the step or its dense output has computed it."""
        end = self.solver.stages - self.solver.fsal
        return self.ks[end] if len(self.ks) > end else None

    @property
    def retry(self) -> Tensor:
        """The slope at the start, for another try from there."""
        return self.ks[0]

    def slopes(self) -> Tensor:
        """``(stages with the extra ones, *state)``."""
        self._end_slope()
        self._extra_stages(self.ks)
        return torch.stack(self.ks)

    def _end_slope(self) -> None:
        if not self.solver.fsal and len(self.ks) == self.solver.stages:
            self.ks.append(self.term.rate(self.t1, self.y1, self.args))

    def _extra_stages(self, ks: list[Tensor]) -> None:
        dt = self.t1 - self.t0
        for c, row in self.solver._extra[len(ks) - self.solver.stages :]:
            ks.append(self.term.rate(self.t0 + c * dt, combine(self.y0, dt, row, ks), self.args))

    def _of(self, rows: Tensor) -> RungeKuttaStep:
        """The step of some rows. The slope at the end is computed for all: it is the next carry."""
        self._end_slope()
        ks = [k[rows] for k in self.ks]
        y0, y1, t0, t1 = (x[rows] for x in (self.y0, self.y1, self.t0, self.t1))  # pyright: ignore[reportIndexIssue]
        return RungeKuttaStep(self.solver, self.term.select(rows), t0, t1, y0, y1, ks, self.args, None)

    def rows(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(len(times), *state)``: dense output at times inside the step."""
        weights = self._weights(times)
        slopes = self.slopes()
        return self.y0 + product(weights, slopes)

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(degree + 1, *state)``: dense output in powers of theta."""
        if rows is not None:
            return self._of(rows).coefficients()
        slopes = self.slopes()
        dt = self.t1 - self.t0
        if isinstance(dt, Tensor) and dt.dim():
            terms = product(self.solver._polynomial.to(slopes.device), slopes) * spread(dt, self.y0)
            return torch.cat([self.y0.unsqueeze(0), terms])
        matrix = self.solver._polynomial.to(slopes.device) * dt
        return torch.cat([self.y0.unsqueeze(0), product(matrix, slopes)])

    def _weights(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(len(times), stages)``: dt times the polynomial weights at these times."""
        dt, powers = self.t1 - self.t0, self.solver._powers
        if isinstance(times, Tensor) or isinstance(dt, Tensor):
            times = torch.as_tensor(times, dtype=torch.float64)
            theta = ((times - self.t0) / dt).unsqueeze(-1)
            return theta ** torch.from_numpy(powers).to(theta.device) @ self.solver._polynomial.to(theta.device) * dt
        theta = (np.array(times) - self.t0) / dt
        # The small product is torch's too: a call of numpy's BLAS between those of torch's made both five times slower.
        weights = torch.from_numpy(dt * theta[:, None] ** powers) @ self.solver._polynomial
        return weights.to(device=self.y0.device, dtype=self.y0.dtype)
