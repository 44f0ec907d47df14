"""Collocation methods: all stages at once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.solvers.base import Memory, hermite, spread
from pathline.solvers.curves import Curve
from pathline.solvers.dirk import of
from pathline.solvers.implicit_tableaus import COLLOCATION as TABLEAUS
from pathline.solvers.iteration import numbers
from pathline.solvers.newton import Newton, Spectrum, Stages, Work

if TYPE_CHECKING:
    from pathline.solvers.implicit_tableaus import ImplicitTableau
    from pathline.terms import Bound, Time


class Collocation:
    """A Runge-Kutta method whose stages are the values of one polynomial that satisfies the equation at the nodes.

    ``Z_i = h sum_j a_ij f(t_j, y0 + Z_j)``. The iteration starts from the polynomial of the step before, drawn out.
    Methods that are stiffly accurate have this polynomial as their dense output, the others cubic Hermite. *Maturing.*

    Args:
        tableau: the coefficients.
        name: in the registry.
        newton: options of the iteration.

    Example:
        >>> import torch, pathline
        >>> swing = lambda t, y: torch.stack((y[1], -y[0]))
        >>> end = pathline.solve(swing, torch.tensor([1.0, 0.0]), (0.0, 1.0), method="gl6", dt=0.5).y1
        >>> bool((end[0] - torch.cos(torch.tensor(1.0))).abs() < 1e-5)
        True

    References:
        Hairer and Wanner (1996), Solving Ordinary Differential Equations II, IV.5 and IV.8.
    """

    needs = "rate"
    carries_slope = False
    implicit = True
    fsal = False
    adaptive = False
    embedded_order: int | None = None
    #: A step that would grow by less keeps its length, and with it its factors.
    deadband = 1.2

    def __init__(self, tableau: ImplicitTableau, name: str | None = None, newton: Newton | None = None) -> None:
        self.tableau, self.newton = tableau, newton or Newton()
        self.name = name or tableau.name
        self.stages = tableau.stages
        self.stiffly_accurate = tableau.stiffly_accurate
        self.symplectic = self.name.startswith("gl")
        self.dense_order = tableau.stages if tableau.stiffly_accurate else 3

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.tableau.order

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the matrix of the method."""
        return Spectrum(self.tableau.a)

    @cached_property
    def _powers(self) -> np.ndarray:
        return np.arange(1, self.stages + 1)

    @cached_property
    def _to_powers(self) -> np.ndarray:
        """``(stages, stages)``: from the stages to the coefficients of theta, theta^2, ..."""
        return np.linalg.inv(self.tableau.c[:, None] ** self._powers)

    @cached_property
    def _ends(self) -> np.ndarray:
        """What the stages add to the state: ``b a^-1``."""
        return self.tableau.b @ self.spectrum.inverse

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> None:
        """Nothing: the first step makes its Jacobian."""
        return

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Any) -> CollocationStep:
        """One step; ``carry`` holds what the iterations keep."""
        memory = None if carry is None or carry["memory"] is None else carry["memory"].tree
        work = self.newton.begin(term, t0, y, args, None if memory is None else memory["newton"])
        dt, base = t1 - t0, work.systems.flat(y)
        past = Past(self, work, dt, memory)
        times = [t1 if c == 1.0 else t0 + c * dt for c in self.tableau.c.tolist()]
        stages = Stages(term, times, base, dt, self.spectrum, args, work.systems)
        z, _ = work.solve(stages, past.guess())
        if self.stiffly_accurate:
            y1 = base + z[:, -1]
        else:
            y1 = base + torch.matmul(torch.tensor(self._ends, dtype=z.dtype, device=z.device), z)
        return self._made(stages, t0, t1, y, work.systems.state(y1), work, past, z)

    def _made(
        self, stages: Stages, t0: Time, t1: Time, y: Tensor, y1: Tensor, work: Work, past: Past, z: Tensor
    ) -> CollocationStep:
        return CollocationStep(self, stages, t0, t1, y, y1, work, past, z)


