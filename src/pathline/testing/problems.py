"""Initial value problems with closed forms: a linear, a non-autonomous and a nonlinear one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pathline.terms import Separable, Sum, Term

Rate = Callable[[Tensor, Tensor], Tensor]
Curve = Callable[[float], Sequence[float]]


@dataclass(frozen=True)
class Problem:
    """An initial value problem dy/dt = field(t, y), y(span[0]) = y0, with a known answer.

    Args:
        name: unique in a catalogue.
        field: the rate; it must broadcast over leading batch dimensions.
        y0: the state at ``span[0]``.
        span: the interval.
        exact: the solution as a function of a time, where there is a closed form.
        reference: the state at the end of the span, computed by other means where there is none; one row for each of
            ``times`` where those are given.
        stiffness: the largest eigenvalue of df/dy along the solution in absolute value, roughly.
        tags: words to select by.
        about: what it models.
        times: where along the span the state is known without a closed form; the end alone by default.
        atol: the absolute tolerance to solve it with, as a multiple of the relative one.
        split: ``kick(t, q)`` and ``drift(t, p)`` where the field is separable and the state holds q, then p.

    Example:
        >>> from pathline.testing import LINEAR
        >>> LINEAR.at(0.0).tolist() == list(LINEAR.y0)
        True
    """

    name: str
    field: Rate
    y0: tuple[float, ...]
    span: tuple[float, float]
    exact: Curve | None = None
    reference: Callable[[], Sequence[float] | Sequence[Sequence[float]]] | None = None
    stiffness: float = 1.0
    tags: frozenset[str] = dataclasses.field(default_factory=frozenset)
    about: str = ""
    times: tuple[float, ...] = ()
    atol: float = 1.0
    split: tuple[Rate, Rate] | None = None

    def start(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The initial state, shape (n,)."""
        return torch.tensor(self.y0, dtype=dtype)

    def at(self, t: float) -> Tensor:
        """The exact state at time t, float64, shape (n,).

        Raises:
            LookupError: the problem has no closed form.
        """
        if self.exact is None:
            raise LookupError(f"{self.name} has no closed form; only the state at its end is known: `problem.end()`.")
        return torch.tensor([float(value) for value in self.exact(t)], dtype=torch.float64)

    def end(self) -> Tensor:
        """The state at the end of the span, float64, shape (n,): the closed form, or the reference.

        Raises:
            LookupError: neither is known.
        """
        return self.rows()[-1]

    def known(self) -> tuple[float, ...]:
        """The times at which the state is known, in order; the last is the end of the span."""
        return self.times or (self.span[1],)

    def rows(self) -> Tensor:
        """The states at the known times, float64, shape (times, n): the closed form, or the reference.

        Raises:
            LookupError: neither is known.
        """
        if self.exact is not None or self.reference is None:
            return torch.stack([self.at(t) for t in self.known()])
        found = torch.tensor(self.reference(), dtype=torch.float64)
        return found if found.dim() == 2 else found.unsqueeze(0)

    def posed(self, needs: str = "rate") -> Rate | Term:
        """The field in the form that a solver needs: as it is, in two parts, or split.

        The parts are ``f / 2 - 0.7 y`` and ``f / 2 + 0.7 y``, so that both matter and both see the time.

        Raises:
            LookupError: the field isn't separable, and the solver needs that.
        """
        if needs == "parts":
            return Sum(
                lambda t, y: 0.5 * self.field(t, y) - 0.7 * y,
                lambda t, y: 0.5 * self.field(t, y) + 0.7 * y,
            )
        if needs == "split":
            if self.split is None:
                raise LookupError(f"{self.name} isn't separable. Take one of `SEPARABLE_PROBLEMS`.")
            return Separable(*self.split)
        return self.field


