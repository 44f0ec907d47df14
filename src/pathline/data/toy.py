"""Small generated sets with one point to make each."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cubic(count: int = 10, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """``count`` points of ``x^3 + 0.1 x`` on ``[-2, 2]``, the regression of the Deep Implicit Layers tutorial.

    Returns:
        Inputs and targets, each ``(count, 1)``.

    References:
        Z. Kolter, D. Duvenaud, M. Johnson (2020), Deep Implicit Layers, NeurIPS tutorial.
    """
    x = torch.linspace(-2.0, 2.0, count, dtype=dtype).unsqueeze(1)
    return x, x**3 + 0.1 * x


def crossing(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The two points -1 and 1 and their images under ``x -> -x``, which no flow on the line can reach.

    Returns:
        Inputs and targets, each ``(2, 1)``.

    References:
        E. Dupont, A. Doucet, Y. W. Teh (2019), Augmented neural ODEs.
    """
    x = torch.tensor([[-1.0], [1.0]], dtype=dtype)
    return x, -x


def two_moons(
    count: int = 256, noise: float = 0.1, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles.

    Args:
        count: Number of points, half of them in each moon.
        noise: Standard deviation of the Gaussian noise on both coordinates.
        generator: Source of the noise.
        dtype: Type of the points.

    Returns:
        Points ``(count, 2)``, centred, and labels 0 or 1, ``(count,)``.
    """
    first = count // 2
    upper, lower = (torch.linspace(0.0, math.pi, n, dtype=dtype) for n in (first, count - first))
    points = torch.cat(
        [
            torch.stack([upper.cos(), upper.sin()], 1),
            torch.stack([1.0 - lower.cos(), 0.5 - lower.sin()], 1),
        ]
    ) - torch.tensor([0.5, 0.25], dtype=dtype)
    labels = torch.cat([torch.zeros(first, dtype=torch.long), torch.ones(count - first, dtype=torch.long)])
    return points + noise * torch.randn(points.shape, generator=generator, dtype=dtype), labels
