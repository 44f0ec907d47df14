"""Implicit-explicit Runge-Kutta methods: implicit in the stiff part of a sum, explicit in the other."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.solvers.base import Memory, Weights, combine, hermite, sparse, spread
from pathline.solvers.curves import Curve
from pathline.solvers.dirk import of
from pathline.solvers.implicit_tableaus import PAIRS
from pathline.solvers.newton import Newton, Spectrum, Stages, Work

if TYPE_CHECKING:
    from pathline.solvers.implicit_tableaus import Pair
    from pathline.terms import Bound, Time


class IMEX:
    """An additive Runge-Kutta method for ``dy/dt = stiff + nonstiff``.

    ``Y_i = y0 + h sum_(j<=i) a_ij stiff_j + h sum_(j<i) â_ij nonstiff_j``, ``y1 = y0 + h sum_i b_i (stiff_i +
    nonstiff_i)``. Newton's iteration and the Jacobian see the stiff part alone. Dense output is cubic Hermite.
    *Maturing.*

    Args:
        pair: the coefficients.
        newton: options of the iteration.

    Example:
        >>> import torch, pathline
        >>> term = pathline.Sum(lambda t, y: -1e4 * y, lambda t, y: torch.cos(t).expand_as(y))
        >>> pathline.solve(term, torch.ones(1), (0.0, 1.0), method="kencarp4").stats.accepted < 200
        True

    References:
        Kennedy and Carpenter (2003), Additive Runge-Kutta schemes for convection-diffusion-reaction equations.
    """

    needs = "parts"
    carries_slope = False
    implicit = True
    adaptive = True
    stiffly_accurate = False
    fsal = False
    dense_order = 3
    gains = (0.0, 1.0, 0.0)
    #: A step that would grow by less keeps its length, and with it its factors.
    deadband = 1.2

    def __init__(self, pair: Pair, newton: Newton | None = None) -> None:
        self.pair, self.newton = pair, newton or Newton()
        self.name, self.stages = pair.implicit.name, pair.implicit.stages

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.pair.order

    @property
    def embedded_order(self) -> int:
        """Order of the error estimate."""
        return self.pair.embedded_order

    @cached_property
    def _rows(self) -> list[tuple[float, Weights, Weights]]:
        implicit, explicit = self.pair.implicit, self.pair.explicit
        return [
            (c, sparse(implicit.a[i, :i].tolist()), sparse(explicit[i, :i].tolist()))
            for i, c in enumerate(implicit.c.tolist())
        ]

    @cached_property
    def _weights(self) -> Weights:
        return sparse(self.pair.implicit.b.tolist())

    @cached_property
    def _error(self) -> Weights:
        tableau = self.pair.implicit
        assert tableau.embedded is not None
        return sparse((tableau.b - tableau.embedded).tolist())

    @cached_property
    def _spectrum(self) -> Spectrum:
        return Spectrum(np.array([[self.pair.implicit.diagonal]]))

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> None:
        """Nothing: the first step makes its Jacobian."""
        return

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Any) -> IMEXStep:
        """One step; ``carry`` holds what the iterations keep."""
        memory = None if carry is None or carry["memory"] is None else carry["memory"].tree
        stiff, nonstiff = term.parts
        work = self.newton.begin(stiff, t0, y, args, memory)
        systems, dt = work.systems, t1 - t0
        start = systems.flat(y)
        length = spread(dt, start) * self.pair.implicit.diagonal
        fast: list[Tensor] = []
        slow: list[Tensor] = []
        for i, (c, implicit, explicit) in enumerate(self._rows):
            t = t1 if c == 1.0 else t0 + c * dt
            base = combine(combine(start, dt, implicit, fast), dt, explicit, slow)
            if i == 0:
                fast.append(systems.flat(stiff.rate(t0, y, args)))
            else:
                z, _ = work.solve(
                    Stages(stiff, [t], base, dt, self._spectrum, args, systems), self._guess(length, fast)
                )
                if work.bad.all():
                    return IMEXStep(self, term, t0, t1, y, y, args, work, None, fast, slow)
                fast.append(z[:, 0] / length)
                base = base + z[:, 0]
            slow.append(systems.flat(nonstiff.rate(t, systems.state(base), args)))
        both = [f + g for f, g in zip(fast, slow, strict=True)]
        y1 = systems.state(combine(start, dt, self._weights, both))
        return IMEXStep(self, term, t0, t1, y, y1, args, work, self._estimate(work, dt, both), fast, slow)

    def _guess(self, length: Any, fast: list[Tensor]) -> Tensor:
        return (length * fast[-1]).unsqueeze(1)

    def _estimate(self, work: Work, dt: Time, both: list[Tensor]) -> Tensor:
        """The difference to the embedded solution."""
        with torch.no_grad():
            error = combine(torch.zeros_like(both[0]), dt, self._error, both)
        return work.systems.state(error)


class IMEXStep(Curve):
    """One step and its dense output."""

    def __init__(
        self,
        solver: IMEX,
        term: Bound,
        t0: Time,
        t1: Time,
        y0: Tensor,
        y1: Tensor,
        args: Any,
        work: Work,
        error: Tensor | None,
        fast: list[Tensor],
        slow: list[Tensor],
    ) -> None:
        self.solver, self.term, self.args, self.work, self.error = solver, term, args, work, error
        self.t0, self.t1, self.y0, self.y1, self.fast, self.slow = t0, t1, y0, y1, fast, slow
        self.failed = work.reason(work.bad if work.bad.any() else None)
        self.lost = work.blame

    @cached_property
    def carry(self) -> dict[str, Memory]:
        """What the iterations keep."""
        return {"memory": Memory(self.work.memory())}

    @cached_property
    def retry(self) -> dict[str, Memory]:
        """The same, for another try from the same start."""
        return {"memory": Memory(self.work.retry())}

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(4, *state)``: the cubic through both ends, in powers of theta."""
        y0, y1 = of(self.y0, rows), of(self.y1, rows)
        f0 = self.work.systems.state(of(self.fast[0] + self.slow[0], rows))
        term = self.term if rows is None else self.term.select(rows)
        return hermite(of(self.t1 - self.t0, rows), y0, y1, f0, term.rate(of(self.t1, rows), y1, self.args))


#: Every implicit-explicit method by its name.
IMEXS: dict[str, IMEX] = {name: IMEX(pair) for name, pair in PAIRS.items()}
