"""Encoders: from irregular observations to a distribution over the latent state at ``t0``.

All are called as ``encoder(series, t0)`` and return a ``torch.distributions.Distribution`` with the batch shape
``(n,)`` and the event shape ``(latent,)``. Rows at which nothing was observed are not read, unless the encoder takes
known inputs: then every row says something.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional as F

from pathline.data.series.ragged import rows_at
from pathline.models.batches import check_channels, known
from pathline.models.latent.rows import gaps, laid_out, to_read, with_mask
from pathline.models.sizes import check_sizes

if TYPE_CHECKING:
    from pathline.data import Series
    from pathline.models.recurrent import Recurrent


class Readout(nn.Module):
    """A normal distribution with independent components, from features.

    Args:
        features: Size of the features.
        latent: Size of the event.
        start_scale: Standard deviation of an untrained readout.
    """

    def __init__(self, features: int, latent: int, start_scale: float = 0.1) -> None:
        super().__init__()
        self.features, self.latent, self.start_scale = features, latent, start_scale
        self.linear = nn.Linear(features, 2 * latent)
        with torch.no_grad():  # broad draws drown the signal before the decoder can read it
            self.linear.bias[latent:] += math.log(math.expm1(start_scale))

    def forward(self, features: Tensor) -> Distribution:
        """The distribution, of batch shape ``features.shape[:-1]``."""
        mean, raw = self.linear(features).chunk(2, -1)
        return Independent(Normal(mean, F.softplus(raw) + 1e-6, validate_args=False), 1, validate_args=False)


class RNNEncoder(nn.Module):
    r"""A recurrent network that reads a series backwards, so that its last hidden state is that at the first time.

    It sees each observation with its mask and, with ``dt``, the time since the one read before, and at the end the time
    from ``t0`` to the first observation. *Maturing.*

    Args:
        channels: Channels of the series.
        latent: Size of the latent state.
        hidden: Size of the hidden state.
        cell: ``"gru"`` or ``"rnn"`` (tanh).
        dt: Whether gaps are inputs.
        reverse: Whether the last observation is read first; False is for comparison.
        inputs: Number of known inputs at the rows that are read too.
        static: Number of static covariates that are read too.

    Raises:
        ValueError: A size is no whole number or too small, or no such cell.

    Example:
        >>> import torch
        >>> from pathline.data import Series
        >>> from pathline.models import RNNEncoder
        >>> series = Series(torch.tensor([0.0, 1.0, 0.5]), torch.randn(3, 2), torch.tensor([2, 1]))
        >>> RNNEncoder(channels=2, latent=4)(series, 0.0).rsample().shape
        torch.Size([2, 4])

    References:
        R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud (2018), Neural ordinary differential equations.
    """

    def __init__(
        self,
        channels: int,
        latent: int,
        hidden: int = 32,
        *,
        cell: Literal["gru", "rnn"] = "gru",
        dt: bool = True,
        reverse: bool = True,
        inputs: int = 0,
        static: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, latent=latent, hidden=hidden)
        check_sizes(0, inputs=inputs, static=static)
        cells = {"gru": nn.GRU, "rnn": nn.RNN}
        if cell not in cells:
            raise ValueError(f'`cell` is "gru" or "rnn"; {cell!r} came.')
        self.channels, self.latent, self.hidden = channels, latent, hidden
        self.cell, self.dt, self.reverse, self.inputs, self.static = cell, dt, reverse, inputs, static
        self.network = cells[cell](2 * channels + dt + inputs, hidden, batch_first=True)
        self.readout = Readout(hidden + dt + static, latent)

    def forward(self, series: Series, t0: float = 0.0) -> Distribution:
        """The distribution of the latent state at ``t0``."""
        check_channels(series, self.channels)
        found = to_read(series, self.inputs)
        seen = with_mask(found, self.readout.linear.weight.dtype)
        clock = [gaps(found, self.reverse).to(seen).unsqueeze(-1)] if self.dt else []
        last = self._last(found, torch.cat([seen, *clock, *_known(found, "inputs", self.inputs, seen)], -1))
        start = [(found.starts.nan_to_num(t0) - t0).to(seen).unsqueeze(-1)] if self.dt else []
        return self.readout(torch.cat([last, *start, *_known(found, "static", self.static, seen)], -1))

    def _last(self, found: Series, features: Tensor) -> Tensor:
        """The hidden state after each series' own last step."""
        # Steps behind the end of a series change nothing before it. (A packed sequence would spare them, but its
        # backward pass takes time quadratic in the length.)
        states = self.network(laid_out(found, features, self.reverse))[0]
        end = (found.lengths - 1).clamp(min=0)
        hidden = states[torch.arange(len(states), device=states.device), end]
        return torch.where(found.lengths.unsqueeze(-1) > 0, hidden, torch.zeros_like(hidden))


