"""Series from lists of arrays, or from rectangles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series import building, checking, converting

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
    converting.check_dtype(dtype)
    times, values = (list(x) if getattr(x, "dtype", None) == np.dtype(object) else x for x in (times, values))
    mask, given = more.pop("mask", None), more.pop("lengths", None)
    wide, dtype = _types(values, dtype)
    if not isinstance(values, list | tuple):
        table = _masked(converting.as_floating("values", values, wide), mask)
        times, values, lengths, more = _rectangles(times, table, given, more)
    elif given is not None:
        raise ValueError("`lengths` belong to rectangles (n, T, D); a list has arrays of their own lengths already.")
    else:
        times, values, lengths, more = _lists(times, values, mask, wide, more)
    if wide != dtype:
        names = checking.names("channel", more.get("channels"), values.shape[1])
        converting.warn_rounded(values.detach().cpu().numpy(), dtype, names)
    device = values.device
    values, times = values.to("cpu", dtype), times.to("cpu", torch.float64)  # sorted and merged on the CPU
    ids = more.get("ids")
    names = np.arange(len(lengths)) if ids is None else checking.check_ids_alike(ids)
    rows = torch.repeat_interleave(lengths)
    if sort or duplicates != "error":
        checking.check_finite(times, rows, names)
        times, values, lengths, more = _sorted(times, values, lengths, rows, names, sort, duplicates, more)
    return building.without_empty(kind(times, values, lengths, **more), empty).to(device)


def _types(values: Any, dtype: torch.dtype | None) -> tuple[torch.dtype, torch.dtype]:
    """In which type values are read, and which they get; they differ where nobody asked for the second."""
    if dtype is not None:
        return dtype, dtype
    first = values[0] if isinstance(values, list | tuple) and len(values) else values
    if isinstance(first, Tensor) and first.is_floating_point():
        return first.dtype, first.dtype
    default = torch.get_default_dtype()
    narrow = getattr(first, "dtype", None) in (np.float32, np.float16)
    return default if narrow else torch.float64, default


def _masked(values: Tensor, mask: Any) -> Tensor:
    """Values with NaN where the mask says that nothing was observed."""
    if mask is None:
        return values
    observed = torch.as_tensor(converting.plain(mask)).to(values.device)
    if observed.shape == values.shape[:-1]:
        observed = observed[..., None].expand(values.shape)
    if observed.shape != values.shape or not bool(((observed == 0) | (observed == 1)).all()):
        raise ValueError(
            f"`mask` says of each of the values whether it was observed, {tuple(values.shape)}, in booleans or zeros "
            f"and ones, but {observed.dtype} of shape {tuple(observed.shape)} came."
        )
    return torch.where(observed == 1, values, torch.nan)


def _rectangles(
    times: Any, values: Tensor, lengths: Any, more: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    clock = converting.as_floating("times", times, torch.float64)
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
        name: torch.as_tensor(converting.plain(more[name])).flatten(0, 1)
        for name in _ROWS
        if more.get(name) is not None
    }
    clock, values = clock.expand(n, length).reshape(-1), values.reshape(n * length, channels)
    if lengths is None:
        return clock, values, torch.full((n,), length), more | flat
    lengths = torch.as_tensor(converting.plain(lengths)).to("cpu", torch.int64)
    if lengths.shape != (n,) or bool(((lengths < 0) | (lengths > length)).any()):
        raise ValueError(
            f"`lengths` ({n},) say how many of the {length} columns belong to each series, but {lengths.tolist()} came."
        )
    there = (torch.arange(length) < lengths[:, None]).flatten()
    flat = {name: tensor[there.to(tensor.device)] for name, tensor in flat.items()}
    return clock[there.to(clock.device)], values[there.to(values.device)], lengths, more | flat


def _lists(
    times: Any, values: Any, mask: Any, dtype: torch.dtype, more: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    if len(times) != len(values):
        raise ValueError(
            f"`times` and `values` are lists of equal length, one entry a series, but {len(times)} and {len(values)} "
            "entries came."
        )
    if not len(values):
        raise ValueError("`values` has at least one series, but an empty list came.")
    if any(np.ndim(entry) == 0 for entry in (times[0], values[0])):
        raise ValueError(
            "`times` and `values` are lists with one array a series, but lists of numbers came. A single series is "
            "Series.from_arrays([times], [values])."
        )
    clocks = [converting.as_floating("times", entry, torch.float64) for entry in times]
    tables = [_table(entry, dtype) for entry in values]
    if mask is not None:
        tables = [_masked(table, observed) for table, observed in zip(tables, mask, strict=True)]
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
        name: torch.cat([torch.as_tensor(converting.plain(x)) for x in more[name]])
        for name in _ROWS
        if more.get(name) is not None
    }
    if "inputs" in flat and flat["inputs"].dim() == 1:  # one input, as one channel of `values`
        flat["inputs"] = flat["inputs"][:, None]
    return torch.cat(clocks), torch.cat(tables), lengths, more | flat


def _table(entry: Any, dtype: torch.dtype) -> Tensor:
    """One series' values ``(T, D)``; None, as a list may hold, is missing."""
    if not isinstance(entry, Tensor | np.ndarray) and not hasattr(entry, "to_numpy"):
        try:
            entry = np.asarray(entry, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"`values` are numbers, (T,) or (T, D) of each series, but {error}.") from error
    table = converting.as_floating("values", entry, dtype)
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
    merged = {
        name: building.merge(name, more[name], built, duplicates, names) for name in _ROWS if more.get(name) is not None
    }
    table = torch.as_tensor(built.values).to(values.dtype)
    return torch.as_tensor(built.times), table, torch.as_tensor(built.lengths), more | merged
