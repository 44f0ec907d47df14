"""What encoders read of series, and the rectangles that networks want of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathline.data import Series


def to_read(series: Series, inputs: int = 0) -> Series:
    """Without the rows at which nothing was observed; where known inputs are read too, every row says something."""
    return series if inputs else series.observed()


def filled(series: Series, dtype: torch.dtype) -> Tensor:
    """Values, zero where missing, ``(N, D)``."""
    return series.values.nan_to_num(0.0).to(dtype)


def with_mask(series: Series, dtype: torch.dtype) -> Tensor:
    """Values, zero where missing, and what was observed, ``(N, 2 D)``."""
    return torch.cat([filled(series, dtype), series.mask.to(dtype)], -1)


def gaps(series: Series, reverse: bool = False) -> Tensor:
    """Time since the row before, in the direction of reading; 0 for the first that is read. ``(N,)``."""
    # the gap before the next row; of a last row that of the first row of another series, which is 0
    return series.gaps.roll(-1) if reverse else series.gaps


def laid_out(series: Series, features: Tensor, reverse: bool = False) -> Tensor:
    """Features of rows as ``(n, longest, F)``, zeros behind the end of each series.

    Args:
        series: Whose rows they are.
        features: ``(N, F)``.
        reverse: The last row first.
    """
    place = series.lengths[series.rows] - 1 - series.places if reverse else series.places
    longest = max(int(series.lengths.max()), 1) if len(series) else 1
    out = features.new_zeros(len(series), longest, features.shape[-1])
    return out.index_put((series.rows, place), features)
