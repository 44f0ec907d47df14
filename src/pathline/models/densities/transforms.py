"""Maps between data as it comes and the space in which a flow lives, with their Jacobians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.nn import functional as F


class Logit(Transform):
    r"""Numbers between 0 and 1 to all real numbers, with a margin that keeps the ends finite. *Maturing.*

    $$y = \mathrm{logit}(\alpha + (1 - 2\alpha)\, x)$$

    The inverse maps the real numbers to an interval that is wider than the unit one by a margin on either side,
    $\bigl(-\tfrac{\alpha}{1 - 2\alpha},\ 1 + \tfrac{\alpha}{1 - 2\alpha}\bigr)$: a flow puts a little of its mass
    there, and draws may lie outside of $[0, 1]$. Clamp them where that matters.

    Args:
        alpha: The margin, from 0 to below one half.
        cache_size: As in ``torch.distributions``.

    Raises:
        ValueError: ``alpha`` is out of range.

    Example:
        >>> import torch
        >>> from pathline.models import Logit
        >>> logit = Logit(0.05)
        >>> logit.inv(logit(torch.tensor([0.0, 0.5, 1.0]))).round(decimals=4)
        tensor([0.0000, 0.5000, 1.0000])

    References:
        L. Dinh, J. Sohl-Dickstein, S. Bengio (2017), Density estimation using Real NVP.
    """

    codomain = constraints.real
    bijective = True
    sign = 1  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, alpha: float = 1e-6, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if not isinstance(alpha, int | float) or not 0 <= alpha < 0.5:
            raise ValueError(f"`alpha` is a number from 0 to below 0.5, but {alpha!r} came.")
        self.alpha = float(alpha)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def domain(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where ``x`` may lie: the unit interval and the margin on either side."""
        margin = self.alpha / (1 - 2 * self.alpha)
        return constraints.interval(-margin, 1 + margin)

    def with_cache(self, cache_size: int = 1) -> Logit:
        """The same map with a cache."""
        return self if self._cache_size == cache_size else Logit(self.alpha, cache_size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Logit) and other.alpha == self.alpha

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def _call(self, x: Tensor) -> Tensor:
        return torch.logit(self.alpha + (1 - 2 * self.alpha) * x)

    def _inverse(self, y: Tensor) -> Tensor:
        inside = self.domain
        # Rounding must not leave the interval.
        return ((torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha)).clamp(inside.lower_bound, inside.upper_bound)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of ``dy/dx``, elementwise."""
        return math.log1p(-2 * self.alpha) + F.softplus(y) + F.softplus(-y)


class Standardize(Transform):
    r"""To mean zero and deviation one, $y = (x - m) / s$. *Maturing.*

    Args:
        mean: ``m``, a number or a tensor that broadcasts against the event.
        std: ``s``, positive, alike.
        cache_size: As in ``torch.distributions``.

    Raises:
        ValueError: A deviation that is not positive, as that of a column that never changes.

    Example:
        >>> import torch, pathline
        >>> from torch.distributions import TransformedDistribution
        >>> from pathline.models import Standardize
        >>> x = 5.0 + 2.0 * torch.randn(100, 2)
        >>> to_flow = Standardize(x.mean(0), x.std(0))
        >>> flow = pathline.CNF(pathline.fields.ConcatSquash(2), 2)
        >>> loss = flow.loss(to_flow(x))
        >>> density = TransformedDistribution(flow(), [to_flow.inv])
        >>> density.log_prob(x).shape
        torch.Size([100])
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = 1  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(
        self, mean: float | Sequence[float] | Tensor, std: float | Sequence[float] | Tensor, cache_size: int = 0
    ) -> None:
        super().__init__(cache_size=cache_size)
        self.mean, self.std = torch.as_tensor(mean), torch.as_tensor(std)
        if not bool((self.std > 0).all()):
            raise ValueError(
                f"`std` is positive, but its least entry is {float(self.std.min()):g}. Leave columns out that never "
                "change, or give them a deviation such as 1."
            )

    def with_cache(self, cache_size: int = 1) -> Standardize:
        """The same map with a cache."""
        return self if self._cache_size == cache_size else Standardize(self.mean, self.std, cache_size)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Standardize) and all(
            torch.equal(a, b) for a, b in ((self.mean, other.mean), (self.std, other.std))
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def _call(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x)) / self.std.to(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.mean.to(y) + self.std.to(y) * y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of ``dy/dx``, elementwise."""
        return -self.std.to(x).log().expand_as(x)


def dequantize(x: Tensor, levels: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Whole numbers from 0 to ``levels - 1``, each spread over its cell of the unit interval. *Maturing.*

    $$\frac{x + u}{\text{levels}}, \qquad u \sim \mathrm{Uniform}[0, 1)$$

    The mean log-density of the result is a lower bound of the log-probability of ``x``, less ``log(levels)`` for each
    number; ``bits_per_dim`` counts it.

    Args:
        x: Whole numbers of any shape, in any dtype; whole-number dtypes become the default floating one.
        levels: How many values a number can take.
        generator: Of the draws; by default torch's own.

    Raises:
        ValueError: Numbers that are not whole, or out of range.

    Example:
        >>> import torch
        >>> from pathline.models import dequantize
        >>> x = dequantize(torch.tensor([[0, 3], [16, 8]]), levels=17)
        >>> bool((x >= 0).all() and (x < 1).all())
        True

    References:
        L. Theis, A. van den Oord, M. Bethge (2016), A note on the evaluation of generative models.
    """
    if not isinstance(levels, int) or levels < 1:
        raise ValueError(f"`levels` is how many values a number can take, at least 1, but {levels!r} came.")
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    if not bool(((x >= 0) & (x < levels) & (x == x.floor())).all()):
        raise ValueError(f"`x` holds whole numbers from 0 to {levels - 1}; numbers outside of them came.")
    noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    # Rounding of x + u must not reach the next cell.
    return torch.minimum(x + noise, torch.nextafter(x + 1, x)) / levels


def bits_per_dim(log_prob: Tensor, size: int | Sequence[int], levels: int = 1) -> Tensor:
    r"""Log-densities of dequantised data in bits for each number. *Maturing.*

    $$\frac{-\log p + d \log(\text{levels})}{d \log 2}$$

    Args:
        log_prob: In nats, of data in the unit interval (behind ``dequantize``).
        size: Numbers in an event, ``d``, or its shape, such as ``(1, 28, 28)``.
        levels: As in ``dequantize``.

    Example:
        >>> import torch
        >>> from pathline.models import bits_per_dim
        >>> bits_per_dim(torch.tensor(0.0), size=64, levels=16)
        tensor(4.)
    """
    shape = (size,) if isinstance(size, int) else tuple(size)
    if not shape or any(type(n) is not int or n < 1 for n in (*shape, levels)):
        raise ValueError(
            f"`size` is the numbers in an event or its shape, and `levels` is 1 or more, but {size!r} and {levels!r} "
            "came."
        )
    return (math.log(levels) - log_prob / math.prod(shape)) / math.log(2)