class Past:
    """What a step knows of the one before, beside Jacobian and factors.

    Attributes:
        length, error: ``(rows,)``, of the last accepted step; NaN where there is none.
        curve: ``(rows, stages, size)``, coefficients of its polynomial.
        f0: ``(rows, size)``, the rate at the start of this step, where it is ``known``.
    """

    def __init__(self, solver: Collocation, work: Work, dt: Time, memory: Any) -> None:
        self.solver, self.work = solver, work
        n, size = work.start.shape
        self.dt = numbers(dt) if isinstance(dt, Tensor) else np.array(dt)
        if memory is None:
            self.length, self.error, self.known = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, bool)
            self.curve = work.start.new_zeros(n, solver.stages, size)
            self.f0 = work.start
        else:
            notes = numbers(memory["past"])
            self.length, self.error, self.known = notes[:, 0], notes[:, 1], notes[:, 2] > 0
            self.curve, self.f0 = memory["curve"], memory["f0"]

    def guess(self) -> Tensor | None:
        """``(rows, stages, size)``: the polynomial of the last step, drawn out into this one."""
        ahead = np.nan_to_num(self.dt / self.length)
        if not ahead.any():
            return None
        solver = self.solver
        nodes = 1 + ahead[:, None, None] * solver.tableau.c[:, None]
        return torch.matmul(self.work.tensor(nodes**solver._powers - 1).to(self.curve.dtype), self.curve)

    def tree(self, length: np.ndarray, error: np.ndarray, known: np.ndarray, curve: Tensor) -> dict[str, Any]:
        """For the memory of the next step."""
        return {"past": self.work.tensor(np.stack((length, error, known), 1)), "curve": curve, "f0": self.f0}


