"""Arithmetic of ragged rows: many series in one tensor, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def offsets_of(lengths: Tensor) -> Tensor:
    """Where each series begins, and where the last one ends: ``(n + 1,)``."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def rows_of(lengths: Tensor, total: int) -> Tensor:
    """The number of the series that each row belongs to: ``(N,)``."""
    return torch.repeat_interleave(lengths, output_size=total)


def rows_at(offsets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the series ``index``, in its order, and their lengths."""
    lengths = offsets[index + 1] - offsets[index]
    shift = offsets[index] - offsets_of(lengths)[:-1]
    total = int(lengths.sum())
    return torch.repeat_interleave(shift, lengths, output_size=total) + torch.arange(
        total, device=index.device
    ), lengths


def places(rows: Tensor, offsets: Tensor) -> Tensor:
    """The position of each row inside its own series: ``(N,)``."""
    return torch.arange(len(rows), device=rows.device) - offsets[rows]


def count_rows(rows: Tensor, series: int) -> Tensor:
    """How many of the rows belong to each of the series: ``(n,)``."""
    return torch.zeros(series, dtype=torch.int64, device=rows.device).scatter_add_(0, rows, torch.ones_like(rows))


def carried_forward(values: Tensor, first: Tensor) -> Tensor:
    """The last value that is there up to each row, not before row ``first``, ``(N,)``; NaN where there is none."""
    number = torch.arange(len(values), device=values.device)[:, None]
    latest = torch.where(values.isnan(), -1, number).cummax(0).values
    return torch.where(latest >= first[:, None], values.gather(0, latest.clamp_min(0)), torch.nan)
