"""Dense output of methods that have none of their own: polynomials through values and slopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline._structure import real_dtype
from pathline.solvers.base import horner, spread

if TYPE_CHECKING:
    from pathline.terms import Time

#: Where a curve of degree 5 takes further slopes: first one on the cubic, then two on the quartic. With the ends, the
#: nodes must not form a quadrature rule that is exact for the curve's slope, or its integral would say nothing new.
_FOURTH, _FIFTH = (0.25,), (0.15, 0.85)


class Curve:
    """A step whose dense output is one polynomial. Subclasses make it in `polynomial`."""

    failed = None
    t0: Time
    t1: Time
    _known: Tensor | None = None

    def polynomial(self) -> Tensor:
        """``(degree + 1, *state)``: powers of theta."""
        raise NotImplementedError  # implicit steps override `coefficients` instead

    def part(self, index: Tensor) -> Curve:
        """The step of some of its rows."""
        raise NotImplementedError  # the same

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(degree + 1, *state)``: dense output in powers of theta; of some rows alone."""
        if self._known is None:
            if rows is not None:
                return self.part(rows).polynomial()
            self._known = self.polynomial()
        return self._known if rows is None else self._known[:, rows]

    def rows(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(len(times), *state)``: dense output at times inside the step."""
        coefficients = self.coefficients()
        times = torch.as_tensor(times, dtype=torch.float64, device=coefficients.device)
        theta = ((times - self.t0) / (self.t1 - self.t0)).to(real_dtype(coefficients.dtype))
        return horner(coefficients, theta.reshape(-1, *(1,) * (coefficients.dim() - 1)).to(coefficients.dtype))


def through(dt: Time, y0: Tensor, y1: Tensor, nodes: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """``(len(nodes) + 2, *state)``: the polynomial through both ends with these slopes at the nodes."""
    h = spread(dt, y0)
    weights = _weights(tuple(nodes))
    data = [y1 - y0, *(h * f for f in slopes)]
    powers = [sum(float(w) * x for w, x in zip(row, data, strict=True)) for row in weights]
    return torch.stack([y0, *powers])  # pyright: ignore[reportArgumentType]


@lru_cache
def _weights(nodes: tuple[float, ...]) -> Any:
    """What the rise and the slopes at the nodes contribute to the coefficients of theta, theta^2, ..."""
    powers = np.arange(1, len(nodes) + 2)
    conditions = [np.ones(len(powers)), *(powers * node ** (powers - 1.0) for node in nodes)]
    return np.linalg.inv(np.stack(conditions))


def quintic(dt: Time, y0: Tensor, y1: Tensor, f0: Tensor, f1: Tensor, rate: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """``(6, *state)``: a curve of order 5 from the ends, by raising the degree (Enright et al.).

    The slope on a curve of order q, times h, is right to order q + 1; so each level's slopes carry the next one.

    ``rate(theta, y)`` is called three times.

    References:
        Enright, Jackson, Norsett, Thomsen (1986), Interpolants for Runge-Kutta formulas.
    """
    curve = through(dt, y0, y1, (0.0, 1.0), (f0, f1))
    inner: Any
    for inner in (_FOURTH, _FIFTH):
        slopes = [rate(theta, horner(curve, theta)) for theta in inner]
        curve = through(dt, y0, y1, (0.0, *inner, 1.0), (f0, *slopes, f1))
    return curve
