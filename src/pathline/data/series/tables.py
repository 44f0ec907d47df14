"""Series from tables, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pathline.data.series import arrays, building, checking

if TYPE_CHECKING:
    import pandas

    from pathline.data.series.series import Series

_SECONDS = {
    "seconds": 1.0,
    "minutes": 60.0,
    "hours": 3600.0,
    "days": 86_400.0,
    "weeks": 604_800.0,
    "years": 365.25 * 86_400.0,
}


def read(
    kind: type[Series],
    table: pandas.DataFrame,
    time: str,
    id: str | None,  # noqa: A002
    roles: dict[str, Any],
    long: tuple[str | None, str | None],
    duplicates: str,
    empty: str,
    unit: str | None,
    dtype: torch.dtype | None,
) -> Series:
    """A wide or a long table."""
    if not hasattr(table, "columns") or not hasattr(table, "iloc"):
        raise TypeError(
            f"`table` is a pandas.DataFrame, but {type(table).__name__} came. Other libraries' tables have "
            "table.to_pandas(); arrays go to Series.from_arrays."
        )
    given = {role: _listed(columns) for role, columns in roles.items()}
    variable, value = long
    if (variable is None) != (value is None):
        raise ValueError(
            "`variable` and `value` belong together: in a long table one column names the channel and another holds "
            f"the number, but variable={variable!r} and value={value!r} came."
        )
    single = {"time": [time], "id": _listed(id), "variable": _listed(variable), "value": _listed(value)}
    for argument, columns in (single | given).items():
        if not (variable is not None and argument == "values"):
            checking.check_columns(argument, columns, table.columns)
    _check_roles(table, time, _listed(id), given if variable is None else given | {"values": []})
    if len(table) == 0:
        raise ValueError("`table` has no rows.")
    clock = _times(table[time], time, unit)
    code, ids = _codes(table, id)
    if variable is None:
        used = {time, *_listed(id), *given["static"], *given["inputs"], *given["labels"], *given["row_labels"]}
        channels = tuple(given["values"] or _numeric(table, used))
        cells = _wide_cells(table, channels)
    else:
        if given["inputs"] or given["row_labels"]:
            raise ValueError(
                "`inputs` and `row_labels` belong to the rows of a wide table; a long table has one row a value. "
                "Make it wide first: table.pivot_table(index=[id, time], columns=variable, values=value)."
            )
        assert value is not None
        channels, cells = _long_cells(table, variable, value, given["values"])
    built = building.build(code, clock, cells, tuple(map(str, channels)), ids, duplicates)
    more: dict[str, Any] = {"channels": tuple(map(str, channels))}
    if given["static"]:
        more |= {"static": _of_series(table, given["static"], code, ids, "static"), "static_names": given["static"]}
    if given["inputs"]:
        inputs = torch.as_tensor(_numbers(table, given["inputs"], "inputs"))
        inputs = arrays.merge("inputs", inputs, built, duplicates, ids)
        more |= {"inputs": inputs, "input_names": given["inputs"]}
    if given["labels"]:
        labels = torch.as_tensor(_of_series(table, given["labels"], code, ids, "labels"))
        more["labels"] = _labels("labels", labels, roles["labels"])
    if given["row_labels"]:
        labels = torch.as_tensor(_numbers(table, given["row_labels"], "row_labels"))
        labels = arrays.merge("row_labels", labels, built, duplicates, ids)
        more["row_labels"] = _labels("row_labels", labels, roles["row_labels"])
    series = arrays.finished(kind, built, ids, empty, dtype, **more)
    return series if variable is None else series.observed()  # in a long table a time without a value is no row


def _check_roles(table: pandas.DataFrame, time: str, id: list[str], given: dict[str, list[str]]) -> None:  # noqa: A002
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(
            f"Each column has a name of its own, but `table` has {twice[0]!r} twice. Rename one, or keep the first: "
            "table.loc[:, ~table.columns.duplicated()]."
        )
    others = {"time": [time], "id": id} | {role: given[role] for role in ("static", "labels")}
    for role, columns in others.items():
        both = [name for name in columns if name in given["values"]]
        if both:
            raise ValueError(f"The column {both[0]!r} is either in `values` or `{role}`, but it came in both.")


def _labels(argument: str, labels: torch.Tensor, columns: Any) -> torch.Tensor:
    """Of a single column ``(n,)``, with -1 for unknown classes."""
    if isinstance(columns, list | tuple):
        return labels
    labels = labels[:, 0]
    unknown = labels.isnan()
    if not unknown.any():
        return labels
    if unknown.all() or (labels[~unknown] != labels[~unknown].round()).any():
        raise ValueError(
            f"`{argument}`: a column with empty cells holds whole numbers, the classes, and its empty cells become -1, "
            f"but {columns!r} holds {'nothing' if unknown.all() else 'fractions'}. For a quantity pass "
            f"{argument}=[{columns!r}], (n, 1), in which NaN is unknown."
        )
    return torch.where(unknown, -1.0, labels).long()


def _listed(columns: str | Sequence[str] | None) -> list[str]:
    if columns is None:
        return []
    return [columns] if isinstance(columns, str) else list(columns)


def _codes(table: pandas.DataFrame, id: str | None) -> tuple[np.ndarray, np.ndarray]:  # noqa: A002
    if id is None:
        return np.zeros(len(table), dtype=np.int64), np.zeros(1, dtype=np.int64)
    import pandas

    code, ids = pandas.factorize(table[id])
    if (code < 0).any():
        raise ValueError(
            f"`id`: the column {id!r} is empty in {int((code < 0).sum())} rows, the first being row "
            f"{int(np.flatnonzero(code < 0)[0])}. Leave them out: table.dropna(subset=[{id!r}])."
        )
    return code.astype(np.int64), np.asarray(ids)


def _times(column: Any, name: str, unit: str | None) -> np.ndarray:
    if unit is not None:
        checking.one_of("unit", unit, tuple(_SECONDS))
    if column.dtype.kind == "m":
        if unit is None:
            raise ValueError(
                f"`time`: the column {name!r} holds durations. Say in which unit to count them, as in "
                'Series.from_table(..., unit="days").'
            )
        return column.dt.total_seconds().to_numpy(np.float64) / _SECONDS[unit]
    if column.dtype.kind == "M":
        if unit is None:
            raise ValueError(
                f"`time`: the column {name!r} holds dates. Say in which unit to count them, as in "
                'Series.from_table(..., unit="days").'
            )
        moments = column.dt.tz_convert("UTC").dt.tz_localize(None) if column.dt.tz is not None else column
        stamps = moments.to_numpy("datetime64[ns]")
        seconds = np.where(np.isnat(stamps), np.nan, stamps.astype(np.int64) / 1e9)
        return seconds / _SECONDS[unit]
    if column.dtype.kind not in "iufb":
        raise TypeError(
            f"`time`: the column {name!r} holds {column.dtype}, but numbers or dates are wanted. "
            f"Turn text into dates first: table[{name!r}] = pandas.to_datetime(table[{name!r}])."
        )
    if unit is not None:
        raise ValueError(f"`unit` counts dates, but the column {name!r} holds numbers. Leave `unit` out.")
    if column.dtype.kind == "f" or column.isna().any():
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return checking.as_floating("times", column, torch.float64).numpy()


def _numeric(table: pandas.DataFrame, used: set[str]) -> list[str]:
    chosen = [name for name in table.columns if name not in used and table[name].dtype.kind in "iufb"]
    if not chosen:
        raise ValueError(
            "No column of numbers is left to be a channel. Name them: values=[...], of "
            f"{', '.join(map(str, table.columns))}."
        )
    return chosen


def _numbers(table: pandas.DataFrame, columns: Sequence[str], argument: str) -> np.ndarray:
    """The columns as numbers; whole numbers stay whole where all are."""
    for name in columns:
        if table[name].dtype.kind not in "iufb":
            raise TypeError(
                f"`{argument}`: the column {name!r} holds {table[name].dtype}, but numbers are wanted. For two words: "
                f"(table[{name!r}] == ...).astype(float); for more: table[{name!r}].astype('category').cat.codes."
            )
    kinds = {table[name].dtype.kind for name in columns}
    wide = np.float64 if "f" in kinds or any(table[name].isna().any() for name in columns) else np.int64
    if wide is np.int64:
        return np.stack([table[name].to_numpy(dtype=wide) for name in columns], 1)
    return np.stack([table[name].to_numpy(dtype=wide, na_value=np.nan) for name in columns], 1)


def _wide_cells(table: pandas.DataFrame, channels: Sequence[str]) -> building.Cells:
    numbers = _numbers(table, channels, "values").astype(np.float64)
    rows, count = numbers.shape
    return building.Cells(np.repeat(np.arange(rows), count), np.tile(np.arange(count), rows), numbers.reshape(-1))


def _long_cells(
    table: pandas.DataFrame, variable: str, value: str, wanted: list[str]
) -> tuple[tuple[str, ...], building.Cells]:
    import pandas

    code, found = pandas.factorize(table[variable], sort=True)
    if (code < 0).any():
        raise ValueError(
            f"`variable`: the column {variable!r} is empty in {int((code < 0).sum())} rows, the first being row "
            f"{int(np.flatnonzero(code < 0)[0])}. Leave them out: table.dropna(subset=[{variable!r}])."
        )
    if wanted:
        checking.check_columns("values", wanted, found)
        number = {name: i for i, name in enumerate(wanted)}
        code = np.asarray([number.get(name, -1) for name in found] + [-1])[code]
    numbers = _numbers(table, [value], "value")[:, 0].astype(np.float64)
    numbers = np.where(code < 0, np.nan, numbers)
    channels = tuple(wanted or found)
    return channels, building.Cells(np.arange(len(table)), np.maximum(code, 0), numbers)


def _of_series(
    table: pandas.DataFrame, columns: Sequence[str], code: np.ndarray, ids: np.ndarray, argument: str
) -> np.ndarray:
    """One entry a series of columns that are constant in each."""
    numbers = _numbers(table, columns, argument)
    first = np.empty(len(ids), dtype=np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    entries = numbers[first]
    differs = (numbers != entries[code]) & ~(np.isnan(numbers.astype(float)) & np.isnan(entries[code].astype(float)))
    if differs.any():
        row, column = (int(place[0]) for place in np.nonzero(differs))
        raise ValueError(
            f"`{argument}`: the column {columns[column]!r} is constant in each series, but "
            f"{checking.name_of(int(code[row]), ids)} has {entries[code[row], column]:g} and {numbers[row, column]:g}. "
            "What changes with time belongs to `values`, `inputs` or `row_labels`."
        )
    return entries


def write(series: Series, original: bool) -> pandas.DataFrame:
    """A wide table."""
    import pandas

    rows = series.rows.cpu().numpy()
    times, values = series.times, series.values.detach()
    if original:
        times, values = times + series.origin[series.rows], series.unscale(values)
    ids = np.arange(len(series)) if series.ids is None else series.ids
    columns: dict[str, Any] = {"id": ids[rows], "time": times.cpu().numpy()}
    columns |= _columns(series.channels, values)
    if series.inputs is not None:
        columns |= _columns(series.input_names, series.inputs)
    if series.static is not None:
        columns |= _columns(series.static_names, series.static[series.rows])
    for name, labels in (("label", series.labels), ("row_label", series.row_labels)):
        if labels is not None:
            flat = (labels[series.rows] if name == "label" else labels).reshape(len(rows), -1)
            names = (name,) if flat.shape[1] == 1 else tuple(f"{name} {i}" for i in range(flat.shape[1]))
            columns |= _columns(names, flat)
    return pandas.DataFrame(columns)


def _columns(names: Sequence[str], table: torch.Tensor) -> dict[str, np.ndarray]:
    return dict(zip(names, table.detach().cpu().numpy().T, strict=True))
