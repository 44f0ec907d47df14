"""Recurrent networks on irregular series."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pathline.fields import MLP
from pathline.models.batches import check_channels, rows_read
from pathline.models.recurrent.between import Decay, Flow, Hold
from pathline.models.recurrent.cells import GRUCell
from pathline.models.recurrent.features import Features
from pathline.models.recurrent.fused import fused
from pathline.models.recurrent.gaps import Gaps, past
from pathline.models.recurrent.order import last_rows, order
from pathline.models.recurrent.states import States
from pathline.models.sizes import check_sizes

if TYPE_CHECKING:
    from pathline.data import Series


class Recurrent(nn.Module):
    r"""A recurrent network on irregular series: a cell at the observations, and what happens between them. *Maturing.*

    $$h_i^- = \mathrm{between}(h_{i-1},\, t_i - t_{i-1}), \qquad h_i = \mathrm{GRU}(h_i^-,\, [x_i, m_i, \ldots])$$

    ``GRU``, ``GRUdt``, ``GRUD`` and ``ODERNN`` are this model with different parts. A row on which nothing was observed
    is not read: all else is as if it weren't there, and gaps go back to the last row that was read. Where the network
    takes known inputs, these are what such a row says, and every row is read. Series of different lengths and times are
    gone through together, observation number by observation number, each over its own gaps; one that has ended costs
    nothing.

    Args:
        channels: Number of channels of the series.
        hidden: Size of the state.
        between: ``Hold()``, ``Decay(channels, hidden)`` or ``Flow(field)``; by default the state is held.
        dt: Whether the time since the row before is one more input of the cell.
        impute: Whether missing values are the last ones observed, fading, as in GRU-D; zero otherwise.
        static: Number of static covariates, inputs of every update; a missing one counts as zero.
        inputs: Number of known inputs at the rows.

    Raises:
        ValueError: A size is no whole number, or too small.
        TypeError: ``between`` is a field that was not wrapped.

    Example:
        >>> import torch
        >>> from pathline.data import Series
        >>> from pathline.models import ODERNN
        >>> series = Series(torch.tensor([0.0, 0.7, 0.1, 0.4, 2.0]), torch.randn(5, 3), torch.tensor([2, 3]))
        >>> states = ODERNN(channels=3, hidden=8)(series)
        >>> states.before.shape, states.after.shape, states.final.shape
        (torch.Size([5, 8]), torch.Size([5, 8]), torch.Size([2, 8]))

    References:
        Y. Rubanova, R. T. Q. Chen, D. Duvenaud (2019), Latent ordinary differential equations for irregularly-sampled
        time series.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        between: Hold | Decay | Flow | None = None,
        dt: bool = False,
        impute: bool = False,
        static: int = 0,
        inputs: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, hidden=hidden)
        check_sizes(0, static=static, inputs=inputs)
        between = Hold() if between is None else between
        if not callable(getattr(between, "prepare", None)):
            raise TypeError(
                f"`between` is Hold(), Decay(channels, hidden) or Flow(field), but {type(between).__name__} came. "
                "A field goes into Flow(field)."
            )
        self.channels, self.hidden = channels, hidden
        self.dt, self.impute, self.static, self.inputs = dt, impute, static, inputs
        self.features = Features(channels, dt=dt, impute=impute, static=static, inputs=inputs)
        self.cell = GRUCell(self.features.size, hidden)
        self.between = between

    @property
    def evaluations(self) -> int:
        """Evaluations of the field in the last pass, each for all series that were advanced together."""
        return getattr(self.between, "evaluations", 0)

    @property
    def backward_evaluations(self) -> int:
        """Those of its backward pass, where the gradient solves again."""
        return getattr(self.between, "backward_evaluations", 0)

    def forward(
        self,
        series: Series,
        *,
        reverse: bool = False,
        initial: Tensor | None = None,
        to: float | Tensor | None = None,
    ) -> States:
        """Go through all series.

        Args:
            series: The batch.
            reverse: From the last row to the first; between rows, time runs backward.
            initial: ``(n, hidden)``, the state before the first row; zeros without it.
            to: A time, or ``(n,)``, to which the state is advanced behind the last row that is read, before it becomes
                ``final``.

        Returns:
            The states; see ``States``.

        Raises:
            TypeError: ``series`` is no ``Series``.
            ValueError: Series with another number of channels, static covariates or inputs.
        """
        check_channels(series, self.channels)
        whole, read = series, rows_read(series, self.inputs)
        if not bool(read.all()):
            series = whole.keep(read)
        if isinstance(self.between, Flow):
            self.between.restart()
        mask = series.mask
        x = torch.where(mask, series.values, 0.0).to(self.cell.input.weight.dtype)
        ends = series.offsets[1:] - 1 if reverse else series.offsets[:-1]
        known = past(series.times, x, mask, ends[series.rows], reverse=reverse)
        places = order(series.lengths, series.rows, reverse=reverse)
        initial = x.new_zeros(len(series), self.hidden) if initial is None else initial
        inputs = self.cell.project(self.features(series, x, mask, known)[places.rows])
        gaps = self.between.prepare(known.gaps.rows(places.rows), x.dtype)
        h = initial[places.series]
        found = fused(self.between, self.cell, h, inputs, gaps, places.sizes)
        before, after, last = self._pass(h, inputs, gaps, places.sizes) if found is None else found
        final = last[places.ranks]
        if to is not None:
            final = self._led_on(series, final, known.silent, to, reverse)
        return States(self, whole, read, series, known, places, before, after, initial, final, reverse)

    def _pass(
        self, h: Tensor, inputs: Tensor, gaps: tuple[Tensor, ...], sizes: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The recursion, in the order of ``order``: states before and after each row, and the last of each series."""
        steps = zip(inputs.split(sizes), *(gap.split(sizes) for gap in gaps), strict=True)
        before, after, ended = [h[:0]], [h[:0]], []
        for x, *gap in steps:
            if len(x) < len(h):
                ended.append(h[len(x) :])
                h = h[: len(x)]
            h = self.between(h, *gap)
            before.append(h)
            h = self.cell(x, h)
            after.append(h)
        return torch.cat(before), torch.cat(after), torch.cat([h, *reversed(ended)])

    def advance(self, h: Tensor, gaps: Gaps) -> Tensor:
        """States over gaps without observations, all at once.

        Args:
            h: ``(m, hidden)``.
            gaps: ``m`` of them.
        """
        return self.between(h, *self.between.prepare(gaps, h.dtype))

    def update(
        self, h: Tensor, x: Tensor, gap: Tensor, series: Series, which: Tensor, inputs: Tensor | None = None
    ) -> Tensor:
        """States after an update by complete observations at any times.

        Args:
            h: ``(m, hidden)``, just before.
            x: ``(m, channels)``, nothing missing.
            gap: ``(m,)``, since the row before.
            series: Whose static covariates count.
            which: ``(m,)``, the series of each observation.
            inputs: ``(m, inputs)``, known inputs.
        """
        seen = torch.ones_like(x, dtype=torch.bool)
        return self.cell(self.cell.project(self.features.joined(x, seen, gap, series, which, inputs)), h)

    def _led_on(self, series: Series, h: Tensor, silent: Tensor, to: float | Tensor, reverse: bool) -> Tensor:
        """From the last row that was gone through to the time ``to``; series without rows stay."""
        there = torch.as_tensor(to, dtype=series.times.dtype, device=series.times.device).expand(len(series))
        if not len(series.times):
            return h
        row = last_rows(series, reverse)
        start = torch.where(series.lengths == 0, there, series.times[row])
        gap = there - start
        return self.advance(h, Gaps(start, gap, silent[row] + gap.abs()[:, None]))


def GRU(channels: int, hidden: int, *, static: int = 0, inputs: int = 0) -> Recurrent:
    """A gated recurrent unit that sees the order of the observations and not their times. *Maturing.*

    Args:
        channels: Number of channels.
        hidden: Size of the state.
        static: Number of static covariates.
        inputs: Number of known inputs.

    Example:
        >>> GRU(3, 8).dt
        False
    """
    return Recurrent(channels, hidden, static=static, inputs=inputs)


def GRUdt(channels: int, hidden: int, *, static: int = 0, inputs: int = 0) -> Recurrent:
    """A gated recurrent unit with the time since the row before as one more input. *Maturing.*

    Args:
        channels: Number of channels.
        hidden: Size of the state.
        static: Number of static covariates.
        inputs: Number of known inputs.

    Example:
        >>> GRUdt(3, 8).dt
        True
    """
    return Recurrent(channels, hidden, dt=True, static=static, inputs=inputs)


def GRUD(channels: int, hidden: int, *, static: int = 0, inputs: int = 0) -> Recurrent:
    """GRU-D: the state fades between observations, and a missing value is the last one, fading to the mean. *Maturing.*

    Standardise the channels first: the mean is taken to be zero.

    Args:
        channels: Number of channels.
        hidden: Size of the state.
        static: Number of static covariates.
        inputs: Number of known inputs.

    Example:
        >>> GRUD(3, 8).impute
        True

    References:
        Z. Che, S. Purushotham, K. Cho, D. Sontag, Y. Liu (2018), Recurrent neural networks for multivariate time series
        with missing values.
    """
    return Recurrent(channels, hidden, between=Decay(channels, hidden), impute=True, static=static, inputs=inputs)


def ODERNN(
    channels: int,
    hidden: int,
    field: nn.Module | Callable[..., Tensor] | None = None,
    *,
    method: Any = "euler",
    steps: int = 1,
    dt: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    gradient: Any = "backprop",
    clock: Literal["shared", "per-sample"] = "shared",
    static: int = 0,
    inputs: int = 0,
) -> Recurrent:
    """ODE-RNN: the state follows a field between observations. *Maturing.*

    Args:
        channels: Number of channels.
        hidden: Size of the state.
        field: Its rate, ``(t, h) -> dh`` or a module of ``h`` alone; by default a network with one hidden layer of
            ``4 * hidden`` and tanh, slow at the start. Gaps of thousands are best counted in another unit, by
            ``series.with_time_unit``.
        method: A name in ``pathline.METHODS``, or a solver. One step of Euler a gap, the default, is the paper's.
        steps: Steps of a fixed-step method in each gap.
        dt: Longest step of a fixed-step method, in place of ``steps``.
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance of an adaptive method.
        gradient: As in ``pathline.solve``.
        clock: Of an adaptive method; see ``Flow``.
        static: Number of static covariates.
        inputs: Number of known inputs.

    Example:
        >>> ODERNN(3, 8, method="rk4").between.method
        'rk4'

    References:
        Y. Rubanova, R. T. Q. Chen, D. Duvenaud (2019), Latent ordinary differential equations for irregularly-sampled
        time series.
    """
    check_sizes(channels=channels, hidden=hidden)
    field = MLP(hidden, (4 * hidden,), output_scale=0.1) if field is None else field
    flow = Flow(field, method=method, steps=steps, dt=dt, rtol=rtol, atol=atol, gradient=gradient, clock=clock)
    return Recurrent(channels, hidden, between=flow, static=static, inputs=inputs)
