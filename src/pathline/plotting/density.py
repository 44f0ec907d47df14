"""Densities in the plane: a map of one, and the flow that makes it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.plotting.sources import array
from pathline.plotting.style import on_axes

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes


def density_map(
    density: Any,
    axes: Axes | None = None,
    *,
    xlim: tuple[float, float] = (-4.0, 4.0),
    ylim: tuple[float, float] | None = None,
    points: int = 150,
    depth: float = 8.0,
    dtype: torch.dtype = torch.float32,
    **image: Any,
) -> Axes:
    """Draw the logarithm of a density on a grid of the plane. *Maturing.*

    Args:
        density: A ``Distribution`` with events ``(2,)``, a model that returns one when called, a function
            ``x -> log p``, or the logarithms themselves on the grid, ``(points, points)`` with the rows along y.
        axes: Where to draw; the current axes of pyplot if omitted.
        xlim: Range of the first component.
        ylim: Range of the second component; that of the first if omitted.
        points: Points a side.
        depth: How far below the highest value the colours reach, in nats.
        dtype: Type of the points.
        **image: Options of ``axes.imshow``.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from pathline.data import TARGETS
        >>> from pathline.plotting import density_map
        >>> axes = density_map(TARGETS["8gaussians"]().log_prob, Figure().subplots())
    """
    axes, ylim = on_axes(axes), xlim if ylim is None else ylim
    log_p = density if isinstance(density, Tensor) else on_grid(_log_prob(density), xlim, ylim, points, dtype)
    values = array(log_p)
    top = float(np.max(values[np.isfinite(values)], initial=-math.inf))
    style: dict[str, Any] = {"cmap": "magma", "vmin": top - depth, "vmax": top, "interpolation": "bilinear"}
    shown = np.maximum(np.nan_to_num(values, nan=-math.inf), top - 10 * depth)
    axes.imshow(shown, origin="lower", extent=(*xlim, *ylim), **(style | image))
    axes.set_aspect("equal")
    return axes


def on_grid(
    log_prob: Callable[[Tensor], Tensor],
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    points: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A function of points on the middles of the cells of a grid, ``(points, points)``, rows along y."""
    x, y = (_middles(low, high, points, dtype) for low, high in (xlim, ylim))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
    with torch.no_grad():
        return log_prob(grid).reshape(points, points)


def flow_of_lattice(
    model: Any,
    axes: Axes | None = None,
    *,
    t: float | None = None,
    limits: tuple[float, float] = (-2.5, 2.5),
    lines: int = 21,
    points: int = 121,
    depth: float = 8.0,
    **mesh: Any,
) -> Axes:
    """Draw where a square lattice of base points is at time ``t``, shaded by the density there. *Maturing.*

    At the time of the base the lattice is straight and the shade that of the base. A flow bends and stretches it, and
    where it is stretched it is dark. Lines never cross: the map from one time to another can be undone.

    Args:
        model: A ``CNF``, or a ``FlowMatching``, over the plane.
        axes: Where to draw; the current axes of pyplot if omitted.
        t: The time; that of the data if omitted.
        limits: Range of the lattice in both components.
        lines: Lines in each direction.
        points: Points along each line, and of the shaded mesh a side.
        depth: How far below the highest value the shades reach, in nats.
        **mesh: Options of ``axes.pcolormesh`` for the shade.

    Returns:
        The axes.

    Example:
        >>> import torch, pathline
        >>> from matplotlib.figure import Figure
        >>> from pathline.plotting import flow_of_lattice
        >>> model = pathline.CNF(pathline.fields.ConcatSquash(2), 2)
        >>> axes = flow_of_lattice(model, Figure().subplots(), t=0.5, points=31)
    """
    from matplotlib.collections import LineCollection

    axes = on_axes(axes)
    every = max(1, (points - 1) // max(1, lines - 1))
    places, log_p = moved_lattice(model, t, limits, points)
    xy, values = array(places), array(log_p)
    top = float(values.max())
    style: dict[str, Any] = {"cmap": "magma", "shading": "gouraud", "vmin": top - depth, "vmax": top}
    axes.pcolormesh(xy[..., 0], xy[..., 1], values, rasterized=True, **(style | mesh))
    grid = [*xy[::every], *xy.swapaxes(0, 1)[::every]]
    axes.add_collection(LineCollection(grid, colors="white", alpha=0.45, linewidths=0.5))
    axes.set_aspect("equal")
    return axes


def moved_lattice(model: Any, t: float | None, limits: tuple[float, float], points: int) -> tuple[Tensor, Tensor]:
    """A lattice at time ``t``, ``(points, points, 2)``, and the log-density at its points, ``(points, points)``."""
    from pathline.models import CNF

    flow = getattr(model, "flow", model)
    if not isinstance(flow, CNF) or tuple(flow.event_shape) != (2,):
        raise TypeError(
            f"The flow of a lattice is that of a CNF or a FlowMatching over the plane, but {type(model).__name__} came."
        )
    start, end = (float(time) for time in flow.times())
    t = end if t is None else t
    line = torch.linspace(*limits, points)
    z = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    z = z.to(next(flow.parameters(), torch.empty(0)))
    with torch.no_grad():
        log_p = flow.base_distribution(z).log_prob(z)
        if t != start:
            solver = {name: getattr(flow, name) for name in ("method", "rtol", "atol", "dt")}
            z, log_det = CNF(flow.field, 2, base=flow.base, t=(start, t), **solver).solve_from_base(z)[:2]
            log_p = log_p - log_det
    return z.reshape(points, points, 2), log_p.reshape(points, points)


def _log_prob(density: Any) -> Callable[[Tensor], Tensor]:
    if isinstance(density, torch.nn.Module):
        density = density()
    return getattr(density, "log_prob", density)


def _middles(low: float, high: float, count: int, dtype: torch.dtype) -> Tensor:
    return low + (high - low) / count * (torch.arange(count, dtype=dtype) + 0.5)
