"""Series from arrays and dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series import building, checking

if TYPE_CHECKING:
    from pathline.data.series.series import Series

_ROWS = ("inputs", "row_labels")


def read(
    kind: type[Series],
    times: Any,
    values: Any,
    sort: bool,
    duplicates: str,
    empty: str,
    dtype: torch.dtype | None,
    more: dict[str, Any],
) -> Series:
    """A list of arrays, or rectangles."""
    checking.one_of("duplicates", duplicates, building.DUPLICATES)
    checking.one_of("empty", empty, building.EMPTY)
    checking.check_dtype(dtype)
    if dtype is None:
        first = values[0] if isinstance(values, list | tuple) and len(values) else values
        dtype = first.dtype if isinstance(first, Tensor) and first.is_floating_point() else torch.get_default_dtype()
    if not isinstance(values, list | tuple):
        times, values, lengths, more = _rectangles(times, checking.as_floating("values", values, dtype), more)
    else:
        times, values, lengths, more = _lists(times, values, dtype, more)
    device = values.device
    values, times = values.to("cpu", dtype), times.to("cpu", torch.float64)  # sorted and merged on the CPU
    ids = more.get("ids")
    names = np.arange(len(lengths)) if ids is None else checking.check_ids_alike(ids)
    rows = torch.repeat_interleave(lengths)
    if sort or duplicates != "error":
        checking.check_finite(times, rows, names)
        times, values, lengths, more = _sorted(times, values, lengths, rows, names, sort, duplicates, more)
    if empty != "keep":
        rows = torch.repeat_interleave(lengths)
        seen = np.bincount(rows.numpy(), weights=(~values.isnan()).sum(1).double().numpy(), minlength=len(lengths))
        kept = torch.as_tensor(building.without_empty(seen, names, empty))
        return kind(times, values, lengths, **more)[kept].to(device)
    return kind(times, values, lengths, **more).to(device)


def _rectangles(times: Any, values: Tensor, more: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    clock = checking.as_floating("times", times, torch.float64)
    if values.dim() != 3:
        raise ValueError(
            f"`values` is a list of arrays (T_i, D), or one array (n, T, D), but shape {tuple(values.shape)} came. "
            "One series is values[None], one channel values[..., None]."
        )
    n, length, channels = values.shape
    if clock.shape not in ((length,), (n, length)):
        raise ValueError(
            f"`times` has the shape ({length},) or ({n}, {length}) for `values` of shape {tuple(values.shape)}, but "
            f"{tuple(clock.shape)} came."
        )
    flat = {
        name: torch.as_tensor(checking.plain(more[name])).flatten(0, 1) for name in _ROWS if more.get(name) is not None
    }
    lengths = torch.full((n,), length)
    return clock.expand(n, length).reshape(-1), values.reshape(n * length, channels), lengths, more | flat


def _lists(
    times: Any, values: Any, dtype: torch.dtype, more: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    if len(times) != len(values):
        raise ValueError(
            f"`times` and `values` are lists of equal length, one entry a series, but {len(times)} and {len(values)} "
            "entries came."
        )
    if not len(values):
        raise ValueError("`values` has at least one series, but an empty list came.")
    clocks = [checking.as_floating("times", entry, torch.float64) for entry in times]
    tables = [_table(entry, dtype) for entry in values]
    width = max((table.shape[1] for table in tables if table.dim() == 2), default=1)
    tables = [table.reshape(0, width) if table.numel() == 0 else table for table in tables]
    for i, (clock, table) in enumerate(zip(clocks, tables, strict=True)):
        if clock.dim() != 1 or table.dim() != 2 or len(clock) != len(table) or table.shape[1] != tables[0].shape[1]:
            raise ValueError(
                f"Series {i} has `times` of shape {tuple(clock.shape)} and `values` of shape {tuple(table.shape)}, but "
                f"(T,) and (T, {tables[0].shape[-1]}) are wanted."
            )
    lengths = torch.tensor([len(clock) for clock in clocks], dtype=torch.int64)
    flat = {
        name: torch.cat([torch.as_tensor(checking.plain(x)) for x in more[name]])
        for name in _ROWS
        if more.get(name) is not None
    }
    return torch.cat(clocks), torch.cat(tables), lengths, more | flat


def _table(entry: Any, dtype: torch.dtype) -> Tensor:
    """One series' values ``(T, D)``; None, as a list may hold, is missing."""
    if not isinstance(entry, Tensor | np.ndarray) and not hasattr(entry, "to_numpy"):
        try:
            entry = np.asarray(entry, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"`values` are numbers, (T,) or (T, D) of each series, but {error}.") from error
    table = checking.as_floating("values", entry, dtype)
    return table[:, None] if table.dim() == 1 else table


