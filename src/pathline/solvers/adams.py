"""Adams-Bashforth and Adams-Bashforth-Moulton methods, on any grid and of the order that the grid supports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pathline._forward import constant
from pathline._structure import real_dtype
from pathline.solvers.base import spread
from pathline.solvers.curves import Curve
from pathline.solvers.runge_kutta import RungeKutta
from pathline.tableaus import TABLEAUS
from pathline.tolerance import Tolerance

if TYPE_CHECKING:
    from pathline.terms import Bound, Time

HIGHEST = 12


class Adams:
    """An Adams method: the integral of the polynomial through the last slopes.

    With ``s = (t - t0) / h``, the nodes ``c_0 = 0 > c_1 > c_2 ...`` of the slopes so far and Newton's basis
    ``N_j(s) = (s - c_0) ... (s - c_(j-1))`` the slope is ``sum_j f[c_0 .. c_j] N_j(s)``, and

        y1 = y0 + h sum_j T_j,    T_j = f[c_0 .. c_j] (integral of N_j from 0 to 1).

    The terms fall until the step is too long for the next order; the sum ends with the smallest one, so that the order
    rises where the solution is smooth and falls before a high order becomes unstable. The implicit method (of Moulton)
    adds the slope at ``t1``: ``y1 + h g (f(t1, y1) - f_p)``, where ``f_p`` is the polynomial's slope there and ``g``
    the integral of the next basis function over its value at 1; the equation is solved by iteration. The first steps
    are those of a Runge-Kutta method. Dense output is the integral up to ``t``. *Maturing.*

    Args:
        implicit: whether the predicted step is corrected.
        max_order: the highest order, 1 to 12 (2 to 12 for an implicit method): so many slopes are combined.
        max_iters: corrections of an implicit step.
        tolerance: corrections smaller than this end the iteration; by default near the rounding of the state.
        choose: whether the sum ends with its smallest term; else it takes all slopes there are.
        equal: take the printed coefficients of equal steps whatever the grid, as some programs do. On a grid of
            unequal steps they converge with order 1.
        start: the Runge-Kutta method of the first steps; by default one of the order of the others.
        starts: how many steps it makes; by default as many as leave no step of a lower order than its own.
        name: in messages.

    Raises:
        ValueError: an order or a number of iterations outside its range.

    Example:
        >>> import torch, pathline
        >>> from pathline.solvers.adams import Adams
        >>> y1 = pathline.solve(lambda t, y: -y, torch.ones(1).double(), (0.0, 1.0), method=Adams(), dt=0.02).y1
        >>> bool((y1 - torch.tensor(-1.0).double().exp()).abs() < 1e-12)
        True

    References:
        Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, III.5; Shampine, Gordon (1975),
        Computer Solution of Ordinary Differential Equations.
    """

    needs = "rate"
    adaptive = False
    carries_slope = False
    embedded_order = None
    fsal = False
    variable_order = True
    stages = None

    def __init__(
        self,
        implicit: bool = False,
        max_order: int = HIGHEST,
        max_iters: int = 4,
        *,
        tolerance: Tolerance | None = None,
        choose: bool = True,
        equal: bool = False,
        start: str | None = None,
        starts: int | None = None,
        name: str | None = None,
    ) -> None:
        if not 1 + implicit <= max_order <= HIGHEST:
            raise ValueError(f"`max_order` lies between {1 + implicit} and {HIGHEST}; it is {max_order!r}.")
        if implicit and max_iters < 1:
            raise ValueError(f"`max_iters` is at least 1, or the method is explicit; it is {max_iters!r}.")
        self.implicit, self.max_order, self.max_iters = implicit, max_order, max_iters
        self.tolerance, self.choose, self.equal = tolerance, choose, equal
        self.start = RungeKutta(TABLEAUS[start or _starter(max_order)])
        self.slopes = max_order - implicit
        self._starts = starts
        self.name = name or ("implicit_adams" if implicit else "explicit_adams")
        self.degree = max(max_order + 1, self.start.tableau.dense_weights.shape[1])

    @property
    def starts(self) -> int:
        """How many steps the Runge-Kutta method makes."""
        return min(self.start.order, self.slopes) - 1 if self._starts is None else self._starts

    @property
    def order(self) -> int:
        """The order that the first steps allow; on fine grids the later ones are better."""
        return min(self.max_order, self.start.order)

    @property
    def dense_order(self) -> int:
        """Order of the dense output."""
        return self.order

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> None:
        """There is no history yet."""
        return

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Any) -> Any:
        """One step; ``carry`` holds the times and slopes of the steps before, the latest first."""
        slope = term.rate(t0, y, args)
        slopes = (slope, *(() if carry is None else carry[1]))
        times = _stacked(t0, None if carry is None else carry[0])
        keep = self.slopes - 1
        handed = (times[:, :keep], slopes[:keep]) if keep else None
        if len(slopes) <= self.starts:
            return _Start(self, self.start.step(term, t0, t1, y, args, slope), handed)
        rules = self._rules(times, t0, t1)
        terms = _times(rules.integrals, slopes)
        used = self._used(terms)
        step = AdamsStep(self, t0, t1, y, handed, rules, terms, used)
        step.predict()
        if self.implicit:
            self._correct(step, term, slopes, args)
        return step

    def _rules(self, times: Tensor, t0: Time, t1: Time) -> Rules:
        if isinstance(t1, Tensor):
            h = (t1 - t0).reshape(-1, 1)
            return rules((times - times[:, :1]) / h)
        h = t1 - t0
        nodes = range(0, -times.shape[1], -1) if self.equal else [(t - t0) / h for t in times[0].tolist()]
        # Rounding of the times apart, equal steps have whole nodes, whose rules are remembered.
        noise = 8 * math.ulp(max(abs(t0), abs(t1))) / abs(h)
        snapped = (float(round(c)) if abs(c - round(c)) <= noise * (1 + abs(c)) else c for c in nodes)
        return _remembered(tuple(snapped), str(times.device))

    def _used(self, terms: Tensor) -> Tensor:
        """``(rows,)``: how many terms are summed: up to the smallest one, looking one further for accidents."""
        count = terms.shape[1]
        if not self.choose or count == 1:
            return torch.full(terms.shape[:1], count, device=terms.device)
        with torch.no_grad():
            sizes = torch.linalg.vector_norm(terms, dim=2)
            sizes[:, :-1] = torch.maximum(sizes[:, :-1], sizes[:, 1:])
            return sizes.argmin(1) + 1

    def _correct(self, step: AdamsStep, term: Bound, slopes: Sequence[Tensor], args: Any) -> None:
        """Moulton's corrections, until they are small; rows that have converged stay."""
        tolerance = self.tolerance or _tight(step.y1)
        open_rows: Tensor | None = None
        step.extrapolate(slopes)
        for _ in range(self.max_iters):
            before = step.y1
            step.correct(term.rate(step.t1, before, args), open_rows)
            with torch.no_grad():
                ratio = ((step.y1 - before) / tolerance.scale(before, step.y1)).abs().reshape(step.count, -1)
                moves = (ratio > 1.0).any(1)
                if not bool(moves.any()):
                    return
                open_rows = moves
        step.converged = False