class RecurrentEncoder(nn.Module):
    """A recurrent model of ``pathline.models`` that reads a series backwards to ``t0``, and a readout. *Maturing.*

    Args:
        recurrent: A ``Recurrent``, such as ``ODERNN(channels, hidden)``.
        latent: Size of the latent state.

    Raises:
        TypeError: ``recurrent`` is no ``Recurrent``.
        ValueError: ``latent`` is no whole number, or less than 1.

    Example:
        >>> import torch
        >>> from pathline.data import Series
        >>> from pathline.models import ODERNN, RecurrentEncoder
        >>> series = Series(torch.tensor([0.0, 1.0, 0.5]), torch.randn(3, 2), torch.tensor([2, 1]))
        >>> RecurrentEncoder(ODERNN(channels=2, hidden=8), latent=4)(series, 0.0).rsample().shape
        torch.Size([2, 4])

    References:
        Y. Rubanova, R. T. Q. Chen, D. Duvenaud (2019), Latent ordinary differential equations for irregularly-sampled
        time series.
    """

    def __init__(self, recurrent: Recurrent, latent: int) -> None:
        super().__init__()
        if not isinstance(getattr(recurrent, "hidden", None), int):
            raise TypeError(
                "`recurrent` is a Recurrent, such as ODERNN(channels, hidden), but an object of type "
                f"{type(recurrent).__name__} came. An encoder of your own needs no wrapper: Latent(encoder, ...)."
            )
        check_sizes(latent=latent)
        self.recurrent, self.latent = recurrent, latent
        self.readout = Readout(recurrent.hidden, latent)

    def forward(self, series: Series, t0: float = 0.0) -> Distribution:
        """The distribution of the latent state at ``t0``."""
        return self.readout(self.recurrent(series, reverse=True, to=t0).final)


