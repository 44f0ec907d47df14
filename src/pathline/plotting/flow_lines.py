"""The flow on a line: where every start goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from pathline.plotting.sources import curve
from pathline.plotting.style import on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def flow_lines(
    source: Any,
    axes: Axes | None = None,
    *,
    y0: Tensor | None = None,
    t: Tensor | None = None,
    component: int = 0,
    points: int = 200,
    **line: Any,
) -> Axes:
    """Draw one component over time for a row of starts, coloured by the start. *Maturing.*

    Two solutions of an ODE on the line never cross, which is what such a figure shows.

    Args:
        source: A ``Solution`` with a batch of starts, or a model, which then needs ``y0`` and ``t``.
        axes: Where to draw; the current axes of pyplot if omitted.
        y0: Starts, ``(batch, size)``.
        t: Times, ``(n,)``.
        component: Which component is drawn.
        points: Number of times at which a dense solution is drawn.
        **line: Options of ``axes.plot``, for all lines.

    Returns:
        The axes.

    Example:
        >>> import torch, pathline
        >>> from matplotlib.figure import Figure
        >>> from pathline.plotting import flow_lines
        >>> starts = torch.linspace(-1, 1, 5).unsqueeze(1)
        >>> solution = pathline.solve(lambda t, y: -y, starts, torch.linspace(0, 1, 9))
        >>> axes = flow_lines(solution, Figure().subplots())
    """
    import matplotlib

    times, states = curve(source, y0, t, points)
    lines = states[..., component].reshape(len(times), -1)
    first = lines[0]
    spread = max(float(first.max() - first.min()), 1e-12)
    colors = matplotlib.colormaps["viridis"](0.92 * (first - first.min()) / spread)
    axes = on_axes(axes)
    for column, color in zip(lines.T, colors, strict=True):
        axes.plot(times, column, **({"color": color, "linewidth": 1.1} | line))
    axes.set_xlabel("t")
    axes.set_ylabel("h(t)")
    return axes
