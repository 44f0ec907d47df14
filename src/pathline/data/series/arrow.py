"""Series as Arrow tables: a row a series, its times and channels as lists, and what columns do not say beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series.scaling import Standardization
from pathline.data.series.series import Series

if TYPE_CHECKING:
    import pyarrow

_KEY = b"pathline.series"
_FORMAT = 1


def table_of(series: Series) -> pyarrow.Table:
    """All that the series carry."""
    import pyarrow

    series = series.to("cpu")
    offsets = pyarrow.array(series.offsets.numpy().astype(np.int32))

    def ragged(rows: Tensor) -> pyarrow.Array:
        return pyarrow.ListArray.from_arrays(offsets, _array(rows))

    columns: dict[str, pyarrow.Array] = {}
    if series.ids is not None:
        columns["id"] = pyarrow.array(series.ids.tolist())
    columns |= {"origin": _array(series.origin), "times": ragged(series.times)}
    columns |= {f"values.{name}": ragged(column) for name, column in _named(series.channels, series.values)}
    if series.inputs is not None:
        columns |= {f"inputs.{name}": ragged(column) for name, column in _named(series.input_names, series.inputs)}
    if series.static is not None:
        columns |= {f"static.{name}": _array(column) for name, column in _named(series.static_names, series.static)}
    if series.labels is not None:
        columns["labels"] = _array(series.labels)
    if series.row_labels is not None:
        columns["row_labels"] = ragged(series.row_labels)
    table = pyarrow.table(columns)
    return table.replace_schema_metadata({_KEY: json.dumps(_described(series))})


def _named(names: tuple[str, ...], table: Tensor) -> Iterator[tuple[str, Tensor]]:
    return zip(names, table.detach().unbind(1), strict=True)


def _array(rows: Tensor) -> pyarrow.Array:
    import pyarrow

    if rows.dtype == torch.bfloat16:
        raise TypeError("Parquet has no bfloat16. Write series.to(torch.float32).")
    flat = pyarrow.array(rows.detach().contiguous().numpy().reshape(-1))
    return flat if rows.dim() == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1:].numel())


def _described(series: Series) -> dict[str, Any]:
    """What the columns do not say."""
    scaling = series.scaling
    return {
        "format": _FORMAT,
        "channels": series.channels,
        "static_names": series.static_names,
        "input_names": series.input_names,
        "time_unit": series.time_unit,
        "dtype": str(series.dtype).removeprefix("torch."),
        "labels": _kind(series.labels),
        "row_labels": _kind(series.row_labels),
        "static": series.static is not None,
        "inputs": series.inputs is not None,
        "ids": series.ids is not None,
        "scaling": None if scaling is None else {"mean": scaling.mean.tolist(), "std": scaling.std.tolist()},
    }


def _kind(tensor: Tensor | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape[1:])}


def facts_of(schema: pyarrow.Schema, path: Path) -> dict[str, Any]:
    """What the columns do not say.

    Raises:
        ValueError: The file is not one of series, or of another version.
    """
    stored = (schema.metadata or {}).get(_KEY)
    if stored is None:
        raise ValueError(
            f"{path} is a Parquet file, but not one of series. A table is read by pandas.read_parquet and turned into "
            "series by Series.from_table."
        )
    facts = json.loads(stored)
    if facts["format"] != _FORMAT:
        raise ValueError(f"{path} has the format {facts['format']}, but this version reads {_FORMAT}; update pathline.")
    return facts


def series_of(table: pyarrow.Table, facts: dict[str, Any]) -> Series:
    """The series of some rows of a file."""
    dtype = getattr(torch, facts["dtype"])
    times, lengths = _ragged(table, "times")

    def beside(kind: str, names: list[str], count: int, read: Callable[[str], Tensor]) -> Tensor:
        columns = [read(f"{kind}.{name}") for name in names]
        return torch.stack(columns, 1) if columns else torch.empty(count, 0, dtype=dtype)

    def rows(name: str) -> Tensor:
        return _ragged(table, name)[0]

    def entries(name: str) -> Tensor:
        return _tensor(table[name].combine_chunks())

    scaling = facts["scaling"]
    kinds = {name: facts[name] for name in ("labels", "row_labels")}
    read = {"labels": entries, "row_labels": rows}
    labels = {name: None if kind is None else _shaped(read[name](name), kind) for name, kind in kinds.items()}
    return Series(
        times,
        beside("values", facts["channels"], len(times), rows),
        lengths,
        static=beside("static", facts["static_names"], len(lengths), entries) if facts["static"] else None,
        inputs=beside("inputs", facts["input_names"], len(times), rows) if facts["inputs"] else None,
        **labels,
        channels=facts["channels"],
        static_names=facts["static_names"] if facts["static"] else None,
        input_names=facts["input_names"] if facts["inputs"] else None,
        ids=table["id"].to_numpy() if facts["ids"] else None,
        origin=entries("origin"),
        time_unit=facts.get("time_unit", 1.0),
        scaling=None
        if scaling is None
        else Standardization(
            *(torch.tensor(scaling[k], dtype=torch.float64) for k in ("mean", "std")),
            channels=tuple(facts["channels"]),
        ),
    )


def _ragged(table: pyarrow.Table, name: str) -> tuple[Tensor, Tensor]:
    column = table[name].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return _tensor(column.flatten()), torch.as_tensor(lengths.astype(np.int64))


def _tensor(array: pyarrow.Array) -> Tensor:
    flat = array.flatten() if hasattr(array.type, "list_size") else array
    return torch.from_numpy(np.array(flat.to_numpy(zero_copy_only=False)))


def _shaped(flat: Tensor, kind: dict[str, Any]) -> Tensor:
    width = int(np.prod(kind["shape"], dtype=np.int64))
    count = len(flat) // width if width else 0
    return flat.to(getattr(torch, kind["dtype"])).reshape(count, *kind["shape"])
