"""What a series carries: an entry a row, an entry a series, or one for all; and parts of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series import ragged

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


def _there(series: Series, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of these names that the series have."""
    every = {name: getattr(series, name) for name in names}
    return {name: tensor for name, tensor in every.items() if tensor is not None}


def _at(series: Series, names: tuple[str, ...], index: Any) -> dict[str, Any]:
    return {name: tensor[index] for name, tensor in _there(series, names).items()}
