"""Series from dicts: one entry a series, with times of all its channels or of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pathline.data.series import arrays, building, checking, converting

if TYPE_CHECKING:
    from pathline.data.series.series import Series


def read(kind: type[Series], series: Mapping[Any, Any], duplicates: str, more: dict[str, Any]) -> Series:
    """``{id: (times, values)}`` or ``{id: {channel: (times, values)}}``."""
    if not isinstance(series, Mapping) or not series:
        raise TypeError(
            "Series.from_dict takes {id: (times, values)} or {id: {channel: (times, values)}}, but "
            f"{'an empty dict' if isinstance(series, Mapping) else type(series).__name__} came."
        )
    entries = list(series.values())
    if any(hasattr(entry, "iloc") for entry in entries):
        raise TypeError(
            "Each entry is (times, values), or each is {channel: (times, values)}, but a table came. Tables of the "
            "same columns make one: Series.from_table(pandas.concat(tables, names=['id', 'time']), id='id', ...)."
        )
    ids = checking.check_ids_alike(list(series))
    for i, entry in enumerate(entries):
        pairs = entry.values() if isinstance(entry, Mapping) else [entry]
        if isinstance(entry, Mapping) != isinstance(entries[0], Mapping) or not all(map(_is_pair, pairs)):
            raise TypeError(
                "Each entry is (times, values), or each is {channel: (times, values)}, but "
                f"{checking.name_of(i, ids)} has {entry!r:.80}."
            )
    if not isinstance(entries[0], Mapping):
        return arrays.read(
            kind,
            [times for times, _ in entries],
            [values for _, values in entries],
            more.pop("sort", False),
            duplicates,
            more.pop("empty", "error"),
            more.pop("dtype", None),
            {"ids": ids} | more,
        )
    channels = _channels(entries, more.pop("channels", None))
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
    return building.finished(
        kind, built, ids, more.pop("empty", "error"), more.pop("dtype", None), channels=channels, **more
    )


def _is_pair(entry: Any) -> bool:
    return hasattr(entry, "__len__") and not isinstance(entry, str | Mapping) and len(entry) == 2


def _numbers(name: str, data: Any) -> np.ndarray:
    if isinstance(data, list | tuple):  # None, as a list may hold, is missing
        try:
            data = np.asarray(data, dtype=np.float64) if name == "values" else data
        except (TypeError, ValueError) as error:
            raise TypeError(f"`{name}` are numbers, but {error}.") from error
    return np.atleast_1d(converting.as_floating(name, data, torch.float64).detach().cpu().numpy())


def _channels(entries: list[Mapping[str, Any]], wanted: Any) -> tuple[str, ...]:
    """The channels that are named anywhere, sorted; or the wanted ones."""
    found = sorted({name for entry in entries for name in entry}, key=str)
    if wanted is None:
        return tuple(found)
    checking.check_columns("channels", found, wanted)
    return tuple(wanted)
