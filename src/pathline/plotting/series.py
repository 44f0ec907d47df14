"""Irregular series: what was observed, what was true, and what a model thinks possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.plotting.sources import array
from pathline.plotting.style import PALETTE, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pathline.data import Series

INK = "#222222"


def observations(
    series: Series, axes: Axes | None = None, *, number: int = 0, channel: int | str = 0, **marks: Any
) -> Axes:
    """Draw the observed points of one series; missing values leave no mark. *Maturing.*

    Args:
        series: The series.
        axes: Where to draw; the current axes of pyplot if omitted.
        number: Which of the series, by number or id.
        channel: Which of its channels, by number or name.
        **marks: Options of ``axes.plot``.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from pathline.data import sinusoids
        >>> from pathline.plotting import observations
        >>> axes = observations(sinusoids(4, 30), Figure().subplots(), number=2)
    """
    axes = on_axes(axes)
    one, column = series[_number(series, number)], _column(series, channel)
    seen = one.mask[:, column]
    style: dict[str, Any] = {"marker": "o", "linestyle": "", "color": INK, "markersize": 4, "zorder": 5} | marks
    axes.plot(array(one.times[seen]), array(one.values[seen, column]), **style)
    axes.set_xlabel("t")
    return axes


def fan(
    prediction: Any,
    t: Tensor,
    axes: Axes | None = None,
    *,
    number: int = 0,
    channel: int = 0,
    levels: Sequence[float] = (0.5, 0.9),
    color: str = PALETTE[0],
    **line: Any,
) -> Axes:
    """Draw the median of samples, and shaded bands that contain given shares of them at each time. *Maturing.*

    Args:
        prediction: Samples ``(S, T, n, D)``, or an object that has them as ``.samples``, such as the prediction of a
            latent model at shared times. Samples ``(S, T)`` of a single curve pass as they are.
        t: The times, ``(T,)``.
        axes: Where to draw; the current axes of pyplot if omitted.
        number: Which of the series, a number.
        channel: Which of its channels, a number.
        levels: The share of the samples that each band contains, between 0 and 1.
        color: Of line and bands.
        **line: Options of ``axes.plot`` for the median.

    Returns:
        The axes.

    Raises:
        ValueError: The samples are not at these times, or a level is no share.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> from pathline.plotting import fan
        >>> t = torch.linspace(0, 1, 20)
        >>> axes = fan(torch.randn(100, 20).cumsum(1), t, Figure().subplots(), levels=(0.8,))
    """
    axes, curves = on_axes(axes), _curves(prediction, t, number, channel)
    if not all(0.0 < level < 1.0 for level in levels):
        raise ValueError(f"`levels` are shares between 0 and 1, such as (0.5, 0.9), but {tuple(levels)!r} came.")
    times = array(t)
    for level in sorted(levels, reverse=True):
        low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
        # Nested bands, the narrow one on top, add up to the darker shade.
        axes.fill_between(times, low, high, color=color, alpha=0.22, linewidth=0)
    style: dict[str, Any] = {"color": color, "linewidth": 1.8} | line
    axes.plot(times, np.median(curves, axis=0), **style)
    axes.set_xlabel("t")
    return axes


def forecast(
    observed: Series,
    prediction: Any,
    t: Tensor,
    axes: Axes | None = None,
    *,
    truth: tuple[Tensor, Tensor] | None = None,
    later: Series | None = None,
    since: float | None = None,
    number: int | str = 0,
    channel: int | str = 0,
    levels: Sequence[float] = (0.5, 0.9),
    color: str = PALETTE[0],
    **line: Any,
) -> Axes:
    """Draw one series whole: observed points, the fan of a model, and what really was. *Maturing.*

    Args:
        observed: What the model was given.
        prediction: As for :func:`fan`.
        t: The times of the prediction, ``(T,)``.
        axes: Where to draw; the current axes of pyplot if omitted.
        truth: Times ``(K,)`` and the true curve there, ``(K,)``, drawn dashed.
        later: Observations that the model was not given, drawn hollow.
        since: Where the forecast begins; the rest is shaded.
        number: Which of the series, by number or id.
        channel: Which of its channels, by number or name.
        levels: As for :func:`fan`.
        color: As for :func:`fan`.
        **line: As for :func:`fan`.

    Returns:
        The axes.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> from pathline.data import sinusoids
        >>> from pathline.plotting import forecast
        >>> series, t = sinusoids(4, 30), torch.linspace(0, 5, 50)
        >>> samples = torch.randn(20, 50, 4, 1)
        >>> axes = forecast(
        ...     series.before(2.5), samples, t, Figure().subplots(), later=series.after(2.5), since=2.5
        ... )
    """
    axes, number, channel = on_axes(axes), _number(observed, number), _column(observed, channel)
    if since is not None:
        axes.axvspan(since, float(t[-1]), color="#EEEEEE", zorder=0)
    if truth is not None:
        axes.plot(array(truth[0]), array(truth[1]), "--", color=INK, linewidth=1.1, label="truth")
    style: dict[str, Any] = {"label": "median, 50 % and 90 %" if tuple(levels) == (0.5, 0.9) else "median"} | line
    fan(prediction, t, axes, number=number, channel=channel, levels=levels, color=color, **style)
    if later is not None:
        observations(
            later, axes, number=number, channel=channel, markerfacecolor="white", markeredgewidth=0.8, label="not shown"
        )
    return observations(observed, axes, number=number, channel=channel, label="observed")


def _number(series: Series, number: int | str) -> int:
    names = [] if series.ids is None or not isinstance(number, str) else series.ids.tolist()
    if isinstance(number, str) and number in names:
        return names.index(number)
    if isinstance(number, str) or not -len(series) <= number < len(series):
        raise ValueError(f"`number` is that of one of {len(series)} series, or its id, but {number!r} came.")
    return number


def _column(series: Series, channel: int | str) -> int:
    if isinstance(channel, str):
        if channel not in series.channels:
            raise ValueError(f"`channel` is one of {', '.join(series.channels)}, but {channel!r} came.")
        return series.channels.index(channel)
    if not -len(series.channels) <= channel < len(series.channels):
        raise ValueError(
            f"`channel` is the number of one of {len(series.channels)} channels, or its name, but {channel} came."
        )
    return channel


def _curves(prediction: Any, t: Tensor, number: int, channel: int) -> np.ndarray:
    """The samples of one curve, ``(S, T)``."""
    for name, value in (("number", number), ("channel", channel)):
        if isinstance(value, str):
            raise TypeError(f"`{name}` is a number, since samples have no names, but {value!r} came. Use `forecast`.")
    samples = torch.as_tensor(getattr(prediction, "samples", prediction)).detach()
    if samples.dim() == 4:
        samples = samples[:, :, number, channel]
    if samples.dim() != 2 or samples.shape[1] != len(t):
        raise ValueError(
            f"`prediction` has samples (S, T, n, D) or (S, T) at the T = {len(t)} times of `t`, "
            f"but shape {tuple(samples.shape)} came. Predict at shared times: model.predict(observed, t, samples=100)."
        )
    return array(samples)
