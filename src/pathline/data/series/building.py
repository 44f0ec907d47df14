"""Loose rows, in any order and perhaps repeated, to rows of series: sorted, merged, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series import converting
from pathline.data.series.checking import name_of, one_of, repeated

if TYPE_CHECKING:
    from pathline.data.series.series import Series

DUPLICATES = ("error", "mean", "first", "last")
EMPTY = ("error", "drop", "keep")


@dataclass
class Cells:
    """Single values: of which row, of which channel."""

    row: np.ndarray
    channel: np.ndarray
    value: np.ndarray


@dataclass
class Built:
    """Rows in their order.

    Attributes:
        times: ``(N,)``.
        values: ``(N, D)``, NaN where nothing was observed.
        lengths: ``(n,)``.
        place: of each loose row, the row it became.
    """

    times: np.ndarray
    values: np.ndarray
    lengths: np.ndarray
    place: np.ndarray


def build(
    code: np.ndarray, time: np.ndarray, cells: Cells, channels: tuple[str, ...], ids: np.ndarray, duplicates: str
) -> Built:
    """Sort the loose rows by series and time, merge those of one time, and put the cells into their rows.

    Args:
        code: ``(M,)`` number of the series of each loose row, 0 to n - 1.
        time: ``(M,)``.
        cells: With ``row`` pointing at loose rows.
        channels: Names of the channels.
        ids: Names of the series, ``(n,)``.
        duplicates: What to do with two cells of one series, time and channel.

    Raises:
        ValueError: For times that are no numbers, and for repeated cells where ``duplicates="error"``.
    """
    one_of("duplicates", duplicates, DUPLICATES)
    if not np.isfinite(time).all():
        row = int(np.flatnonzero(~np.isfinite(time))[0])
        raise ValueError(
            f"`time` is a finite number in each row, but {time[row]} came at row {row}, in {name_of(code[row], ids)}; "
            f"{int((~np.isfinite(time)).sum())} rows have none. Leave them out: table.dropna(subset=[...])."
        )
    order = np.lexsort((time, code))
    sorted_code, sorted_time = code[order], time[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(sorted_code) != 0) | (np.diff(sorted_time) != 0)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(fresh) - 1
    starts = np.flatnonzero(fresh)
    times, series = sorted_time[starts], sorted_code[starts]
    values = _scattered(cells, place, len(times), channels, duplicates, times, series, ids)
    return Built(times, values, np.bincount(series, minlength=len(ids)), place)


def _scattered(
    cells: Cells,
    place: np.ndarray,
    count: int,
    channels: tuple[str, ...],
    duplicates: str,
    times: np.ndarray,
    series: np.ndarray,
    ids: np.ndarray,
) -> np.ndarray:
    there = ~np.isnan(cells.value)
    key = place[cells.row[there]] * len(channels) + cells.channel[there]
    value = cells.value[there]
    size = count * len(channels)
    often = np.bincount(key, minlength=size)
    if duplicates == "error" and (often > 1).any():
        row, channel = divmod(int(np.flatnonzero(often > 1)[0]), len(channels))
        words = repeated(float(times[row]), int(series[row]), ids, int((often - 1).clip(0).sum()), "")
        raise ValueError(
            f'{words}The first is in the channel {channels[channel]!r}. Pass duplicates="mean" to average them, or '
            'duplicates="first" or "last" to keep one. Where rows are events, of which each counts, move them apart.'
        )
    flat = np.full(size, np.nan)
    if duplicates == "mean":
        filled = often > 0
        flat[filled] = np.bincount(key, weights=value, minlength=size)[filled] / often[filled]
    elif duplicates == "first":
        flat[key[::-1]] = value[::-1]  # of repeated places the last assignment stays
    else:
        flat[key] = value
    return flat.reshape(count, len(channels))


def merge(name: str, data: Tensor, built: Built, duplicates: str, ids: np.ndarray) -> Tensor:
    """What the loose rows carry besides their values, in the rows that they became.

    Raises:
        ValueError: For rows of one time that disagree, where ``duplicates`` does not say what holds.
    """
    place = torch.as_tensor(built.place)
    shape = len(built.times), *data.shape[1:]
    if duplicates == "mean" and name == "inputs":
        data = data if data.is_floating_point() else data.double()
        count = torch.bincount(place, minlength=len(built.times)).to(data.dtype)
        total = data.new_zeros(shape).index_add_(0, place, data)
        return total / count.reshape(-1, *([1] * (data.dim() - 1)))
    order = torch.arange(len(place)) if duplicates == "last" else torch.arange(len(place)).flip(0)
    chosen = np.empty(len(built.times), dtype=np.int64)
    chosen[place[order].numpy()] = order.numpy()
    merged = data[torch.as_tensor(chosen)]
    again = merged[place]
    differs = ((again != data) & ~((again != again) & (data != data))).reshape(len(data), -1).any(1)
    if duplicates in ("error", "mean") and bool(differs.any()):
        row = int(place[differs][0])
        series = int(np.searchsorted(np.cumsum(built.lengths), row, side="right"))
        raise ValueError(
            f"`{name}` are the same in rows of one time, but {name_of(series, ids)} has two at the time "
            f'{built.times[row]}; duplicates="first" or "last" keeps one.'
        )
    return merged


def finished(
    kind: type[Series], built: Built, ids: np.ndarray, empty: str, dtype: torch.dtype | None, **more: Any
) -> Series:
    """The series of built rows, without empty ones."""
    if dtype is None:
        dtype = torch.get_default_dtype()
        converting.warn_rounded(built.values, dtype, more["channels"])
    values = converting.as_floating("values", built.values, dtype)
    series = kind(torch.as_tensor(built.times), values, torch.as_tensor(built.lengths), ids=ids, **more)
    return without_empty(series, empty)


def without_empty(series: Series, empty: str) -> Series:
    """The series that have a value, or all of them.

    Raises:
        ValueError: For a series without a value where ``empty="error"``, and where none is left.
    """
    one_of("empty", empty, EMPTY)
    seen = torch.zeros_like(series.lengths, dtype=torch.bool)
    seen[series.rows[series.mask.any(1)]] = True
    none = (~seen).nonzero()[:, 0]
    if empty == "keep" or not len(none):
        return series
    if empty == "drop" and len(none) < len(series):
        return series[seen]
    if empty == "drop":
        raise ValueError(f"At least one series has a value, but none of the {len(series)} series has one.")
    more = "" if len(none) == 1 else f", as {len(none) - 1} others"
    raise ValueError(
        f"Each series has at least one value, but {name_of(int(none[0]), series.ids)} has none{more}. "
        'Pass empty="drop" to leave such series out, or empty="keep" to keep them.'
    )
