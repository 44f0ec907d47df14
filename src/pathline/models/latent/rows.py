"""Rows of a batch of series as models read them: without those that say nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pathline.models.batches import rows_read


class Rows(NamedTuple):
    """Observations of n series, one after the other.

    Attributes:
        times: ``(N,)``, float64.
        values: ``(N, D)``, 0 where nothing was observed.
        mask: ``(N, D)``, bool, what was observed.
        rows: ``(N,)``, the series of each.
        lengths: ``(n,)``.
        place: ``(N,)``, the number of each within its series, from 0.
        kept: ``(N', )``, bool, which rows of the series these are.
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    rows: Tensor
    lengths: Tensor
    place: Tensor
    kept: Tensor


def observed_rows(series: Any, dtype: torch.dtype | None = None, *, inputs: int = 0) -> Rows:
    """The rows at which something was observed.

    Args:
        series: A ``Series``.
        dtype: Of the values; by default their own.
        inputs: How many known inputs are read too; where there are any, all rows count.
    """
    kept = rows_read(series, inputs)
    mask, rows = series.mask[kept], series.rows[kept]
    values = series.values[kept]
    values = torch.where(mask, values, torch.zeros_like(values)).to(dtype or values.dtype)
    lengths = torch.bincount(rows, minlength=len(series.lengths))
    place = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[rows]
    return Rows(series.times[kept], values, mask, rows, lengths, place, kept)


def gaps(found: Rows, reverse: bool = False) -> Tensor:
    """Time since the row before, in the direction of reading; 0 for the first that is read. ``(N,)``."""
    times, rows = found.times, found.rows
    step = torch.where(rows[1:] == rows[:-1], times[1:] - times[:-1], torch.zeros_like(times[1:]))
    edge = times.new_zeros(min(len(times), 1))
    return torch.cat([step, edge] if reverse else [edge, step])


def first_times(found: Rows, t0: float) -> Tensor:
    """The time of each series' first row, ``(n,)``; ``t0`` for a series without any."""
    start = found.times.new_full((len(found.lengths),), t0)
    return start.scatter(0, found.rows[found.place == 0], found.times[found.place == 0])


def laid_out(found: Rows, features: Tensor, reverse: bool = False) -> Tensor:
    """Features of rows as ``(n, longest, F)``, zeros behind the end of each series.

    Args:
        found: The rows.
        features: ``(N, F)``.
        reverse: The last row first.
    """
    place = found.lengths[found.rows] - 1 - found.place if reverse else found.place
    longest = max(int(found.lengths.max()), 1) if len(found.lengths) else 1
    out = features.new_zeros(len(found.lengths), longest, features.shape[-1])
    return out.index_put((found.rows, place), features)
