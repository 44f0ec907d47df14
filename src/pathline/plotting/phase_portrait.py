"""The vector field, and paths through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.plotting.sources import array, curve
from pathline.plotting.style import PALETTE, on_axes
from pathline.terms import ODE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def phase_portrait(
    source: Any,
    axes: Axes | None = None,
    *,
    y0: Tensor | None = None,
    t: Tensor | None = None,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
    at: float = 0.0,
    density: int = 22,
    points: int = 400,
    **line: Any,
) -> Axes:
    """Draw the vector field of a two-dimensional system, and trajectories in its plane. *Maturing.*

    Args:
        source: A ``Solution`` (its path), a model with a ``field`` (the field, and paths from ``y0``), or a field
            ``(t, y) -> dy`` on its own.
        axes: Where to draw; the current axes of pyplot if omitted.
        y0: Starts of a model's paths, ``(2,)`` or ``(batch, 2)``.
        t: Times of the paths, ``(n,)``.
        xlim: Range of the first component; that of the axes if omitted.
        ylim: Range of the second component; that of the axes if omitted.
        at: The time at which the field is drawn.
        density: Arrows a side.
        points: Number of times at which a dense solution is drawn.
        **line: Options of ``axes.plot`` for the paths.

    Returns:
        The axes.

    Raises:
        ValueError: The state does not have two components.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> from pathline.plotting import phase_portrait
        >>> turning = lambda t, y: torch.stack([-y[..., 1], y[..., 0]], -1)
        >>> axes = phase_portrait(turning, Figure().subplots(), xlim=(-1, 1), ylim=(-1, 1))
    """
    axes = on_axes(axes)
    is_solution = hasattr(source, "ys")
    if is_solution or y0 is not None:
        _path(axes, source, y0, t, points, line)
    if not is_solution:
        _arrows(axes, source, xlim or axes.get_xlim(), ylim or axes.get_ylim(), at, density)
    axes.set_xlabel("$y_1$")
    axes.set_ylabel("$y_2$")
    return axes


def _path(axes: Axes, source: Any, y0: Tensor | None, t: Tensor | None, points: int, line: dict[str, Any]) -> None:
    _, states = curve(source, y0, t, points)
    _check_plane(states.shape[-1])
    style: dict[str, Any] = {"color": PALETTE[0]} | line
    axes.plot(*states.reshape(len(states), -1, 2).transpose(2, 0, 1), **style)


def _arrows(
    axes: Axes, source: Any, xlim: tuple[float, float], ylim: tuple[float, float], at: float, density: int
) -> None:
    field = getattr(source, "field", source)
    like = next(field.parameters(), torch.empty(0)) if isinstance(field, torch.nn.Module) else torch.empty(0)
    x, y = np.meshgrid(np.linspace(*xlim, density), np.linspace(*ylim, density))
    grid = torch.as_tensor(np.stack([x, y], -1).reshape(-1, 2)).to(like)
    with torch.no_grad():
        rate = ODE(field).rate(torch.full((), at, dtype=grid.dtype, device=grid.device), grid, None)
    _check_plane(rate.shape[-1])
    u, v = array(rate).T.reshape(2, density, density)
    # Arrows of one length on the page: the direction is what can be read, the speed is its shade.
    u, v = u / (xlim[1] - xlim[0]), v / (ylim[1] - ylim[0])
    speed = np.hypot(u, v)
    scale = np.where(speed > 0, speed, 1.0)
    axes.quiver(
        x, y, u / scale, v / scale, np.log1p(speed / np.median(scale)), cmap="Greys", clim=(-1.5, 3.0), pivot="mid",
        angles="uv", scale=1.2 * density, width=0.0028, zorder=0,
    )  # fmt: skip
    axes.set_xlim(*xlim)
    axes.set_ylim(*ylim)


def _check_plane(size: int) -> None:
    if size != 2:
        raise ValueError(
            f"A phase portrait shows two components, but the state has {size}. "
            "For others use plotting.trajectory, or a field restricted to a plane."
        )
