"""Initial value problems with closed forms: a linear, a non-autonomous and a nonlinear one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        times: where along the span the state is known without a closed form; the end alone by default.
        atol: the absolute tolerance to solve it with, as a multiple of the relative one.
        stiffness: the largest eigenvalue of df/dy along the solution in absolute value, roughly.
        tags: words to select by.
        about: what it models.

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
    times: tuple[float, ...] = ()
    atol: float = 1.0
    stiffness: float = 1.0
    tags: frozenset[str] = dataclasses.field(default_factory=frozenset)
    about: str = ""

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


def _linear(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    return torch.stack((-0.5 * u + 2.0 * v, -2.0 * u - 0.5 * v), -1)


def _linear_exact(t: float) -> Sequence[float]:
    decay, c, s = math.exp(-0.5 * t), math.cos(2.0 * t), math.sin(2.0 * t)
    return decay * (c + 0.5 * s), decay * (0.5 * c - s)


def _swinging(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    turn = 2.0 * torch.cos(t)
    return torch.stack((turn * v - 0.3 * u, -turn * u - 0.3 * v), -1)


def _swinging_exact(t: float) -> Sequence[float]:
    angle, decay = 2.0 * math.sin(t), math.exp(-0.3 * t)
    return decay * math.cos(angle), -decay * math.sin(angle)


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
    stiffness=2.8,
    tags=frozenset({"order", "autonomous", "nonlinear"}),
    about="an orbit of eccentricity 0.5",
)
ORDER_PROBLEMS: tuple[Problem, ...] = (LINEAR, NON_AUTONOMOUS, NONLINEAR)