class CollocationStep(Curve):
    """One step and its dense output."""

    error: Tensor | None = None

    def __init__(
        self,
        solver: Collocation,
        stages: Stages,
        t0: Time,
        t1: Time,
        y0: Tensor,
        y1: Tensor,
        work: Work,
        past: Past,
        z: Tensor,
    ) -> None:
        self.solver, self.stages, self.work, self.past, self.z = solver, stages, work, past, z
        self.term, self.args = stages.term, stages.args
        self.t0, self.t1, self.dt, self.y0, self.y1 = t0, t1, t1 - t0, y0, y1
        self.failed = work.reason(work.bad if work.bad.any() else None)
        self.lost = work.blame
        self.size = np.full(len(z), np.nan)

    @cached_property
    def curve(self) -> Tensor:
        """``(rows, stages, size)``: coefficients of theta, theta^2, ... of the collocation polynomial."""
        return torch.matmul(torch.tensor(self.solver._to_powers, dtype=self.z.dtype, device=self.z.device), self.z)

    @cached_property
    def carry(self) -> dict[str, Memory]:
        """What the next step takes over."""
        length = np.broadcast_to(self.past.dt, self.size.shape)
        tree = self.past.tree(length, self.size, np.zeros(len(self.z), bool), self.curve.detach())
        return {"memory": Memory({"newton": self.work.memory(), **tree})}

    @cached_property
    def retry(self) -> dict[str, Memory]:
        """What another try from the same start takes over."""
        past = self.past
        tree = past.tree(past.length, past.error, past.known, past.curve)
        return {"memory": Memory({"newton": self.work.retry(), **tree})}

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(degree + 1, *state)``: dense output in powers of theta."""
        y0 = of(self.y0, rows)
        if self.solver.stiffly_accurate:
            return torch.stack([y0, *(self.work.systems.state(c) for c in of(self.curve, rows).unbind(1))])
        term = self.term if rows is None else self.term.select(rows)
        f0 = term.rate(of(self.t0, rows), y0, self.args)
        y1 = of(self.y1, rows)
        return hermite(of(self.dt, rows), y0, y1, f0, term.rate(of(self.t1, rows), y1, self.args))


# --- adaptive ----------------------------------------------------------------------------------------------------


class Radau5(Collocation):
    """The adaptive RadauIIA method of order 5.

    Its error estimate, ``(g / h - J)^-1 (f(t0, y0) + sum_i e_i Z_i / h)`` with the real eigenvalue ``g`` of ``a^-1``,
    is that of a solution of order 3; where it is too large it is filtered once more, by way of ``f(t0, y0 + error)``.
    Step sizes are predicted from the last two errors (Gustafsson). *Maturing.*

    Example:
        >>> import torch, pathline
        >>> van_der_pol = lambda t, y: torch.stack((y[1], 1e6 * ((1 - y[0] ** 2) * y[1] - y[0])))
        >>> start = torch.tensor([2.0, -0.66], dtype=torch.float64)
        >>> pathline.solve(van_der_pol, start, (0.0, 2.0), method="radau5").stats.steps < 1000
        True

    References:
        Hairer and Wanner (1996), Solving Ordinary Differential Equations II, IV.8: the code RADAU5.
    """

    adaptive = True
    embedded_order = 3
    gains = (0.0, 1.0, 0.0)

    @cached_property
    def _errors(self) -> np.ndarray:
        """``e``: with the weights ``g^-1`` at the start the embedded formula satisfies the conditions of order 3."""
        c, gamma = self.tableau.c, 1 / float(self.spectrum.values[0].real)
        orders = np.arange(1, 4)
        # b* with b*_0 = gamma: sum b*_i c_i^(k-1) = 1/k, k = 1..3; the difference to b, seen from the stages Z.
        embedded = np.linalg.solve(c ** (orders[:, None] - 1), 1 / orders - gamma * (orders == 1))
        return (embedded - self.tableau.b) @ self.spectrum.inverse / gamma

    def _made(
        self, stages: Stages, t0: Time, t1: Time, y: Tensor, y1: Tensor, work: Work, past: Past, z: Tensor
    ) -> CollocationStep:
        step = Radau5Step(self, stages, t0, t1, y, y1, work, past, z)
        if work.term.tolerance is not None and not work.bad.all():
            with torch.no_grad():
                step.estimate()
        return step


class Radau5Step(CollocationStep):
    """A step with an error estimate and a proposal for the next length."""

    solver: Radau5

    def estimate(self) -> None:
        """The error, and its size in every row."""
        work, past = self.work, self.past
        h = spread(self.dt, work.start)
        if not past.known.all():
            known = work.f0
            past.f0 = work.systems.flat(self.term.rate(self.t0, self.y0, self.args)) if known is None else known
            past.known = np.ones(len(self.z), bool)
        weights = torch.tensor(self.solver._errors, dtype=self.z.dtype, device=self.z.device)
        rest = torch.matmul(weights, self.z.detach()) / h
        error = self.stages.filtered(past.f0.detach() + rest, work.factors)
        self.size = self._size(error)
        with np.errstate(invalid="ignore"):
            large = ~(self.size <= 1) & np.isfinite(self.size)
        if large.any():
            moved = work.systems.state(work.start + error)
            rate = work.systems.flat(self.term.rate(self.t0, moved, self.args))
            again = self.stages.filtered(rate + rest, work.factors)
            error = torch.where(work.tensor(large).unsqueeze(1), again, error)
            self.size = self._size(error)
        self.error = work.systems.state(error)

    def _size(self, error: Tensor) -> np.ndarray:
        tolerance = self.term.tolerance
        assert tolerance is not None
        scale = tolerance.scale(self.y0.detach(), self.y1.detach())
        size = tolerance.norm(self.work.systems.state(error) / scale)
        return numbers(size) if isinstance(size, Tensor) else np.full(len(self.z), size)

    @property
    def factor(self) -> Any:
        """The change of the step that Gustafsson's controller proposes; None without a tolerance."""
        if self.error is None:
            return None
        past, most = self.past, self.work.newton.iterations
        with np.errstate(all="ignore"):
            size = np.maximum(self.size, 1e-10)
            ahead = np.abs(past.dt / past.length) * (np.maximum(past.error, 1e-2) / size) ** 0.25
            predicted = np.fmin(1.0, ahead)
            safety = 0.9 * (2 * most + 1) / (2 * most + np.minimum(self.work.most, most))
            factor = np.minimum(10.0, safety * predicted * size**-0.25)
            # A step that would change by little keeps its length, and with it its factors, while the Jacobian serves.
            factor = np.where((factor < self.solver.deadband) & ~self.work.tired, 1.0, factor)
        return self.work.tensor(factor) if self.term.per_sample else float(factor.min(initial=10.0))


#: Every collocation method by its name.
COLLOCATION: dict[str, Collocation] = {
    **{name: Collocation(tableau) for name, tableau in TABLEAUS.items()},
    "radau5": Radau5(TABLEAUS["radauIIA5"], "radau5"),
}
