"""A ball inside a shell: the set that no flow of the plane can separate by a line."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Angles = tuple[float, float]

INNER, OUTER = (0.0, 0.5), (1.0, 1.5)


def concentric_spheres(
    inner: int = 500,
    outer: int = 1000,
    size: int = 2,
    *,
    without: Angles | None = None,
    within: Angles | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    r"""Points of a ball, labelled 0, and of the shell around it, labelled 1. *Maturing.*

    $$0 \le \|x\| \le 0.5 \qquad \text{and} \qquad 1 \le \|x\| \le 1.5$$

    Both are filled evenly in volume. A wedge is a range of the angle of the first two coordinates; training with
    ``without=wedge`` and testing with ``within=wedge`` asks what a model does where it has seen nothing.

    Args:
        inner: Number of points in the ball.
        outer: Number of points in the shell.
        size: Dimension of the space.
        without: Angles in radians between which no point lies, such as ``(0, pi / 5)``.
        within: Angles in radians between which all points lie.
        generator: Source of the points.
        dtype: Type of the points.

    Returns:
        Points ``(inner + outer, size)`` and labels 0 or 1, ``(inner + outer,)``, those of the ball first.

    Raises:
        ValueError: A number of points is negative, ``size`` is not positive, or a wedge is empty or without a plane.

    Example:
        >>> import math
        >>> from pathline.data import concentric_spheres
        >>> points, labels = concentric_spheres(without=(0, math.pi / 5))
        >>> points.shape, int(labels.sum())
        (torch.Size([1500, 2]), 1000)

    References:
        E. Dupont, A. Doucet, Y. W. Teh (2019), Augmented neural ODEs.
    """
    if min(inner, outer) < 0 or size < 1:
        raise ValueError(
            f"`inner` and `outer` are counts and `size` is a dimension, 1 or more, "
            f"but inner={inner}, outer={outer}, size={size} came."
        )
    wanted = _wedge(without, within, size)

    def draw(count: int, radii: tuple[float, float]) -> Tensor:
        return _filled(count, lambda n: _shell(n, radii, size, generator, dtype), wanted)

    points = torch.cat([draw(inner, INNER), draw(outer, OUTER)])
    return points, (torch.arange(inner + outer) >= inner).long()


def _shell(
    count: int, radii: tuple[float, float], size: int, generator: torch.Generator | None, dtype: torch.dtype
) -> Tensor:
    """Points spread evenly between two radii: the volume inside a radius grows as its ``size``-th power."""
    directions = torch.randn(count, size, generator=generator, dtype=dtype)
    low, high = (radius**size for radius in radii)
    radius = (low + (high - low) * torch.rand(count, 1, generator=generator, dtype=dtype)) ** (1 / size)
    return radius * directions / directions.norm(dim=1, keepdim=True)


def _filled(count: int, draw: Callable[[int], Tensor], wanted: Callable[[Tensor], Tensor]) -> Tensor:
    """``count`` wanted points: others are drawn again."""
    found = draw(count)
    found = found[wanted(found)]
    while len(found) < count:
        more = draw(count)
        found = torch.cat([found, more[wanted(more)]])
    return found[:count]


def _wedge(without: Angles | None, within: Angles | None, size: int) -> Callable[[Tensor], Tensor]:
    if without is None and within is None:
        return lambda points: torch.ones(len(points), dtype=torch.bool)
    if without is not None and within is not None:
        raise ValueError("Either `without` or `within` names a wedge, but both came.")
    name, angles = ("without", without) if without is not None else ("within", within)
    assert angles is not None
    width = angles[1] - angles[0]
    if not 0.0 < width < 2 * math.pi:
        raise ValueError(
            f"`{name}` is two angles in radians, less than a turn apart, the smaller first, but {angles!r} came."
        )
    if size < 2:
        raise ValueError(f"`{name}` is a wedge of the first two coordinates, but `size` is {size}.")

    def inside(points: Tensor) -> Tensor:
        angle = torch.atan2(points[:, 1], points[:, 0]) - angles[0]
        return angle.remainder(2 * math.pi) <= width

    return inside if within is not None else lambda points: ~inside(points)