def _linear(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    return torch.stack((-0.5 * u + 2.0 * v, -2.0 * u - 0.5 * v), -1)


def _linear_exact(t: float) -> Sequence[float]:
    decay, c, s = math.exp(-0.5 * t), math.cos(2.0 * t), math.sin(2.0 * t)
    return decay * (c + 0.5 * s), decay * (0.5 * c - s)


def _turned(y: Tensor) -> Tensor:
    """(u, v) by a quarter turn."""
    u, v = y.unbind(-1)
    return torch.stack((v, -u), -1)


def _swinging(t: Tensor, y: Tensor) -> Tensor:
    return 2.0 * torch.cos(t) * _turned(y) - 0.3 * y


def _swinging_exact(t: float) -> Sequence[float]:
    angle, decay = 2.0 * math.sin(t), math.exp(-0.3 * t)
    return decay * math.cos(angle), -decay * math.sin(angle)


def _turning(t: Tensor, y: Tensor) -> Tensor:
    return 2.0 * _turned(y)


def _turning_exact(t: float) -> Sequence[float]:
    return math.cos(2.0 * t), -math.sin(2.0 * t)


def _to_and_fro(t: Tensor, y: Tensor) -> Tensor:
    return 2.0 * torch.cos(t) * _turned(y)


def _to_and_fro_exact(t: float) -> Sequence[float]:
    angle = 2.0 * math.sin(t)
    return math.cos(angle), -math.sin(angle)


def _pull(t: Tensor, q: Tensor) -> Tensor:
    return -q / q.square().sum(-1, keepdim=True) ** 1.5


def kepler(t: Tensor, y: Tensor) -> Tensor:
    """A body about a fixed centre: position and velocity in the plane."""
    u, v, du, dv = y.unbind(-1)
    cube = (u * u + v * v) ** 1.5
    return torch.stack((du, dv, -u / cube, -v / cube), -1)


def kepler_orbit(eccentricity: float) -> Curve:
    """The ellipse of semi-major axis 1, at the pericentre at t = 0, by Newton's method on Kepler's equation."""
    e = eccentricity

    def curve(t: float) -> Sequence[float]:
        mean = math.remainder(t, math.tau)
        anomaly = mean + math.copysign(0.85 * e, math.sin(mean))
        for _ in range(50):  # it converges in a few from this start
            anomaly -= (anomaly - e * math.sin(anomaly) - mean) / (1.0 - e * math.cos(anomaly))
        c, s, rate = math.cos(anomaly), math.sin(anomaly), 1.0 / (1.0 - e * math.cos(anomaly))
        minor = math.sqrt(1.0 - e * e)
        return c - e, minor * s, -rate * s, rate * minor * c

    return curve


LINEAR = Problem(
    name="linear",
    field=_linear,
    y0=(1.0, 0.5),
    span=(0.0, 2.0),
    exact=_linear_exact,
    stiffness=2.1,
    tags=frozenset({"order", "autonomous"}),
    about="a damped rotation",
)
NON_AUTONOMOUS = Problem(
    name="non-autonomous",
    field=_swinging,
    y0=tuple(_swinging_exact(0.2)),
    span=(0.2, 2.2),
    exact=_swinging_exact,
    stiffness=2.0,
    tags=frozenset({"order"}),
    about="a damped rotation that swings to and fro",
)
# From a general point: symmetric about the pericentre, errors would cancel.
NONLINEAR = Problem(
    name="nonlinear",
    field=kepler,
    y0=tuple(kepler_orbit(0.5)(0.5)),
    span=(0.5, 2.5),
    exact=kepler_orbit(0.5),
    split=(_pull, lambda t, p: p),
    stiffness=2.8,
    tags=frozenset({"order", "autonomous", "nonlinear"}),
    about="an orbit of eccentricity 0.5",
)
ORDER_PROBLEMS: tuple[Problem, ...] = (LINEAR, NON_AUTONOMOUS, NONLINEAR)

SEPARABLE_LINEAR = Problem(
    name="separable linear",
    field=_turning,
    y0=tuple(_turning_exact(0.2)),
    span=(0.2, 2.2),
    exact=_turning_exact,
    split=(lambda t, q: -2.0 * q, lambda t, p: 2.0 * p),
    stiffness=2.0,
    tags=frozenset({"order", "autonomous"}),
    about="a rotation",
)
SEPARABLE_NON_AUTONOMOUS = Problem(
    name="separable non-autonomous",
    field=_to_and_fro,
    y0=tuple(_to_and_fro_exact(0.2)),
    span=(0.2, 2.2),
    exact=_to_and_fro_exact,
    split=(lambda t, q: -2.0 * torch.cos(t) * q, lambda t, p: 2.0 * torch.cos(t) * p),
    stiffness=2.0,
    tags=frozenset({"order"}),
    about="a rotation to and fro; both halves depend on time",
)
#: For methods that kick and drift; the orbit is separable already.
SEPARABLE_PROBLEMS: tuple[Problem, ...] = (SEPARABLE_LINEAR, SEPARABLE_NON_AUTONOMOUS, NONLINEAR)


def order_problems(needs: str) -> tuple[Problem, ...]:
    """The linear, the non-autonomous and the nonlinear problem for solvers with a need."""
    return SEPARABLE_PROBLEMS if needs == "split" else ORDER_PROBLEMS
