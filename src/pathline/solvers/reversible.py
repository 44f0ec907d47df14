"""Algebraically reversible methods: from the end of a step its start follows, to rounding.

Each has ``inverse(term, t0, t1, y1, args, carry1) -> (y0, carry0)``. They hold a second copy of the state (the carry),
and the inverse needs both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pathline._registry import look_up
from pathline.solvers.base import combine, hermite, sparse, spread
from pathline.solvers.curves import Curve
from pathline.solvers.runge_kutta import RungeKutta
from pathline.tableaus import TABLEAUS

if TYPE_CHECKING:
    from pathline.terms import Bound, Time

Pair = tuple[Tensor, Tensor]


class _Paired:
    """What both methods of order 2 share: one evaluation a step, and the difference from Euler's method as estimate."""

    needs = "rate"
    adaptive = True
    carries_slope = False
    fsal = True
    reversible = True
    free_dense = True
    order = 2
    embedded_order = 1
    dense_order = 2
    stages = 2


class ReversibleHeun(_Paired):
    """The reversible Heun method: order 2, one evaluation a step.

    Beside y it carries ``z`` (near y) and its slope ``f(t, z)``:

        z1 = 2 y0 - z0 + h f(t0, z0)
        y1 = y0 + h (f(t0, z0) + f(t1, z1)) / 2

    It is stable on the imaginary axis up to ``|h lambda| = 1`` and nowhere else: on a dissipative field z and y part,
    and the solution grows without bound. `Reversible` doesn't. *Maturing.*

    References:
        Kidger, Foster, Li, Lyons (2021), Efficient and accurate gradients for neural SDEs.
    """

    name = "reversible_heun"

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> Pair:
        """The copy, and the slope there."""
        return y0, term.rate(t0, y0, args)

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Pair | None) -> PairStep:
        """One step; ``carry`` is ``(z, f(t0, z))``."""
        z, slope = before = self.init(term, t0, y, args) if carry is None else carry
        h = spread(t1 - t0, y)
        z1 = 2 * y - z + h * slope
        slope1 = term.rate(t1, z1, args)
        y1 = y + (h / 2) * (slope + slope1)
        return PairStep(t0, t1, y, y1, (slope, slope1), (z1, slope1), before)

    def inverse(self, term: Bound, t0: Time, t1: Time, y1: Tensor, args: Any, carry1: Pair) -> tuple[Tensor, Pair]:
        """The state and carry before a step, from those behind it."""
        z1, slope1 = carry1
        h = spread(t1 - t0, y1)
        z = 2 * y1 - z1 - h * slope1
        slope = term.rate(t0, z, args)
        return y1 - (h / 2) * (slope + slope1), (z, slope)


class AsynchronousLeapfrog(_Paired):
    """The asynchronous leapfrog method (ALF): order 2, one evaluation a step.

    Beside y it carries a slope ``v`` (near f(t, y)):

        u = f(t0 + h/2, y0 + h/2 v0),    v1 = 2 u - v0,    y1 = y0 + h u

    On a dissipative field v and f(t, y) part, and the solution grows without bound. `Reversible` doesn't. *Maturing.*

    References:
        Zhuang, Dvornek, Tatikonda, Duncan (2021), MALI: A memory efficient and reverse accurate integrator for neural
        ODEs. Mutze (2013), An asynchronous leapfrog method II.
    """

    name = "alf"

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> Tensor:
        """The first slope."""
        return term.rate(t0, y0, args)

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Tensor | None) -> PairStep:
        """One step; ``carry`` is v."""
        v = term.rate(t0, y, args) if carry is None else carry
        half = spread((t1 - t0) / 2, y)
        middle = y + half * v
        v1 = 2 * term.rate(t0 + (t1 - t0) / 2, middle, args) - v
        return PairStep(t0, t1, y, middle + half * v1, (v, v1), v1, v)

    def inverse(self, term: Bound, t0: Time, t1: Time, y1: Tensor, args: Any, carry1: Tensor) -> tuple[Tensor, Tensor]:
        """The state and carry before a step, from those behind it."""
        half = spread((t1 - t0) / 2, y1)
        middle = y1 - half * carry1
        v = 2 * term.rate(t0 + (t1 - t0) / 2, middle, args) - carry1
        return middle - half * v, v