class _Start:
    """A step of the Runge-Kutta method that hands on the history."""

    error = None
    failed = None

    def __init__(self, solver: Adams, inner: Any, carry: Any) -> None:
        self.solver, self.inner, self.carry = solver, inner, carry
        self.y1, self.rows = inner.y1, inner.rows

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """Those of the Runge-Kutta step, of the degree that all steps of a solve share."""
        inner = self.inner.coefficients() if rows is None else self.inner.coefficients(rows)
        return _padded(inner, self.solver.degree)


class AdamsStep(Curve):
    """One step and its dense output."""

    error = None
    converged = True

    def __init__(
        self, solver: Adams, t0: Time, t1: Time, y0: Tensor, carry: Any, rules: Rules, terms: Tensor, used: Tensor
    ) -> None:
        self.solver, self.t0, self.t1, self.y0, self.carry = solver, t0, t1, y0, carry
        self.rules, self.terms, self.used = rules, terms, used
        self.count = terms.shape[0]
        self.h: Any = spread(t1 - t0, y0)
        self.weights = (torch.arange(terms.shape[1], device=used.device) < used.unsqueeze(1)).to(terms.dtype)
        self.excess: Tensor | None = None

    def _sum(self, terms: Tensor) -> Tensor:
        return (self.weights.unsqueeze(1) @ terms).reshape(self.y0.shape)

    def predict(self) -> None:
        """``y0 + h sum T_j``."""
        self.predicted = self.y1 = self.y0 + self.h * self._sum(self.terms)

    def extrapolate(self, slopes: Sequence[Tensor]) -> None:
        """The polynomial's slope at the end, and the weight of the slope there."""
        self.slope = self._sum(_times(self.rules.ends, slopes))
        gain = self.rules.gains.expand(self.count, -1).gather(1, self.used.unsqueeze(1))[:, 0]
        self.gain = spread(gain if self.count > 1 else gain[0], self.y0)

    def correct(self, slope: Tensor, rows: Tensor | None) -> None:
        """One correction by the slope at the end of the predicted or corrected step."""
        excess = slope - self.slope
        if rows is not None and self.count > 1:
            assert self.excess is not None
            excess = torch.where(rows.reshape(-1, *(1,) * (excess.dim() - 1)), excess, self.excess)
        self.excess = excess
        self.y1 = self.predicted + self.h * self.gain * excess

    def polynomial(self) -> Tensor:
        """``(degree + 1, *state)``: the integral of the slope's polynomial, in powers of theta."""
        rules = self.rules
        powers = rules.powers()
        polynomial = (self.weights.to(powers.dtype) / rules.whole[:, :-1]).unsqueeze(1) * powers[:, :-1].mT
        curve = polynomial.to(self.terms.dtype) @ self.terms
        if self.excess is not None:
            last = powers.expand(self.count, -1, -1)[torch.arange(self.count), self.used]
            end = last / last.sum(1, keepdim=True)
            extra = end.to(curve.dtype).unsqueeze(2) * self.excess.reshape(self.count, 1, -1)
            curve = torch.nn.functional.pad(curve, (0, 0, 0, extra.shape[1] - curve.shape[1])) + extra
        degrees = torch.arange(1, curve.shape[1] + 1, device=curve.device, dtype=real_dtype(curve.dtype))
        curve = (curve / degrees.unsqueeze(1)).transpose(0, 1)
        shaped = self.h * curve.reshape(-1, *self.y0.shape)
        return _padded(torch.cat([self.y0.unsqueeze(0), shaped]), self.solver.degree)

    def part(self, index: Tensor) -> Curve:
        """The step of some of its rows, cut out of that of all."""
        return _Cut(self, index)


