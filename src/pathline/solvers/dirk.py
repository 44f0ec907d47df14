"""Diagonally implicit Runge-Kutta methods: one implicit stage after another, with one matrix for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline._forward import recording
from pathline.solvers.base import Memory, Weights, combine, hermite, sparse, spread
from pathline.solvers.curves import Curve
from pathline.solvers.implicit_tableaus import DIAGONAL
from pathline.solvers.newton import Newton, Spectrum, Stages, Work

if TYPE_CHECKING:
    from pathline.solvers.implicit_tableaus import ImplicitTableau
    from pathline.terms import Bound, Time


class DIRK:
    """A diagonally implicit Runge-Kutta method.

    ``z_i = h g f(t_i, y0 + h sum_(j<i) a_ij k_j + z_i)``, ``k_i = z_i / (h g)``, ``y1 = y0 + h sum_i b_i k_i``. All
    stages share the factors of ``1 / (h g) - J``. Slopes come from the stages, not from the field, which would amplify
    the rest of the iteration's error by the stiffness. Where the tableau says so, the error estimate is divided
    by ``I - h g J``. Dense output is cubic Hermite, or of order 4 for a method of order 5. *Maturing.*

    Args:
        tableau: the coefficients.
        newton: options of the iteration.

    Example:
        >>> import torch, pathline
        >>> stiff = lambda t, y: -1e6 * (y - torch.cos(t))
        >>> solution = pathline.solve(stiff, torch.zeros(1), (0.0, 1.0), method="kvaerno5")
        >>> bool((solution.y1 - torch.cos(torch.tensor(1.0))).abs() < 1e-3)
        True

    References:
        Kennedy and Carpenter (2016), Diagonally implicit Runge-Kutta methods for ordinary differential equations.
    """

    needs = "rate"
    carries_slope = False
    implicit = True
    gains = (0.0, 1.0, 0.0)
    #: A step that would grow by less keeps its length, and with it its factors.
    deadband = 1.2

    def __init__(self, tableau: ImplicitTableau, newton: Newton | None = None) -> None:
        self.tableau, self.newton = tableau, newton or Newton()
        self.name = tableau.name
        self.stages = tableau.stages
        self.stiffly_accurate = tableau.stiffly_accurate and tableau.damps
        self.fsal = tableau.explicit_first and tableau.stiffly_accurate
        self.adaptive = tableau.embedded is not None
        self.symplectic = self.name == "implicit_midpoint"

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.tableau.order

    @property
    def embedded_order(self) -> int | None:
        """Order of the error estimate; None for a fixed-step method."""
        return self.tableau.embedded_order

    @property
    def dense_order(self) -> int:
        """Order of the dense output."""
        return self.tableau.dense_order

    @cached_property
    def _rows(self) -> list[Weights]:
        return [sparse(row[:i].tolist()) for i, row in enumerate(self.tableau.a)]

    @cached_property
    def _weights(self) -> Weights:
        return sparse(self.tableau.b.tolist())

    @cached_property
    def _error(self) -> Weights:
        tableau = self.tableau
        return [] if tableau.embedded is None else sparse((tableau.b - tableau.embedded).tolist())

    @cached_property
    def _spectrum(self) -> Spectrum:
        return Spectrum(np.array([[self.tableau.diagonal]]))

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> None:
        """Nothing: the first step finds its slope and its Jacobian."""
        return

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Any) -> DIRKStep:
        """One step; ``carry`` holds the slope at the start and what the iterations keep."""
        memory = None if carry is None or carry["memory"] is None else carry["memory"].tree
        work = self.newton.begin(term, t0, y, args, memory)
        tableau, systems, dt = self.tableau, work.systems, t1 - t0
        y_ = systems.flat(y)
        slope = None if carry is None else carry.get("slope")
        ks: list[Tensor] = []
        z, stages = y_, None
        for i, (c, row) in enumerate(zip(tableau.c.tolist(), self._rows, strict=True)):
            if i == 0 and tableau.explicit_first:
                ks.append(self._first(term, t0, y, args, work) if slope is None else systems.flat(slope))
                continue
            base = combine(y_, dt, row, ks)
            t = t1 if c == 1.0 else t0 + c * dt
            stages = Stages(term, [t], base, dt, self._spectrum, args, systems)
            z, k = self._stage(work, stages, ks)
            ks.append(k)
            if work.bad.all():
                return DIRKStep(self, term, t0, t1, y, y, ks, args, work, None)
            z = base + z
        y1 = z if tableau.stiffly_accurate else combine(y_, dt, self._weights, ks)
        return DIRKStep(self, term, t0, t1, y, systems.state(y1), ks, args, work, self._estimate(work, stages, dt, ks))

    def _first(self, term: Bound, t0: Time, y: Tensor, args: Any, work: Work) -> Tensor:
        if work.f0 is not None and not recording():
            return work.f0
        return work.systems.flat(term.rate(t0, y, args))

    def _stage(self, work: Work, stages: Stages, ks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """An implicit stage ``z`` and its slope, from the slope of the stage before."""
        length = spread(stages.h, stages.base) * self.tableau.diagonal
        guess = (length * (ks[-1] if ks else work.f0)).unsqueeze(1) if ks or work.f0 is not None else None
        z, _ = work.solve(stages, guess)
        z = z[:, 0]
        return z, z / length

    def _estimate(self, work: Work, stages: Stages | None, dt: Time, ks: Sequence[Tensor]) -> Tensor | None:
        if not self._error or stages is None:
            return None
        with torch.no_grad():
            error = combine(torch.zeros_like(ks[0]), dt, self._error, ks)
            if self.tableau.filtered:
                length = spread(dt, error) * self.tableau.diagonal
                error = stages.filtered(error / length, work.factors)
        return work.systems.state(error)


class DIRKStep(Curve):
    """One step and its dense output."""

    def __init__(
        self,
        solver: DIRK,
        term: Bound,
        t0: Time,
        t1: Time,
        y0: Tensor,
        y1: Tensor,
        ks: list[Tensor],
        args: Any,
        work: Work,
        error: Tensor | None,
    ) -> None:
        self.solver, self.term, self.args, self.work = solver, term, args, work
        self.t0, self.t1, self.dt, self.y0, self.y1, self.ks, self.error = t0, t1, t1 - t0, y0, y1, ks, error
        self.failed = work.reason(work.bad if work.bad.any() else None)
        self.lost = work.blame

    @cached_property
    def carry(self) -> dict[str, Any]:
        """The slope at the end, where the last stage is that, and what the iterations keep."""
        return self._carry(-1, self.work.memory())

    @cached_property
    def retry(self) -> dict[str, Any]:
        """The slope at the start, and the Jacobian there."""
        return self._carry(0, self.work.retry())

    def _carry(self, stage: int, memory: Any) -> dict[str, Any]:
        slope = {"slope": self.work.systems.state(self.ks[stage])} if self.solver.fsal else {}
        return {**slope, "memory": Memory(memory)}

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(degree + 1, *state)``: dense output in powers of theta."""
        weights = self.solver.tableau.dense
        if weights is None:
            return self._cubic(rows)
        ks = torch.stack(self.ks) if rows is None else torch.stack(self.ks)[:, rows]
        dt, y0 = of(self.dt, rows), of(self.y0, rows)
        matrix = torch.tensor(weights.T, dtype=ks.dtype, device=ks.device)
        rises = torch.tensordot(matrix, ks, 1) * spread(dt, ks[0])
        return torch.stack([y0, *(self.work.systems.state(rise) for rise in rises)])

    def _cubic(self, rows: Tensor | None) -> Tensor:
        y0, y1, dt = of(self.y0, rows), of(self.y1, rows), of(self.dt, rows)
        return hermite(dt, y0, y1, self._slope(0, self.t0, y0, rows), self._slope(-1, self.t1, y1, rows))

    def _slope(self, stage: int, t: Time, y: Tensor, rows: Tensor | None) -> Tensor:
        """The slope at one end: that of a stage where it is one, else the field's."""
        tableau = self.solver.tableau
        if tableau.stiffly_accurate if stage else tableau.explicit_first:
            return self.work.systems.state(of(self.ks[stage], rows))
        term = self.term if rows is None else self.term.select(rows)
        return term.rate(of(t, rows), y, self.args)


def of(x: Any, rows: Tensor | None) -> Any:
    """The rows of a tensor of them; anything else as it is."""
    return x if rows is None or not isinstance(x, Tensor) or x.dim() == 0 else x[rows]


#: Every diagonally implicit method by its name.
DIRKS: dict[str, DIRK] = {name: DIRK(tableau) for name, tableau in DIAGONAL.items()}