class PairStep(Curve):
    """A step between two slopes; the estimate is its distance from Euler's, and its curve the cubic."""

    def __init__(
        self, t0: Time, t1: Time, y0: Tensor, y1: Tensor, slopes: Pair, carry: Pair | Tensor, retry: Pair | Tensor
    ) -> None:
        self.t0, self.t1, self.y0, self.y1, self.slopes, self.carry, self.retry = t0, t1, y0, y1, slopes, carry, retry

    @property
    def error(self) -> Tensor:
        """``h / 2 (f1 - f0)``."""
        with torch.no_grad():
            return spread((self.t1 - self.t0) / 2, self.y0) * (self.slopes[1] - self.slopes[0])

    def polynomial(self) -> Tensor:
        """``(4, *state)``."""
        return hermite(self.t1 - self.t0, self.y0, self.y1, *self.slopes)

    def part(self, index: Tensor) -> PairStep:
        """The step of some of its rows."""
        assert isinstance(self.t0, Tensor)
        assert isinstance(self.t1, Tensor)
        a, b = self.slopes
        ends = self.t0[index], self.t1[index], self.y0[index], self.y1[index]
        return PairStep(*ends, (a[index], b[index]), self.carry, self.retry)


class Reversible:
    """Any explicit Runge-Kutta method, made reversible by a second copy of the state.

    With the increment ``Psi_h(t, y)`` of the base method and the coupling ``c``:

        y1 = c y0 + (1 - c) z0 + Psi_h(t0, z0)
        z1 = z0 - Psi_(-h)(t1, y1)

    Order and dense output are those of the base method, at about twice its evaluations. What can be undone to the last
    digit has a price: where a step multiplies the solution by ``r``, it multiplies the distance of the copies by about
    ``c / r``. So

    - forwards the method is stable where ``r >= c``: a step contracts by no more than the coupling. The error estimate
      sees the distance grow, and adaptive steps become as short as that. None is short enough for c = 1, or for
      `ReversibleHeun` and `AsynchronousLeapfrog`, which diverge on dissipative fields;
    - backwards, rounding grows like ``(r^2 / c)^steps``, which is ``c^-steps`` where energy is kept.

    A coupling near ``r^2 = exp(-2 h rate)`` is the best in both directions. *Maturing.*

    Args:
        base: the name of an explicit Runge-Kutta method, or one.
        coupling: c, in (0, 1].

    Raises:
        TypeError: ``base`` is no explicit Runge-Kutta method.
        ValueError: the coupling isn't in (0, 1], or no method has this name.

    Example:
        >>> import torch, pathline
        >>> method = pathline.Reversible("tsit5", coupling=0.99)
        >>> y1 = pathline.solve(lambda t, y: -y, torch.ones(1).double(), (0.0, 1.0), method=method).y1
        >>> bool((y1 - torch.tensor(-1.0).double().exp()).abs() < 1e-6)
        True

    References:
        McCallum, Foster (2024), Efficient, accurate and stable gradients for neural ODEs.
    """

    needs = "rate"
    carries_slope = False
    fsal = False
    reversible = True

    def __init__(self, base: str | RungeKutta, coupling: float = 0.99) -> None:
        if isinstance(base, str):
            base = RungeKutta(look_up("explicit Runge-Kutta method", base, TABLEAUS))
        if not isinstance(base, RungeKutta):
            raise TypeError(
                f'`base` is an explicit Runge-Kutta method or its name; it is {base!r}. Pass "tsit5", for example.'
            )
        if not 0.0 < coupling <= 1.0:
            raise ValueError(f"`coupling` lies in (0, 1]; it is {coupling!r}. 0.99 is a good choice.")
        self.base, self.coupling = base, coupling
        self.name = f"reversible({base.name}, {coupling:g})"
        self.adaptive, self.gains, self.free_dense = base.adaptive, base.gains, base.free_dense
        self._weights = sparse(base.tableau.b)
        used = 1 + max(i for i, _ in self._weights)
        nodes, rows = base.tableau.c[1:used], base.tableau.a[1:used]
        self._rows = [(float(c), sparse(row)) for c, row in zip(nodes, rows, strict=True)]
        self.stages = base.stages + used

    def __repr__(self) -> str:
        return f'Reversible("{self.base.name}", coupling={self.coupling:g})'

    @property
    def order(self) -> int:
        """Order of the base method."""
        return self.base.order

    @property
    def embedded_order(self) -> int | None:
        """Order of the base method's error estimate."""
        return self.base.embedded_order

    @property
    def dense_order(self) -> int:
        """Order of the base method's dense output."""
        return self.base.dense_order

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> Tensor:
        """The copy."""
        return y0

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Tensor | None) -> CoupledStep:
        """One step; ``carry`` is z."""
        z = y if carry is None else carry
        forward = self.base.step(term, t0, t1, z, args, None)
        y1 = forward.y1 + self.coupling * (y - z)
        z1 = z + (y1 - self._moved(term, t1, t0, y1, args))
        return CoupledStep(forward, y, y1, z, z1)

    def inverse(self, term: Bound, t0: Time, t1: Time, y1: Tensor, args: Any, carry1: Tensor) -> tuple[Tensor, Tensor]:
        """The state and carry before a step, from those behind it."""
        z = carry1 - (y1 - self._moved(term, t1, t0, y1, args))
        return z + (y1 - self._moved(term, t0, t1, z, args)) / self.coupling, z

    def _moved(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any) -> Tensor:
        """``y + Psi(t0, y)``, without the last stages that serve the next step or the estimate alone."""
        dt = t1 - t0
        h, ks = spread(dt, y), [term.rate(t0, y, args)]
        for c, row in self._rows:
            ks.append(term.rate(t1 if c == 1.0 else t0 + c * dt, combine(y, h, row, ks), args))
        return combine(y, h, self._weights, ks)


