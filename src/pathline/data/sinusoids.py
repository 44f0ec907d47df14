"""Sine waves of unknown frequency, seen at irregular times."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pathline.data.series import Series

FREQUENCIES = (0.4, 0.8)
START, START_SD = 1.0, 0.1


def sinusoids(
    count: int = 1000,
    points: int = 100,
    span: float = 5.0,
    *,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Series:
    r"""Sine waves of one amplitude and unknown frequency, at random times that all of them share. *Maturing.*

    $$x(t) = x_0 + \sin(2 \pi \nu t) + \varepsilon, \qquad \nu \sim U(0.4, 0.8), \qquad x_0 \sim N(1, 0.1^2)$$

    The first time is 0, the others are even draws from the span, sorted. A model is to find $\nu$ and $x_0$ from a few
    of the points: ``series.thin(0.5, generator)`` keeps a random half of each series. What a series was made of is its
    label, which no model sees; :func:`sine_wave` draws the curve without noise.

    Args:
        count: Number of series.
        points: Observations in each.
        span: Length of the time axis; the waves make two to four turns in 5.
        noise: Standard deviation of the Gaussian noise.
        generator: Source of times, waves and noise, in this order.
        dtype: Type of the values; the times are float64.

    Returns:
        A ``Series`` with one channel, ``x``; its labels ``(count, 2)`` are frequency and start.

    Raises:
        ValueError: There are no series, fewer than two points, or no span.

    Example:
        >>> from pathline.data import sinusoids
        >>> series = sinusoids(8, generator=torch.Generator().manual_seed(0))
        >>> len(series), series.values.shape, series.labels.shape
        (8, torch.Size([800, 1]), torch.Size([8, 2]))

    References:
        Y. Rubanova, R. T. Q. Chen, D. Duvenaud (2019), Latent ordinary differential equations for irregularly-sampled
        time series.
    """
    if count < 1 or points < 2 or not 0.0 < span < math.inf or noise < 0.0:
        raise ValueError(
            "`count` is 1 or more, `points` 2 or more, `span` positive and `noise` not negative, "
            f"but count={count}, points={points}, span={span}, noise={noise} came."
        )
    t = _times(points, span, generator)
    low, high = FREQUENCIES
    frequencies = low + (high - low) * torch.rand(count, generator=generator, dtype=dtype)
    starts = START + START_SD * torch.randn(count, generator=generator, dtype=dtype)
    labels = torch.stack([frequencies, starts], 1)
    x = sine_wave(labels, t)
    x = x + noise * torch.randn(x.shape, generator=generator, dtype=dtype)
    return Series.from_arrays(t, x, labels=labels, channels=["x"])


def sine_wave(labels: Tensor, t: Tensor) -> Tensor:
    r"""The curves without noise, $x_0 + \sin(2 \pi \nu t)$. *Maturing.*

    Args:
        labels: Frequency and start of each wave, ``(n, 2)``: ``labels`` of :func:`sinusoids`.
        t: Times, ``(T,)``.

    Returns:
        Values ``(n, T, 1)``, in the type of ``labels``.

    Example:
        >>> sine_wave(torch.tensor([[0.5, 1.0]]), torch.tensor([0.0, 0.5])).squeeze().tolist()
        [1.0, 2.0]
    """
    frequencies, starts = labels.unbind(-1)
    phase = 2.0 * math.pi * frequencies[:, None] * t.to(labels)
    return (starts[:, None] + phase.sin()).unsqueeze(-1)


def _times(points: int, span: float, generator: torch.Generator | None) -> Tensor:
    """Zero, then sorted draws; equal ones, however rare, are drawn again."""
    while True:
        drawn = span * torch.rand(points - 1, generator=generator, dtype=torch.float64)
        t = torch.cat([drawn.new_zeros(1), drawn]).sort().values
        if bool((t.diff() > 0).all()):
            return t