class AttentionEncoder(nn.Module):
    r"""A transformer over the set of observations: their order does not matter, their times do. *Maturing.*

    Every observation looks at every other, so a series costs the square of its length, in time and in memory; those of
    similar length are computed together, so that a short one doesn't cost what a long one does.

    Each observation is a token of its values, its mask and its time $\tau = t - t_0$, as $\tau$ and $\sin, \cos$ of
    $2^k \pi \tau / s$; one token more gathers what all of them say.

    Args:
        channels: Channels of the series.
        latent: Size of the latent state.
        hidden: Width of the tokens.
        heads: Of attention; they divide ``hidden``.
        layers: Number of layers.
        span: $s$, the length of typical series in units of their times.
        waves: Number of frequencies $k = 0, 1, \ldots$
        inputs: Number of known inputs at the rows that are read too.
        static: Number of static covariates that are read too.

    Raises:
        ValueError: A size is no whole number or too small, ``heads`` does not divide ``hidden``, or ``span`` is not
            positive.

    Example:
        >>> import torch
        >>> from pathline.data import Series
        >>> from pathline.models import AttentionEncoder
        >>> series = Series(torch.tensor([0.0, 1.0, 0.5]), torch.randn(3, 2), torch.tensor([2, 1]))
        >>> AttentionEncoder(channels=2, latent=4)(series, 0.0).rsample().shape
        torch.Size([2, 4])

    References:
        A. Vaswani et al. (2017), Attention is all you need. M. Horn, M. Moor, C. Bock, B. Rieck, K. Borgwardt (2020),
        Set functions for time series.
    """

    def __init__(
        self,
        channels: int,
        latent: int,
        hidden: int = 32,
        *,
        heads: int = 4,
        layers: int = 2,
        span: float = 1.0,
        waves: int = 6,
        inputs: int = 0,
        static: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, latent=latent, hidden=hidden, heads=heads, layers=layers)
        check_sizes(0, waves=waves, inputs=inputs, static=static)
        if hidden % heads:
            raise ValueError(
                f"`heads` divides `hidden`, but heads={heads} and hidden={hidden} came. Choose heads=1, or a multiple."
            )
        if not 0 < span < math.inf:
            raise ValueError(
                f"`span` is the length of typical series, a positive number, but {span!r} came. "
                "Take the largest time less `t0`."
            )
        self.channels, self.latent, self.hidden, self.heads, self.layers = channels, latent, hidden, heads, layers
        self.span, self.waves, self.inputs, self.static = span, waves, inputs, static
        self.embed = nn.Linear(2 * channels + 1 + 2 * waves + inputs, hidden)
        self.gatherer = nn.Parameter(0.1 * torch.randn(hidden))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden, heads, 2 * hidden, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.readout = Readout(hidden + static, latent)

    def forward(self, series: Series, t0: float = 0.0) -> Distribution:
        """The distribution of the latent state at ``t0``."""
        check_channels(series, self.channels)
        found = to_read(series, self.inputs)
        seen = with_mask(found, self.embed.weight.dtype)
        clock = self._clock(found, t0).to(seen)
        tokens = self.embed(torch.cat([seen, clock, *_known(found, "inputs", self.inputs, seen)], -1))
        order, sizes = _alike(found.lengths)
        parts = [self._gathered(found[which], tokens[rows_at(found.offsets, which)[0]]) for which in order.split(sizes)]
        gathered = torch.cat(parts)[torch.argsort(order)] if parts else tokens[:0]
        return self.readout(torch.cat([gathered, *_known(found, "static", self.static, seen)], -1))

    def _gathered(self, found: Series, tokens: Tensor) -> Tensor:
        """What all observations of each series say, ``(n, hidden)``."""
        padded = laid_out(found, tokens)
        tokens = torch.cat([self.gatherer.expand(len(padded), 1, -1), padded], 1)
        places = torch.arange(padded.shape[1] + 1, device=tokens.device)
        beyond = places > found.lengths.unsqueeze(-1)
        for block in self.blocks:
            tokens = block(tokens, src_key_padding_mask=beyond)
        return tokens[:, 0]

    def _clock(self, found: Series, t0: float) -> Tensor:
        turns = ((found.times - t0) / self.span).unsqueeze(-1)
        angles = math.pi * turns * 2.0 ** torch.arange(self.waves, device=turns.device)
        return torch.cat([turns, angles.sin(), angles.cos()], -1)


def _alike(lengths: Tensor) -> tuple[Tensor, list[int]]:
    """Series in the order of their lengths, and how many lie between one power of two and the next; below 32 all."""
    order = torch.argsort(lengths, stable=True)
    power = lengths[order].clamp(min=32).double().log2().ceil()
    return order, torch.unique_consecutive(power, return_counts=True)[1].tolist()


def _known(series: Series, name: str, size: int, like: Tensor) -> list[Tensor]:
    """Static covariates, or inputs at the rows, as a list of at most one tensor."""
    return [known(series, name, size).to(like)] if size else []
