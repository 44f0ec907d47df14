"""Noisy spirals in the plane, and the points that come after them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pathline.data.series import Series

#: Where the centres of the spirals that run clockwise and counterclockwise lie on the first axis.
CENTRES = (-5.0, 5.0)


class Spirals(NamedTuple):
    """What `spirals` returns."""

    observed: Series
    """The n spirals, noisy, at some of the first times; ``labels`` are 1 for clockwise."""
    times: Tensor
    """``(T,)``, float64, all times."""
    clean: Tensor
    """``(n, T, 2)``, the spirals without noise at all times."""


def spirals(
    n: int = 1000,
    observations: int = 100,
    *,
    window: int = 100,
    future: int = 100,
    noise: float = 0.3,
    grid: int = 500,
    margin: int = 100,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Spirals:
    r"""Spirals of the plane, half of them clockwise, with random starts. *Maturing.*

    $$r = 0.3 \cdot 50 / \phi,\ \phi = 6\pi + 1 - s \quad \text{(clockwise)}, \qquad
      r = 0.3\, \phi,\ \phi = s \quad \text{(counterclockwise)}$$

    around two centres, where $s$ runs over ``grid`` points of $[0, 6\pi]$. A series is ``window + future`` successive
    points anywhere but within ``margin`` points of either end; its times begin at 0. Each series has a draw of its own
    of the times in the window, without replacement, and noise on what is seen. Nothing of the future is seen. With
    ``future=0`` windows reach as far as the futures of series that have one, so that a model that learns from windows
    alone has seen the places where others go, though never with the way that leads there.

    Args:
        n: Number of spirals; an odd one more runs counterclockwise.
        observations: Number of observations of each, at most ``window``.
        window: Number of times that may be observed.
        future: Number of times after them.
        noise: Standard deviation of the noise.
        grid: Number of points on a whole spiral.
        margin: Points at both of its ends that no series reaches.
        generator: Source of starts, times and noise.
        dtype: Type of the values.

    Returns:
        The observed series, all times, and the clean spirals.

    Raises:
        ValueError: No spiral, more observations than times, or a series longer than what the margins leave.

    Example:
        >>> from pathline.data import spirals
        >>> observed, times, clean = spirals(10, observations=30)
        >>> len(observed), observed.values.shape, clean.shape
        (10, torch.Size([300, 2]), torch.Size([10, 200, 2]))

    References:
        R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud (2018), Neural ordinary differential equations.
    """
    length, starts = window + future, grid - 2 * margin - window - future
    if n < 1:
        raise ValueError(f"`n` is a number of spirals, at least 1; {n} came.")
    if not 1 <= observations <= window:
        raise ValueError(f"`observations` lies between 1 and the {window} times of the window; {observations} came.")
    if starts < 1:
        raise ValueError(
            f"A series of {length} points and two margins of {margin} do not fit into a spiral of {grid} points. "
            "Choose a larger `grid`."
        )
    s = torch.linspace(0.0, 6.0 * math.pi, grid, dtype=torch.float64)
    first = margin + torch.randint(starts, (n,), generator=generator)
    clockwise = torch.arange(n) < n // 2
    along = s[first[:, None] + torch.arange(length)]
    clean = torch.where(clockwise[:, None, None], _clockwise(along), _counterclockwise(along)).to(dtype)
    seen = torch.rand(n, window, generator=generator).argsort(1)[:, :observations].sort(1).values
    rows = torch.arange(n).repeat_interleave(observations)
    values = clean[rows, seen.flatten()]
    values = values + noise * torch.randn(values.shape, generator=generator, dtype=dtype)
    lengths = torch.full((n,), observations)
    observed = Series(s[:length][seen.flatten()], values, lengths, labels=clockwise.long(), channels=("x", "y"))
    return Spirals(observed, s[:length], clean)


def _clockwise(s: Tensor) -> Tensor:
    angle = 6.0 * math.pi + 1.0 - s
    return _around(CENTRES[0], 0.3 * 50.0 / angle, angle)


def _counterclockwise(s: Tensor) -> Tensor:
    return _around(CENTRES[1], 0.3 * s, s)


def _around(centre: float, radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([centre + radius * angle.cos(), radius * angle.sin()], -1)
