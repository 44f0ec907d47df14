"""The order in which a batch of ragged series is gone through: observation number by observation number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pathline.data.series.ragged import offsets_of, places

if TYPE_CHECKING:
    from pathline.data import Series


@dataclass(frozen=True)
class Order:
    """The k-th rows of all series side by side, the longest series first, so that finished ones drop off the end.

    Attributes:
        slots: ``(N,)``, where each row of the series stands in this order.
        rows: ``(N,)``, the row that stands in each slot; the inverse of ``slots``.
        sizes: How many series have a k-th row.
        ranks: ``(n,)``, the place of each series among them.
        series: ``(n,)``, the series in each place; the inverse of ``ranks``.
    """

    slots: Tensor
    rows: Tensor
    sizes: list[int]
    ranks: Tensor
    series: Tensor


def order(lengths: Tensor, rows: Tensor, *, reverse: bool = False) -> Order:
    """Lay out the rows of a batch, from the first to the last or back.

    Args:
        lengths: ``(n,)``, rows of each series.
        rows: ``(N,)``, the series of each row.
        reverse: From the last row of each series to its first.
    """
    number = places(rows, offsets_of(lengths))
    if reverse:
        number = lengths[rows] - 1 - number
    series = torch.argsort(lengths, descending=True, stable=True)
    ranks = _inverse(series)
    counts = torch.bincount(lengths, minlength=1)
    sizes = len(lengths) - counts.cumsum(0)[:-1]
    begins = sizes.cumsum(0) - sizes
    slots = begins[number] + ranks[rows]
    return Order(slots, _inverse(slots), sizes.tolist(), ranks, series)


def last_rows(series: Series, reverse: bool) -> Tensor:
    """The row of each series at which the way through it ends, ``(n,)``; for one without rows just any."""
    return (series.offsets[:-1] if reverse else series.offsets[1:] - 1).clamp(0, len(series.times) - 1)


def _inverse(permutation: Tensor) -> Tensor:
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(len(permutation), device=permutation.device)
    return inverse
