"""States over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pathline.plotting.sources import curve
from pathline.plotting.style import PALETTE, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def trajectory(
    source: Any,
    axes: Axes | None = None,
    *,
    y0: Tensor | None = None,
    t: Tensor | None = None,
    names: Sequence[str] | None = None,
    points: int = 400,
    **line: Any,
) -> Axes:
    """Draw every component of a trajectory over time. *Maturing.*

    Args:
        source: A ``Solution`` (drawn smoothly where it is dense), or a model, which then needs ``y0`` and ``t``.
        axes: Where to draw; the current axes of pyplot if omitted.
        y0: Start of a model's trajectory, ``(size,)`` or ``(batch, size)``.
        t: Times, ``(n,)``; for a solution without dense output they are its own.
        names: One label a component.
        points: Number of times at which a dense solution is drawn.
        **line: Options of ``axes.plot``, for all lines.

    Returns:
        The axes.

    Example:
        >>> import torch, pathline
        >>> from matplotlib.figure import Figure
        >>> from pathline.plotting import trajectory
        >>> solution = pathline.solve(lambda t, y: -y, torch.ones(2), torch.linspace(0, 1, 9))
        >>> axes = trajectory(solution, Figure().subplots(), names=["a", "b"])
    """
    times, states = curve(source, y0, t, points)
    if states.ndim == 1:
        states = states[:, None]
    axes = on_axes(axes)
    for i in range(states.shape[-1]):
        label = names[i] if names else f"$y_{{{i + 1}}}$"
        style: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "label": label} | line
        lines = axes.plot(times, states[..., i].reshape(len(times), -1), **style)
        for other in lines[1:]:
            other.set_label("_nolegend_")
    axes.set_xlabel("t")
    return axes