class _Cut(Curve):
    def __init__(self, whole: AdamsStep, index: Tensor) -> None:
        self.whole, self.index = whole, index

    def polynomial(self) -> Tensor:
        return self.whole.coefficients()[:, self.index]


# --- coefficients ------------------------------------------------------------------------------------------------


class Rules(NamedTuple):
    """What the nodes of a step decide, for each row.

    Attributes:
        nodes: ``(rows, k)``, the latest first.
        integrals: ``(rows, k, k)``, the terms ``T_j`` as weights of the slopes.
        ends: ``(rows, k, k)``, the same for the slope at the end of the step.
        gains: ``(rows, k + 1)``, the weight of a slope at the end that is added to ``j`` others.
        whole: ``(rows, k + 1)``, the integrals of the basis.
    """

    nodes: Tensor
    integrals: Tensor
    ends: Tensor
    gains: Tensor
    whole: Tensor

    def powers(self) -> Tensor:
        """``(rows, k + 1, k + 1)``: Newton's basis in powers of ``s``."""
        basis = [torch.nn.functional.pad(torch.ones_like(self.nodes[:, :1]), (0, self.nodes.shape[1]))]
        for c in self.nodes.unbind(1):
            basis.append(basis[-1].roll(1, 1) - c.unsqueeze(1) * basis[-1])
        return torch.stack(basis, 1)


@cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre on [0, 1], exact for the products of up to twelve factors that are integrated here."""
    points, weights = np.polynomial.legendre.leggauss(7)
    return 0.5 * (points + 1.0), 0.5 * weights


def rules(nodes: Tensor) -> Rules:
    """The coefficients of a step whose slopes lie at ``nodes``, ``(rows, k)`` in units of the step."""
    k = nodes.shape[1]
    eye = torch.eye(k, dtype=nodes.dtype, device=nodes.device)
    apart = nodes.unsqueeze(2) - nodes.unsqueeze(1) + eye
    # The weight of slope i in the divided difference of slopes 0 .. j.
    differences = torch.tril((1.0 / apart.cumprod(2)).mT)
    points, weights = (torch.from_numpy(values).to(nodes) for values in _quadrature())
    whole = (weights * _basis(nodes, points)).sum(2)
    ends = _basis(nodes, torch.ones_like(points[:1])).squeeze(2)
    return Rules(
        nodes,
        whole[:, :k].unsqueeze(2) * differences,
        ends[:, :k].unsqueeze(2) * differences,
        whole / ends,
        whole,
    )


def _basis(nodes: Tensor, points: Tensor) -> Tensor:
    """``(rows, k + 1, points)``: Newton's basis at some points."""
    factors = points - nodes.unsqueeze(2)
    return torch.cat([torch.ones_like(factors[:, :1]), factors.cumprod(1)], 1)


@lru_cache(maxsize=64)
def _remembered(nodes: tuple[float, ...], device: str) -> Rules:
    with torch.no_grad():
        return constant(lambda: rules(torch.tensor([nodes], dtype=torch.float64, device=device)))


def _starter(order: int) -> str:
    return {1: "euler", 2: "heun", 3: "heun3", 4: "rk4", 5: "tsit5"}.get(order, "dopri8")


def _stacked(t: Time, earlier: Tensor | None) -> Tensor:
    """``(rows, k)``: this time in front of the earlier ones."""
    now = t.double().reshape(-1, 1) if isinstance(t, Tensor) else torch.tensor([[t]], dtype=torch.float64)
    return now if earlier is None else torch.cat([now, earlier], 1)


def _times(weights: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """``(rows, k, elements)``: combinations of the slopes."""
    rows, first = len(weights), slopes[0]
    stacked = torch.stack([f.reshape(rows, -1) for f in slopes], 1)
    return weights.to(device=first.device, dtype=first.dtype) @ stacked


def _padded(coefficients: Tensor, degree: int) -> Tensor:
    """The same polynomial with ``degree + 1`` coefficients."""
    missing = degree + 1 - len(coefficients)
    return (
        torch.cat([coefficients, coefficients.new_zeros(missing, *coefficients.shape[1:])]) if missing else coefficients
    )


def _tight(y: Tensor) -> Tolerance:
    size = torch.finfo(y.dtype).eps ** (2 / 3)
    return Tolerance(size, size)


#: The Adams methods of the registry.
ADAMS = {solver.name: solver for solver in (Adams(), Adams(implicit=True))}
