"""Initial value problems with closed forms: a linear, a non-autonomous and a nonlinear one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
        reference: the state at the end of the span, computed by other means where there is none.
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
    reference: Callable[[], Sequence[float]] | None = None
    stiffness: float = 1.0
    tags: frozenset[str] = field(default_factory=frozenset)
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
        if self.exact is not None or self.reference is None:
            return self.at(self.span[1])
        return torch.tensor(list(self.reference()), dtype=torch.float64)


def _linear(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    return torch.stack((-0.5 * u + 2.0 * v, -2.0 * u - 0.5 * v), -1)


def _linear_exact(t: float) -> Sequence[float]:
    decay, c, s = math.exp(-0.5 * t), math.cos(2.0 * t), math.sin(2.0 * t)
    return decay * (c + 0.5 * s), decay * (0.5 * c - s)


def _driven(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    return torch.stack((u * torch.cos(t), v * torch.cos(t) + torch.exp(torch.sin(t)) * torch.sin(2.0 * t)), -1)


def _driven_exact(t: float) -> Sequence[float]:
    growth = math.exp(math.sin(t))
    return growth, growth * (1.0 + math.sin(t) ** 2)


def _limit_cycle(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    pull = 1.0 - u * u - v * v
    return torch.stack((u * pull - v, v * pull + u), -1)


def _limit_cycle_exact(t: float) -> Sequence[float]:
    radius = 1.0 / math.sqrt(1.0 + 3.0 * math.exp(-2.0 * t))
    return radius * math.cos(t), radius * math.sin(t)


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
    field=_driven,
    y0=(1.0, 1.0),
    span=(0.0, 2.0),
    exact=_driven_exact,
    stiffness=1.0,
    tags=frozenset({"order"}),
    about="growth at a periodic rate, with a periodic source",
)
NONLINEAR = Problem(
    name="nonlinear",
    field=_limit_cycle,
    y0=(0.5, 0.0),
    span=(0.0, 2.0),
    exact=_limit_cycle_exact,
    stiffness=2.2,
    tags=frozenset({"order", "autonomous", "nonlinear"}),
    about="the normal form of a Hopf bifurcation: radius and angle have closed forms",
)
ORDER_PROBLEMS: tuple[Problem, ...] = (LINEAR, NON_AUTONOMOUS, NONLINEAR)