def _sorted(
    times: Tensor,
    values: Tensor,
    lengths: Tensor,
    rows: Tensor,
    names: np.ndarray,
    sort: bool,
    duplicates: str,
    more: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Sort where that is wanted, and merge rows of one time."""
    if not sort and bool(((times.diff() < 0) & (rows[1:] == rows[:-1])).any()):
        checking.check_times(times, rows, names, "")
    channels = values.shape[1]
    wide = values.double().numpy()
    cells = building.Cells(
        np.repeat(np.arange(len(wide)), channels), np.tile(np.arange(channels), len(wide)), wide.reshape(-1)
    )
    labels = checking.names("channel", more.get("channels"), channels)
    built = building.build(rows.numpy(), times.numpy(), cells, labels, names, duplicates)
    merged = {name: merge(name, more[name], built, duplicates, names) for name in _ROWS if more.get(name) is not None}
    table = torch.as_tensor(built.values).to(values.dtype)
    return torch.as_tensor(built.times), table, torch.as_tensor(built.lengths), more | merged


def merge(name: str, data: Tensor, built: building.Built, duplicates: str, ids: np.ndarray) -> Tensor:
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
            f"`{name}` are the same in rows of one time, but {checking.name_of(series, ids)} has two at the time "
            f'{built.times[row]}; duplicates="first" or "last" keeps one.'
        )
    return merged


def read_dict(kind: type[Series], series: Mapping[Any, Any], duplicates: str, more: dict[str, Any]) -> Series:
    """``{id: (times, values)}`` or ``{id: {channel: (times, values)}}``."""
    if not isinstance(series, Mapping) or not series:
        raise TypeError(
            "Series.from_dict takes {id: (times, values)} or {id: {channel: (times, values)}}, but "
            f"{'an empty dict' if isinstance(series, Mapping) else type(series).__name__} came."
        )
    entries = list(series.values())
    ids = checking.check_ids_alike(list(series))
    for i, entry in enumerate(entries):
        pairs = entry.values() if isinstance(entry, Mapping) else [entry]
        if isinstance(entry, Mapping) != isinstance(entries[0], Mapping) or not all(map(_is_pair, pairs)):
            raise TypeError(
                "Each entry is (times, values), or each is {channel: (times, values)}, but "
                f"{checking.name_of(i, ids)} has {entry!r:.80}."
            )
    if not isinstance(entries[0], Mapping):
        return read(
            kind,
            [times for times, _ in entries],
            [values for _, values in entries],
            more.pop("sort", False),
            duplicates,
            more.pop("empty", "error"),
            more.pop("dtype", None),
            {"ids": ids} | more,
        )
    channels = checked_channels(entries, more.pop("channels", None))
    pieces = [
        (i, channels.index(name), _numbers("times", times), _numbers("values", values))
        for i, entry in enumerate(entries)
        for name, (times, values) in entry.items()
    ]
    if not pieces:
        raise ValueError("Each series has at least one channel, as in {id: {channel: (times, values)}}, but none came.")
    for i, channel, times, values in pieces:
        if times.shape != values.shape or times.ndim != 1:
            raise ValueError(
                f"Channel {channels[channel]!r} of {checking.name_of(i, ids)} has times of shape {times.shape} and "
                f"values of shape {values.shape}, but one shape (T,) is wanted."
            )
    sizes = [len(times) for _, _, times, _ in pieces]
    code = np.repeat([i for i, _, _, _ in pieces], sizes)
    cells = building.Cells(
        np.arange(len(code)),
        np.repeat([channel for _, channel, _, _ in pieces], sizes),
        np.concatenate([values for _, _, _, values in pieces]),
    )
    time = np.concatenate([times for _, _, times, _ in pieces])
    built = building.build(code, time, cells, channels, ids, duplicates)
    return finished(kind, built, ids, more.pop("empty", "error"), more.pop("dtype", None), channels=channels, **more)


def _is_pair(entry: Any) -> bool:
    return hasattr(entry, "__len__") and not isinstance(entry, str | Mapping) and len(entry) == 2


def _numbers(name: str, data: Any) -> np.ndarray:
    if isinstance(data, list | tuple):  # None, as a list may hold, is missing
        try:
            data = np.asarray(data, dtype=np.float64) if name == "values" else data
        except (TypeError, ValueError) as error:
            raise TypeError(f"`{name}` are numbers, but {error}.") from error
    return np.atleast_1d(checking.as_floating(name, data, torch.float64).detach().cpu().numpy())


def checked_channels(entries: list[Mapping[str, Any]], wanted: Any) -> tuple[str, ...]:
    """The channels that are named anywhere, sorted; or the wanted ones."""
    found = sorted({name for entry in entries for name in entry}, key=str)
    if wanted is None:
        return tuple(found)
    checking.check_columns("channels", found, wanted)
    return tuple(wanted)


def finished(
    kind: type[Series], built: building.Built, ids: np.ndarray, empty: str, dtype: torch.dtype | None, **more: Any
) -> Series:
    """The series of built rows, without empty ones."""
    values = checking.as_floating("values", built.values, torch.get_default_dtype() if dtype is None else dtype)
    rows = np.repeat(np.arange(len(ids)), built.lengths)
    seen = np.bincount(rows, weights=(~np.isnan(built.values)).sum(1), minlength=len(ids))
    kept = building.without_empty(seen, ids, empty)
    series = kind(torch.as_tensor(built.times), values, torch.as_tensor(built.lengths), ids=ids, **more)
    return series if len(kept) == len(ids) else series[torch.as_tensor(kept)]
