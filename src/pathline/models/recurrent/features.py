"""What a recurrent network sees of a row: the values, what was observed, and perhaps the time that has passed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pathline.models.batches import known
from pathline.models.recurrent.gaps import Past

if TYPE_CHECKING:
    from pathline.data import Series


class Features(nn.Module):
    r"""Values and mask side by side, ``[x, m]``; then, where asked for, the time since the row before and covariates.

    With ``impute`` a missing value is the last one observed, fading towards the mean (zero for standardised channels)
    at a rate that is learned: $\hat x = m x + (1 - m)\, e^{-\max(0, w \delta + b)}\, x_{\mathrm{last}}$.

    Args:
        channels: Number of channels.
        dt: Whether the time since the row before is one more input.
        impute: Whether missing values are filled as above; zero otherwise.
        static: Number of static covariates.
        inputs: Number of known inputs.
    """

    def __init__(self, channels: int, *, dt: bool, impute: bool, static: int, inputs: int) -> None:
        super().__init__()
        self.channels, self.dt, self.impute, self.static, self.inputs = channels, dt, impute, static, inputs
        if impute:
            # A rate of zero would stay there: the slope of max(0, .) is zero at zero.
            self.weight, self.bias = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.full((channels,), 0.1))

    @property
    def size(self) -> int:
        """Of the last dimension of the result."""
        return 2 * self.channels + self.dt + self.static + self.inputs

    def forward(self, series: Series, x: Tensor, mask: Tensor, past: Past) -> Tensor:
        """``(N, size)``, in the dtype of ``x``.

        Args:
            series: The batch.
            x: ``(N, channels)``, zero where missing.
            mask: ``(N, channels)``.
            past: What is known before each row.
        """
        if self.impute:
            silence = past.gaps.silence.to(x.dtype)
            fade = (silence * self.weight + self.bias).relu().neg().exp()
            x = torch.where(mask, x, fade * past.last)
        return self.joined(x, mask, past.gaps.length, series, series.rows)

    def joined(self, x: Tensor, mask: Tensor, gap: Tensor, series: Series, rows: Tensor, own: Any = None) -> Tensor:
        """The parts side by side, for rows of any times.

        Args:
            x: ``(N, channels)``, without gaps.
            mask: ``(N, channels)``.
            gap: ``(N,)``, since the row that was read before.
            series: Whose static covariates and known inputs count.
            rows: ``(N,)``, the series of each row.
            own: ``(N, inputs)``, known inputs in place of those of ``series``.
        """
        parts = [x, mask.to(x.dtype)]
        if self.dt:
            parts.append(gap.abs()[:, None].to(x.dtype))
        if self.static:
            parts.append(known(series, "static", self.static)[rows].to(x.dtype))
        if self.inputs:
            parts.append((known(series, "inputs", self.inputs) if own is None else own).to(x.dtype))
        return torch.cat(parts, -1)