class CoupledStep:
    """A step of the base method from z, and what it makes of y: the base's curve, moved to both ends."""

    failed = None

    def __init__(self, forward: Any, y0: Tensor, y1: Tensor, z0: Tensor, z1: Tensor) -> None:
        self.forward, self.y0, self.y1, self.retry, self.carry = forward, y0, y1, z0, z1

    @property
    def error(self) -> Any:
        """The base method's estimate, or how far the way there and back misses, where that is larger.

        The miss, ``Psi_h(z0) + Psi_(-h)(y1)``, is what the copies move apart in this step. A step that contracts by
        more than the coupling lets it grow from step to step, and the estimate at z alone would not see it.
        """
        error = self.forward.error
        if error is None:
            return None
        with torch.no_grad():
            miss = self.forward.y1 - self.carry
            if isinstance(error, tuple):
                return _larger(error[0], miss), _larger(error[1], miss)
            return _larger(error, miss)

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(degree + 1, *state)``: dense output in powers of theta; of some rows alone."""
        curve = self.forward.coefficients() if rows is None else self.forward.coefficients(rows)
        start, end = self.y0 - self.retry, self.y1 - self.forward.y1
        if rows is not None:
            start, end = start[rows], end[rows]
        return torch.cat([(curve[0] + start).unsqueeze(0), (curve[1] + (end - start)).unsqueeze(0), curve[2:]])

    def rows(self, times: Any) -> Tensor:
        """``(len(times), *state)``: dense output at times inside the step."""
        t0, t1 = self.forward.t0, self.forward.t1
        start, end = self.y0 - self.retry, self.y1 - self.forward.y1
        when = torch.as_tensor(times, dtype=torch.float64, device=start.device)
        theta = ((when - t0) / (t1 - t0)).reshape(-1, *(1,) * start.dim()).to(start.dtype)
        return self.forward.rows(times) + start + theta * (end - start)


def _larger(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b.abs() > a.abs(), b, a)


#: Reversible methods by name.
REVERSIBLE = {method.name: method for method in (ReversibleHeun(), AsynchronousLeapfrog())}
