"""A method that watches the stiffness: explicit where that is cheap, a Rosenbrock method where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pathline._structure import host
from pathline.solvers.curves import Curve
from pathline.solvers.rosenbrock import ROSENBROCK
from pathline.solvers.runge_kutta import RungeKutta
from pathline.tableaus import TABLEAUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pathline.solvers.rosenbrock import RosenbrockStep
    from pathline.solvers.runge_kutta import RungeKuttaStep
    from pathline.terms import Bound, Time

#: The explicit method is stable on the negative axis up to 3.5; nearer than this, stability holds its step.
EDGE = 2.8
#: So many steps at the edge, less those away from it, and the field is taken to be stiff.
HELD = 8
#: The stiff method may give way where its steps times the Jacobian are shorter than this,
CALM = 1.0
#: so many times in a row.
EASY = 5


class Mode(NamedTuple):
    """What a step takes over: host values on the shared clock, tensors ``(rows,)`` on the per-sample one.

    Attributes:
        slope: at the start of the step, in the shape of the state; zeros where it is not known.
        known: whether it is.
        stiff: which method is next.
        hits: steps that spoke for a change.
    """

    slope: Tensor
    known: Any
    stiff: Any
    hits: Any


class Auto:
    """tsit5 while the field is not stiff, rodas5p while it is.

    The two last stages of tsit5 lie at the same time, so that ``|k_7 - k_6| / |y_1 - g_6|`` estimates the largest
    eigenvalue of the Jacobian along the way, at no evaluation. Steps that lie at the edge of stability again and again
    are those of a stiff field. Back again, the norm of the Jacobian in units of the tolerance says whether the explicit
    method would be stable with the steps that are made. On the per-sample clock every row has its own mode. *Maturing.*

    Example:
        >>> import torch, pathline
        >>> f = lambda t, y: -(1.0 + 1e5 * (t > 0.5)) * (y - t.cos())
        >>> solution = pathline.solve(
        ...     f, torch.ones(1).double(), (0.0, 1.0), method="auto", rtol=1e-6, atol=1e-8
        ... )
        >>> solution.stats.jacobians > 0 and solution.stats.steps < 500
        True

    References:
        Hairer, Wanner (1996), Solving Ordinary Differential Equations II, IV.2; Petzold (1983), Automatic selection of
        methods for solving stiff and nonstiff systems.
    """

    name = "auto"
    needs = "rate"
    adaptive = True
    carries_slope = False
    variable_order = True
    fsal = False
    stages = None
    order = 5
    embedded_order = 4
    dense_order = 4

    def __init__(self) -> None:
        self.explicit = RungeKutta(TABLEAUS["tsit5"])
        self.stiff = ROSENBROCK["rodas5p"]
        self.gains = (0.2, 0.8, 0.0)
        a, b = self.explicit.tableau.a, self.explicit.tableau.b
        last = [float(x) for x in a[-2]]
        self._apart = [float(w) - (last[i] if i < len(last) else 0.0) for i, w in enumerate(b[:-1])]

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> Mode:
        """Explicit, with the slope at the start."""
        slope = term.rate(t0, y0, args)
        if not term.per_sample:
            return Mode(slope, True, False, 0)
        no = torch.zeros(len(y0), dtype=torch.bool, device=y0.device)
        return Mode(slope, ~no, no, no.long())

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Mode | None) -> AutoStep:
        """One step, of one method or of both, each with its rows."""
        mode = self.init(term, t0, y, args) if carry is None else carry
        if not term.per_sample or bool((mode.stiff == mode.stiff[0]).all()):
            return AutoStep([self._part(term, t0, t1, y, args, mode)], None)
        groups = [group.nonzero()[:, 0] for group in (~mode.stiff, mode.stiff)]
        parts = [self._some(term, t0, t1, y, args, mode, index) for index in groups]
        return AutoStep(parts, torch.cat(groups).argsort())

    def _some(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, mode: Mode, index: Tensor) -> _Part:
        """The step of the rows in ``index``."""
        starts, ends = (t[index] if isinstance(t, Tensor) else t for t in (t0, t1))
        return self._part(term.select(index), starts, ends, y[index], args, Mode(*(x[index] for x in mode)))

    def _part(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, mode: Mode) -> _Part:
        if bool(mode.stiff[0] if term.per_sample else mode.stiff):
            step = self.stiff.step(term, t0, t1, y, args, None)
            return _Part(step, self._after_stiff(term, t0, t1, y, step, mode), mode)
        mode = mode._replace(slope=_slopes(term, t0, y, args, mode))
        step = self.explicit.step(term, t0, t1, y, args, mode.slope)
        return _Part(step, self._after_explicit(term, step, mode), mode)

    def _after_explicit(self, term: Bound, step: RungeKuttaStep, mode: Mode) -> Mode:
        *earlier, before, last = step.ks
        with torch.no_grad():
            apart = before * self._apart[-1]
            for weight, k in zip(self._apart, earlier, strict=False):
                apart.add_(k, alpha=weight)
            edge = _size(term, last - before) > EDGE * _size(term, apart)
            if not term.per_sample:
                hits = mode.hits + 1 if edge else max(mode.hits - 1, 0)
                return Mode(last, True, hits >= HELD, 0 if hits >= HELD else hits)
            hits = torch.where(edge, mode.hits + 1, (mode.hits - 1).clamp_min(0))
            stiff = hits >= HELD
            return Mode(last, torch.ones_like(stiff), stiff, hits.masked_fill(stiff, 0))

    def _after_stiff(self, term: Bound, t0: Time, t1: Time, y: Tensor, step: RosenbrockStep, mode: Mode) -> Mode:
        none = torch.zeros_like(y)
        with torch.no_grad():
            jacobian = step.jacobian.abs()
            if term.tolerance is not None:
                scale = step.systems.scale(term.tolerance.scale(y, y))
                jacobian = jacobian * scale.unsqueeze(1) / scale.unsqueeze(2)
            norm = jacobian.sum(2).amax(1)
            if not term.per_sample:
                hits = mode.hits + 1 if float(norm.max()) * abs(host(t1 - t0)) < CALM else 0
                return Mode(none, False, hits < EASY, hits % EASY)
            hits = torch.where(norm * abs(t1 - t0) < CALM, mode.hits + 1, 0)
            back = hits >= EASY
            return Mode(none, torch.zeros_like(back), ~back, hits.masked_fill(back, 0))


class _Part(NamedTuple):
    """The step of some rows, what follows it, and what another try starts from."""

    step: Any
    after: Mode
    again: Mode


class AutoStep(Curve):
    """A step made of one method's, or of both methods' for their own rows."""

    def __init__(self, parts: Sequence[_Part], place: Tensor | None) -> None:
        self.parts, self.place = parts, place
        steps = [part.step for part in parts]
        self.y1, self.error = self._merged([s.y1 for s in steps]), self._merged([s.error for s in steps])
        if place is None:
            self.t0, self.t1 = steps[0].t0, steps[0].t1
            self.carry, self.retry = parts[0].after, parts[0].again
            return
        self.t0, self.t1 = (self._merged([getattr(s, end) for s in steps]) for end in ("t0", "t1"))
        self.carry, self.retry = (
            Mode(*(self._merged(list(column)) for column in zip(*modes, strict=True)))
            for modes in ([part.after for part in parts], [part.again for part in parts])
        )

    def _merged(self, tensors: list[Tensor]) -> Tensor:
        """Of all rows, from those of the parts one behind the other."""
        return tensors[0] if self.place is None else torch.cat(tensors)[self.place]

    def polynomial(self) -> Tensor:
        """``(degree + 1, *state)``: powers of theta; both methods have curves of one degree."""
        curves = [part.step.coefficients() for part in self.parts]
        return curves[0] if self.place is None else torch.cat(curves, 1)[:, self.place]

    def part(self, index: Tensor) -> Curve:
        """The step of some of its rows."""
        return _Some(self, index)


class _Some(Curve):
    def __init__(self, whole: AutoStep, index: Tensor) -> None:
        self.whole, self.index = whole, index

    def polynomial(self) -> Tensor:
        return self.whole.coefficients()[:, self.index]


def _slopes(term: Bound, t0: Time, y: Tensor, args: Any, mode: Mode) -> Tensor:
    """The slopes at the start, evaluated for those rows that have none."""
    if mode.known is True:
        return mode.slope
    if mode.known is False or not bool(mode.known.any()):
        return term.rate(t0, y, args)
    if bool(mode.known.all()):
        return mode.slope
    index = (~mode.known).nonzero()[:, 0]
    start = t0[index] if isinstance(t0, Tensor) else t0
    return mode.slope.index_copy(0, index, term.select(index).rate(start, y[index], args))


def _size(term: Bound, x: Tensor) -> Any:
    """The length of each row, or of the whole as a number."""
    if term.per_sample:
        return torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return torch.linalg.vector_norm(x).item()
