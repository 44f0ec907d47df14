"""What is observed, given the latent state: densities of values, and of the times of events."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.data.series.checking import name_of
from pathline.models.sizes import check_sizes


def check_likelihood(likelihood: Any) -> Any:
    """``likelihood``, if it is one.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(likelihood, type) or not callable(getattr(likelihood, "log_prob", None)):
        came = likelihood.__name__ if isinstance(likelihood, type) else repr(likelihood)
        raise TypeError(
            f"`likelihood` is an object with `log_prob`, such as likelihoods.Gaussian(0.1), but {came} came. "
            "There are Gaussian, Bernoulli, Poisson and Both in pathline.models.likelihoods."
        )
    return likelihood


def likelihood_or_usual(likelihood: Any) -> Any:
    """``likelihood`` of a latent model, for None values with normal noise whose scale is learned."""
    return check_likelihood(Gaussian(0.1, learn=True) if likelihood is None else likelihood)


class Gaussian(nn.Module):
    r"""Values with normal noise, $x_i \sim N(d(z(t_i)), \sigma^2)$. *Maturing.*

    Args:
        scale: $\sigma$: one for all channels, or a sequence of one for each.
        learn: Whether it is trained, beginning with ``scale``; one for each of ``channels``, else a common one.
        channels: Number of channels with a scale of their own, where ``scale`` is one number.

    Raises:
        ValueError: A scale that isn't positive and finite, or scales of another number than ``channels``.

    Example:
        >>> import torch
        >>> from pathline.models import likelihoods
        >>> density = likelihoods.Gaussian(0.1)
        >>> density.log_prob(torch.zeros(3, 2), torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    stored_as = {"scale": "start"}

    def __init__(self, scale: float | Sequence[float] = 0.01, learn: bool = False, channels: int = 1) -> None:
        super().__init__()
        check_sizes(channels=channels)
        start = torch.as_tensor(scale, dtype=torch.get_default_dtype())
        if not bool(((start > 0) & start.isfinite()).all()) or start.dim() > 1:
            raise ValueError(f"`scale` is a positive number, or one for each channel; {scale!r} came.")
        if start.dim() and channels not in (1, len(start)):
            raise ValueError(f"`scale` holds {len(start)} numbers for channels={channels}. Leave `channels` out.")
        self.start, self.learn, self.channels = scale, learn, channels
        log_scale = start.log().expand(channels).clone() if start.dim() == 0 else start.log()
        if learn:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def scale(self) -> Tensor:
        """The standard deviation as it is now, ``(1,)`` or ``(channels,)``."""
        return self.log_scale.exp()

    def outputs(self, channels: int) -> int:
        """Numbers that the decoder gives for so many channels."""
        return channels

    def log_prob(self, decoded: Tensor, values: Tensor) -> Tensor:
        """Of each value, in the shape of ``values``, ``(..., D)``."""
        log_scale = self._fitting(values.shape[-1]).to(decoded.dtype)
        return -0.5 * (((values - decoded) * (-log_scale).exp()) ** 2 + math.log(2 * math.pi)) - log_scale

    def mean(self, decoded: Tensor) -> Tensor:
        """The expected values."""
        return decoded

    def extra_repr(self) -> str:
        shown = ", ".join(f"{scale:.4g}" for scale in self.scale.tolist())
        return f"scale={shown}, learn={self.learn}"

    def sample(self, decoded: Tensor) -> Tensor:
        """Values as they might be observed."""
        log_scale = self._fitting(decoded.shape[-1]).to(decoded.dtype)
        return decoded + log_scale.exp() * torch.randn_like(decoded)

    def _fitting(self, channels: int) -> Tensor:
        if self.log_scale.numel() not in (1, channels):
            raise ValueError(
                f"Gaussian has one scale, or one for each channel, but it was built with {self.log_scale.numel()} and "
                f"the series have {channels} channels."
            )
        return self.log_scale


class Bernoulli(nn.Module):
    r"""Values that are 0 or 1 with $\mathrm{logit}\, P(x_i = 1) = d(z(t_i))$. *Maturing.*

    Values between 0 and 1 are taken as probabilities; the result is then the negative cross-entropy. Others are
    refused.
    """

    def outputs(self, channels: int) -> int:
        """Numbers that the decoder gives for so many channels."""
        return channels

    def log_prob(self, decoded: Tensor, values: Tensor) -> Tensor:
        """Of each value, in the shape of ``values``, ``(..., D)``."""
        wrong = values[(values < 0) | (values > 1)]
        if len(wrong):
            raise ValueError(
                f"Bernoulli() is of values that are 0 or 1, or probabilities, but {float(wrong[0]):g} came; "
                f"{len(wrong)} such in all. Do not standardise such channels, or take Gaussian()."
            )
        return -F.binary_cross_entropy_with_logits(decoded, values.expand_as(decoded), reduction="none")

    def mean(self, decoded: Tensor) -> Tensor:
        """The probabilities of a 1."""
        return decoded.sigmoid()

    def sample(self, decoded: Tensor) -> Tensor:
        """Values as they might be observed."""
        return torch.bernoulli(decoded.sigmoid())


class Poisson(nn.Module):
    r"""Times of events, by an inhomogeneous Poisson process with the intensity $\lambda(t) = \exp d(z(t))$. *Maturing.*

    $$\log p(t_1, \ldots, t_N) = \sum_i \log \lambda(t_i) - \int_a^b \lambda(t)\, dt$$

    Every row of a series is an event in the channels that are observed there; their values do not matter. The integral
    is a running cost of the solve that decodes, with its gradients.

    Args:
        window: $(a, b)$, between which events were recorded; or a function of a ``Series`` that returns a tensor
            ``(n, 2)``. By default from ``t0`` of the model to the last event of each series, which makes intensities
            come out too high by about one event.

    Raises:
        ValueError: A window without length; in the loss, an event outside of its window.

    Example:
        >>> import torch
        >>> from pathline.models import likelihoods
        >>> process = likelihoods.Poisson(window=(0.0, 10.0))
        >>> process.intensity(torch.zeros(4, 1)).flatten()
        tensor([1., 1., 1., 1.])

    References:
        R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud (2018), Neural ordinary differential equations.
    """

    def __init__(self, window: tuple[float, float] | Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        if isinstance(window, Sequence) and not (len(window) == 2 and window[0] < window[1]):
            raise ValueError(f"`window` is a start and a later end; {window!r} came.")
        self.window = window

    def outputs(self, channels: int) -> int:
        """Numbers that the decoder gives for so many channels."""
        return channels

    def log_prob(self, decoded: Tensor, values: Tensor) -> Tensor:
        """Logarithm of the intensity at each event, ``(..., D)``; the integral is added by the model."""
        return decoded

    def intensity(self, decoded: Tensor) -> Tensor:
        """Events to expect in a unit of time, ``(..., D)``."""
        return decoded.exp()

    def mean(self, decoded: Tensor) -> Tensor:
        """The intensity."""
        return decoded.exp()

    def sample(self, decoded: Tensor) -> Tensor:
        """The intensity: events have no value."""
        return decoded.exp()

    def spans(self, series: Any, t0: float) -> Tensor:
        """Where events of each series were recorded, ``(n, 2)``."""
        times, lengths = series.times, series.lengths
        if callable(self.window):
            return self._around(series, self.window(series).to(times))
        if self.window is not None:
            return self._around(series, times.new_tensor(self.window).expand(len(lengths), 2))
        last = times.new_full((len(lengths),), t0)
        last = last.scatter_reduce(0, series.rows, times, "amax")
        return torch.stack([torch.full_like(last, t0), last], 1)

    def _around(self, series: Any, spans: Tensor) -> Tensor:
        """The windows, if all events lie within."""
        start, end = spans[series.rows].unbind(1)
        hair = 1e-6 * (end - start)  # a window may have been rounded to single precision
        outside = (series.times < start - hair) | (series.times > end + hair)
        wrong = (outside & series.mask.any(1)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"Events lie within `window`, but {name_of(int(series.rows[row]), series.ids)} has one at "
                f"{float(series.times[row]):g} (row {row}), outside of ({float(start[row]):g}, {float(end[row]):g}); "
                f"{len(wrong)} such in all. Widen the window, or cut the series to it by series.between(start, stop)."
            )
        return spans


class Both(nn.Module):
    """Values, and the times at which they were taken as events of a process: where *when* one looks says something.

    The decoder gives the numbers of ``values`` first, then those of ``events``. *Experimental.*

    Args:
        values: A likelihood of values, such as `Gaussian`.
        events: A `Poisson`, with one intensity for each channel.

    Raises:
        TypeError: Parts that are no such likelihoods.

    References:
        Y. Rubanova, R. T. Q. Chen, D. Duvenaud (2019), Latent ordinary differential equations for irregularly-sampled
        time series.
    """

    def __init__(self, values: nn.Module, events: Poisson) -> None:
        super().__init__()
        check_likelihood(values)
        if not hasattr(events, "spans") or hasattr(values, "spans"):
            raise TypeError(
                "Both(values, events) takes a likelihood of values and then a Poisson, but "
                f"{type(values).__name__} and {type(events).__name__} came. Try Both(Gaussian(0.1), Poisson(window))."
            )
        self.values: Any = values
        self.events = events

    def outputs(self, channels: int) -> int:
        """Numbers that the decoder gives for so many channels."""
        return self.values.outputs(channels) + self.events.outputs(channels)

    def log_prob(self, decoded: Tensor, values: Tensor) -> Tensor:
        """Of each value and of its time, ``(..., D)``."""
        first, second = self._split(decoded)
        return self.values.log_prob(first, values) + self.events.log_prob(second, values)

    def intensity(self, decoded: Tensor) -> Tensor:
        """Observations to expect in a unit of time, ``(..., D)``."""
        return self.events.intensity(self._split(decoded)[1])

    def mean(self, decoded: Tensor) -> Tensor:
        """The expected values."""
        return self.values.mean(self._split(decoded)[0])

    def sample(self, decoded: Tensor) -> Tensor:
        """Values as they might be observed."""
        return self.values.sample(self._split(decoded)[0])

    def spans(self, series: Any, t0: float) -> Tensor:
        """Where observations of each series were possible, ``(n, 2)``."""
        return self.events.spans(series, t0)

    def _split(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        # Every likelihood here has as many numbers as channels for its events.
        events = decoded.shape[-1] // (self.values.outputs(1) + 1)
        return decoded[..., :-events], decoded[..., -events:]
