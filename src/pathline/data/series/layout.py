"""What a series carries: an entry a row, an entry a series, or one for all; parts of it, and several joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series import ragged
from pathline.data.series.scaling import same

if TYPE_CHECKING:
    from pathline.data.series.series import Series

OF_ROWS = ("times", "values", "inputs", "row_labels")
OF_SERIES = ("lengths", "static", "labels", "origin")
FOR_ALL = ("channels", "static_names", "input_names", "scaling", "time_unit")


def taken(series: Series, numbers: Tensor) -> dict[str, Any]:
    """The series of these numbers, in this order."""
    rows, lengths = ragged.rows_at(series.offsets, numbers)
    ids = None if series.ids is None else series.ids[numbers.cpu().numpy()]
    return _at(series, OF_ROWS, rows) | _at(series, OF_SERIES, numbers) | {"lengths": lengths, "ids": ids}


def stretch(series: Series, start: int, stop: int) -> dict[str, Any]:
    """The series from ``start`` to ``stop``, as views of the same memory."""
    rows, numbers = slice(int(series.offsets[start]), int(series.offsets[stop])), slice(start, stop)
    ids = None if series.ids is None else series.ids[numbers]
    return _at(series, OF_ROWS, rows) | _at(series, OF_SERIES, numbers) | {"ids": ids}


def kept(series: Series, rows: Tensor) -> dict[str, Any]:
    """The rows where ``rows``, booleans, is true."""
    return _at(series, OF_ROWS, rows) | {"lengths": ragged.count_rows(series.rows[rows], len(series))}


def replaced(series: Series, changes: dict[str, Any]) -> dict[str, Any]:
    """All arguments of the series, with some in place of others.

    Raises:
        TypeError: For what is no part of its own, or is changed by other methods.
    """
    free = ("static", "inputs", "labels", "row_labels", "static_names", "input_names", "ids")
    wrong = [name for name in changes if name not in free]
    if wrong:
        raise TypeError(
            f"`replace` takes {', '.join(free)}, but {wrong[0]!r} came. Values and channels have with_values(...), "
            "times have shifted(...) and with_time_unit(...)."
        )
    now = {name: getattr(series, name) for name in (*OF_ROWS, *OF_SERIES, *FOR_ALL, "ids")}
    for columns, names in (("static", "static_names"), ("inputs", "input_names")):
        if columns in changes and np.shape(changes[columns])[-1:] != (len(now[names]),):
            now[names] = None
    return now | changes


def moved(series: Series, device: Any, dtype: torch.dtype | None, more: dict[str, Any]) -> dict[str, Any]:
    """On another device; values, static and inputs in another type."""
    cast = ("values", "inputs", "static")
    scaling = series.scaling
    changes: dict[str, Any] = {
        name: tensor.to(device=device, dtype=dtype if name in cast else None, **more)
        for name, tensor in _there(series, (*OF_ROWS, *OF_SERIES)).items()
    }
    return changes | {"scaling": None if scaling is None else scaling.to(device)}


def pinned(series: Series) -> dict[str, Any]:
    """In page-locked memory."""
    return {name: tensor.pin_memory() for name, tensor in _there(series, (*OF_ROWS, *OF_SERIES)).items()}


def joined(parts: Sequence[Series]) -> dict[str, Any]:
    """All entries of all parts, of which what is for all has to agree.

    Raises:
        ValueError: For no part, and for parts of other columns, another unit of time or another scaling.
    """
    if not parts:
        raise ValueError("`Series.cat` takes at least one part, but an empty list came.")
    for part in parts[1:]:
        _check_alike(parts[0], part)
    changes: dict[str, Any] = {
        name: _cat(name, [getattr(part, name) for part in parts]) for name in (*OF_ROWS, *OF_SERIES)
    }
    ids = [part.ids for part in parts if part.ids is not None]
    return changes | {"ids": np.concatenate(ids) if len(ids) == len(parts) else None}


def _check_alike(first: Series, part: Series) -> None:
    for what, names in (("channels",) * 2, ("static columns", "static_names"), ("inputs", "input_names")):
        ours, theirs = getattr(first, names), getattr(part, names)
        if ours != theirs and ours and theirs:
            raise ValueError(
                f"Series of the same {what} are joined, but {', '.join(ours)} and {', '.join(theirs)} came."
            )
    if part.time_unit != first.time_unit:
        raise ValueError(
            f"Series that count time in one unit are joined, but {first.time_unit:g} and {part.time_unit:g} original "
            f"units came. Use series.with_time_unit({first.time_unit:g})."
        )
    if not same(part.scaling, first.scaling):
        raise ValueError(
            "Series that were standardized alike are joined. Use series.standardized(scaling) with one scaling."
        )


def _cat(name: str, tensors: list[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    if there and len(there) < len(tensors):
        raise ValueError(f"Either all parts have `{name}` or none, but {len(there)} of {len(tensors)} have them.")
    return torch.cat(there) if there else None


def _there(series: Series, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of these names that the series have."""
    every = {name: getattr(series, name) for name in names}
    return {name: tensor for name, tensor in every.items() if tensor is not None}


def _at(series: Series, names: tuple[str, ...], index: Any) -> dict[str, Any]:
    return {name: tensor[index] for name, tensor in _there(series, names).items()}
