"""Weights of the divergence in the evidence bound that grow while a model trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pathline.models.sizes import check_sizes


@dataclass(frozen=True)
class Exponential:
    r"""A weight that approaches its end geometrically, $w = w_\infty (1 - r^{\max(0, e - e_0)})$. *Maturing.*

    Args:
        rate: $r$, between 0 and 1.
        wait: $e_0$, epochs without the divergence.
        every: Steps that make an epoch.
        end: $w_\infty$; 1 is the evidence bound.

    Example:
        >>> from pathline.models import annealing
        >>> weight = annealing.Exponential(wait=10, every=20)
        >>> weight(200), round(weight(220), 6)
        (0.0, 0.01)

    References:
        Y. Rubanova, R. T. Q. Chen, D. Duvenaud (2019), Latent ordinary differential equations for irregularly-sampled
        time series.
    """

    rate: float = 0.99
    wait: float = 10.0
    every: int = 1
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"`rate` lies between 0 and 1, but {self.rate!r} came. The paper's is 0.99.")
        check_sizes(every=self.every)
        _check_weights(end=self.end)

    def __call__(self, step: int) -> float:
        """The weight at a step."""
        return self.end * (1.0 - self.rate ** max(0.0, step / self.every - self.wait))


@dataclass(frozen=True)
class Linear:
    """A weight that goes from ``start`` to ``end`` in a straight line, and stays there. *Maturing.*

    Args:
        steps: Until the end is reached.
        start: The weight at step 0.
        end: The weight from then on; 1 is the evidence bound.

    Example:
        >>> from pathline.models import annealing
        >>> weight = annealing.Linear(100)
        >>> weight(0), weight(50), weight(1000)
        (0.0, 0.5, 1.0)
    """

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps)
        _check_weights(start=self.start, end=self.end)

    def __call__(self, step: int) -> float:
        """The weight at a step."""
        return self.start + (self.end - self.start) * min(1.0, step / self.steps)


@dataclass(frozen=True)
class Constant:
    """The same weight throughout. *Maturing.*

    Args:
        weight: 1 is the evidence bound, smaller weights trade it for reconstruction; not negative.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_weights(weight=self.weight)

    def __call__(self, step: int) -> float:
        """The weight at a step."""
        return self.weight


def _check_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not 0.0 <= weight < math.inf:
            raise ValueError(f"`{name}` is a weight, 0 or more, but {weight!r} came. 1 is that of the evidence bound.")
