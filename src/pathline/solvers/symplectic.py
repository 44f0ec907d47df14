"""Symplectic methods for separable terms: kicks and drifts in turn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from pathline.solvers.base import combine, hermite
from pathline.solvers.curves import Curve, quintic

if TYPE_CHECKING:
    from pathline.terms import Bound, Time


class Move(NamedTuple):
    """A kick (of p, at fixed q) or a drift (of q, at fixed p): how much of the step, and at which time of it."""

    kicks: bool
    weight: float
    node: float


class Symplectic:
    """A splitting method for ``dq/dt = drift(t, p)``, ``dp/dt = kick(t, q)``.

    A step is a sequence of kicks ``p += w h kick(t0 + c h, q)`` and drifts ``q += w h drift(t0 + c h, p)``, each of
    which is solved exactly. Where both come from a Hamiltonian the map is symplectic: over long times the energy
    swings about its value, and doesn't drift. Where a step ends with a kick, that is also the first of the next one.
    Dense output is the cubic through values and slopes at both ends, or for order 6 a curve of degree 5. *Maturing.*

    Args:
        name: the name in the registry.
        order: of the solution.
        moves: the sequence.

    Example:
        >>> import torch, pathline
        >>> pendulum = pathline.Separable(kick=lambda t, q: -q.sin(), drift=lambda t, p: p)
        >>> y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> q, p = pathline.solve(pendulum, y0, (0.0, 500.0), method="leapfrog", dt=0.1).y1
        >>> bool((0.5 * p**2 - q.cos() + y0[0].cos()).abs() < 1e-3)
        True

    References:
        Hairer, Lubich, Wanner (2006), Geometric Numerical Integration, II and VI.
    """

    needs = "split"
    adaptive = False
    carries_slope = False
    embedded_order = None
    symplectic = True

    def __init__(self, name: str, order: int, moves: Sequence[Move]) -> None:
        self.name, self.order, self.moves = name, order, tuple(moves)
        first, last = self.moves[0], self.moves[-1]
        self.fsal = first.kicks and last.kicks
        self.stages = len(self.moves)
        self.dense_order = 5 if order > 4 else 3

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> Tensor | None:
        """The first kick, where it is shared between steps."""
        return term.kick(t0, term.halves(y0)[0], args) if self.fsal else None

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Tensor | None) -> SplitStep:
        """One step; ``carry`` is the kick at ``(t0, q)`` where the step before left it."""
        q, p = term.halves(y)
        q, p, first, last = self._run(term, t0, t1, q, p, args, carry, self.moves, 1.0)
        return SplitStep(self, term, t0, t1, y, term.join(q, p), args, (first, last if self.fsal else None))

    def inverse(self, term: Bound, t0: Time, t1: Time, y1: Tensor, args: Any, carry1: Any) -> tuple[Tensor, Any]:
        """The state and carry before a step, from those behind it: the same moves undone, the last one first."""
        q, p = term.halves(y1)
        q, p, _, last = self._run(term, t0, t1, q, p, args, carry1, self.moves[::-1], -1.0)
        return term.join(q, p), last if self.fsal else None

    def _run(
        self,
        term: Bound,
        t0: Time,
        t1: Time,
        q: Tensor,
        p: Tensor,
        args: Any,
        kick: Tensor | None,
        moves: Sequence[Move],
        sign: float,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """q and p at the end, and the first and the last kick."""
        dt = t1 - t0
        first = None
        for kicks, weight, node in moves:
            t = t1 if node == 1.0 else t0 if node == 0.0 else t0 + node * dt
            weights = ((0, sign * weight),)
            if kicks:
                kick = term.kick(t, q, args) if kick is None else kick
                first = kick if first is None else first
                p = combine(p, dt, weights, (kick,))
            else:
                q = combine(q, dt, weights, (term.drift(t, p, args),))
                kick = None  # it was at another q
        return q, p, first, kick


class SplitStep(Curve):
    """One step; slopes that only dense output needs are evaluated at the first question."""

    error = None

    def __init__(
        self,
        solver: Symplectic,
        term: Bound,
        t0: Time,
        t1: Time,
        y0: Tensor,
        y1: Tensor,
        args: Any,
        kicks: tuple[Tensor | None, Tensor | None],
    ) -> None:
        self.solver, self.term, self.args, self.kicks = solver, term, args, kicks
        self.t0, self.t1, self.y0, self.y1 = t0, t1, y0, y1

    @property
    def carry(self) -> Tensor | None:
        """The kick at the end, which is the next step's first."""
        return self.kicks[1]

    def part(self, index: Tensor) -> SplitStep:
        """The step of some of its rows."""
        assert isinstance(self.t0, Tensor)
        assert isinstance(self.t1, Tensor)
        first, last = (None if kick is None else kick[index] for kick in self.kicks)
        ends = self.t0[index], self.t1[index], self.y0[index], self.y1[index]
        return SplitStep(self.solver, self.term.select(index), *ends, self.args, (first, last))

    def _rate(self, t: Time, y: Tensor, kick: Tensor | None = None) -> Tensor:
        q, p = self.term.halves(y)
        kick = self.term.kick(t, q, self.args) if kick is None else kick
        return self.term.join(self.term.drift(t, p, self.args), kick)

    def polynomial(self) -> Tensor:
        """``(4, *state)`` or ``(6, *state)``."""
        dt = self.t1 - self.t0
        f0, f1 = self._rate(self.t0, self.y0, self.kicks[0]), self._rate(self.t1, self.y1, self.kicks[1])
        if self.solver.dense_order == 3:
            return hermite(dt, self.y0, self.y1, f0, f1)
        return quintic(dt, self.y0, self.y1, f0, f1, lambda theta, y: self._rate(self.t0 + theta * dt, y))


# --- the methods -------------------------------------------------------------------------------------------------


def leapfrogs(lengths: Sequence[float]) -> list[Move]:
    """Leapfrogs of these parts of the step, one behind the other: kick, drift, kick, and neighbouring kicks in one.

    The kicks stand at the ends of each part and the drift in its middle, so that a part is symmetric in time where the
    rates depend on it; that lets compositions keep their order.
    """
    ends = [0.0, *accumulate(lengths)]
    ends[-1] = 1.0
    halves = [0.0, *(w / 2 for w in lengths), 0.0]
    kicks = [Move(True, a + b, end) for (a, b), end in zip(pairwise(halves), ends, strict=True)]
    drifts = [Move(False, w, (a + b) / 2) for w, (a, b) in zip(lengths, pairwise(ends), strict=True)]
    return [kicks[0], *(move for pair in zip(drifts, kicks[1:], strict=True) for move in pair)]


def _symmetric(*half: float) -> list[float]:
    """Lengths that sum to one, from those before the middle one."""
    return [*half, 1.0 - 2.0 * sum(half), *half[::-1]]


#: Symplectic methods by name. Yoshida (1990), Construction of higher order symplectic integrators: the triple jump of
#: order 4, and solution A of order 6, whose digits are those of Hairer, Lubich, Wanner (2006), V.3.2.
SYMPLECTIC = {
    method.name: method
    for method in (
        Symplectic("symplectic_euler", 1, [Move(True, 1.0, 0.0), Move(False, 1.0, 1.0)]),
        Symplectic("leapfrog", 2, leapfrogs([1.0])),
        Symplectic("yoshida4", 4, leapfrogs(_symmetric(1.0 / (2.0 - 2.0 ** (1.0 / 3.0))))),
        Symplectic(
            "yoshida6",
            6,
            leapfrogs(_symmetric(0.78451361047755726382, 0.23557321335935813368, -1.17767998417887100695)),
        ),
    )
}
