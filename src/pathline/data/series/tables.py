"""Series from tables, and back."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pathline.data.series import building, checking, dates

if TYPE_CHECKING:
    import pandas

    from pathline.data.series.series import Series


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
    if roles["values"] is not None and not given["values"]:
        raise ValueError("`values` names at least one channel, but an empty list came. Left out, it takes all.")
    single = {"time": _single("time", time), "id": _single("id", id)}
    single |= {"variable": _single("variable", variable), "value": _single("value", value)}
    columns_of = single | (given if variable is None else given | {"values": []})
    table = _with_index(table, time, [name for columns in columns_of.values() for name in columns])
    for argument, columns in columns_of.items():
        checking.check_columns(argument, columns, table.columns)
    _check_roles(table, columns_of)
    if len(table) == 0:
        raise ValueError("`table` has no rows.")
    clock = dates.times_of(table[time], time, unit)
    code, ids = _codes(table, id)
    if value is None:
        used = {name for role, columns in columns_of.items() if role != "values" for name in columns}
        channels = tuple(given["values"] or _numeric(table, used))
        cells = _wide_cells(table, channels)
    else:
        _check_long(given)
        channels, cells = _long_cells(table, str(variable), value, given["values"])
    names = tuple(map(str, channels))
    built = building.build(code, clock, cells, names, ids, duplicates)
    more = _of_each_series(table, given, roles, code, ids) | _of_each_row(table, given, roles, built, duplicates, ids)
    series = building.finished(kind, built, ids, empty, dtype, channels=names, **more)
    return series if variable is None else series.observed()  # in a long table a time without a value is no row


def _check_long(given: dict[str, list[str]]) -> None:
    if given["inputs"] or given["row_labels"]:
        raise ValueError(
            "`inputs` and `row_labels` belong to the rows of a wide table; a long table has one row a value. "
            "Make it wide first: table.pivot_table(index=[id, time], columns=variable, values=value)."
        )


def _of_each_series(
    table: pandas.DataFrame, given: dict[str, list[str]], roles: dict[str, Any], code: np.ndarray, ids: np.ndarray
) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if given["static"]:
        more |= {"static": _of_series(table, given["static"], code, ids, "static"), "static_names": given["static"]}
    if given["labels"]:
        labels = torch.as_tensor(_of_series(table, given["labels"], code, ids, "labels"))
        more["labels"] = _labels("labels", labels, roles["labels"])
    return more


def _of_each_row(
    table: pandas.DataFrame,
    given: dict[str, list[str]],
    roles: dict[str, Any],
    built: building.Built,
    duplicates: str,
    ids: np.ndarray,
) -> dict[str, Any]:
    more: dict[str, Any] = {}
    for role in ("inputs", "row_labels"):
        if given[role]:
            loose = torch.as_tensor(_numbers(table, given[role], role))
            more[role] = building.merge(role, loose, built, duplicates, ids)
    if given["inputs"]:
        more["input_names"] = given["inputs"]
    if given["row_labels"]:
        more["row_labels"] = _labels("row_labels", more["row_labels"], roles["row_labels"])
    return more


def _with_index(table: pandas.DataFrame, time: str, wanted: list[str]) -> pandas.DataFrame:
    """The table with those levels of its index as columns that somebody asks for, as pandas' own grouping has them."""
    if table.columns.nlevels > 1:
        raise ValueError(
            f"Columns have one name each, but `table` has {table.columns.nlevels} levels of names. Where one of them "
            "says which series it is, make it rows: table.stack(0, future_stack=True).reset_index()."
        )
    if time not in table.columns and table.index.name is None and table.index.dtype.kind in "mM":
        raise ValueError(
            f"`time`: the table has no column {time!r}. Its index holds dates, but has no name: "
            f"table.rename_axis({time!r})."
        )
    levels = [name for name in table.index.names if name in wanted and name not in table.columns]
    return table.reset_index(level=levels) if levels else table


def _check_roles(table: pandas.DataFrame, columns_of: dict[str, list[str]]) -> None:
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(
            f"Each column has a name of its own, but `table` has {twice[0]!r} twice. Rename one, or keep the first: "
            "table.loc[:, ~table.columns.duplicated()]."
        )
    for role in ("time", "id", "static", "labels"):
        both = [name for name in columns_of[role] if name in columns_of["values"]]
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
    return list(columns) if hasattr(columns, "__iter__") and not isinstance(columns, str) else [columns]  # pyright: ignore[reportReturnType]


def _single(argument: str, column: str | None) -> list[str]:
    columns = _listed(column)
    if len(columns) > 1:
        words = " + '-' + ".join(f"table[{name!r}].astype(str)" for name in columns)
        raise ValueError(
            f"`{argument}` is one column, but {columns} came. Several make one: table.assign(key={words})."
        )
    return columns


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


def _numeric(table: pandas.DataFrame, used: set[str]) -> list[str]:
    free = [name for name in table.columns if name not in used]
    chosen = [name for name in free if table[name].dtype.kind in "iufb"]
    if not chosen:
        raise ValueError(
            "No column of numbers is left to be a channel. Name them: values=[...], of "
            f"{', '.join(map(str, table.columns))}."
        )
    disguised = [name for name in free if table[name].dtype.kind not in "iufbmM" and _looks_numeric(table[name])]
    if disguised:
        warnings.warn(
            f"The columns of numbers are the channels, and {', '.join(map(repr, disguised))} is none: it holds "
            f"{table[disguised[0]].dtype}, though most of it reads as numbers. To take it: "
            f"pandas.to_numeric(table[{disguised[0]!r}], errors='coerce'); to leave it out in silence: name `values`.",
            stacklevel=4,
        )
    return chosen


def _looks_numeric(column: Any) -> bool:
    """Whether most of its first entries read as numbers, though it is stored as something else."""
    import pandas

    some = column.dropna()[:100].astype(object)
    return len(some) > 0 and pandas.Series(pandas.to_numeric(some, errors="coerce")).count() > len(some) / 2


def _numbers(table: pandas.DataFrame, columns: Sequence[str], argument: str) -> np.ndarray:
    """The columns as numbers; whole numbers stay whole where all are."""
    for name in columns:
        if table[name].dtype.kind not in "iufb":
            codes = f", or table[{name!r}].astype('category').cat.codes" if "labels" in argument else ""
            raise TypeError(
                f"`{argument}`: the column {name!r} holds {table[name].dtype}, but numbers are wanted. Numbers kept as "
                f"text, some perhaps as '<5': pandas.to_numeric(table[{name!r}], errors='coerce'), which leaves the "
                f"rest missing. Words: table[{name!r}].map({{'no': 0.0, 'yes': 1.0}}){codes}."
            )
    kinds = {table[name].dtype.kind for name in columns}
    if "f" not in kinds and not any(table[name].isna().any() for name in columns):
        return np.stack([table[name].to_numpy(dtype=np.int64) for name in columns], 1)
    numbers = np.stack([table[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in columns], 1)
    infinite = np.argwhere(np.isinf(numbers))
    if len(infinite):
        row, column = infinite[0].tolist()
        raise ValueError(
            f"`{argument}` are finite numbers, or NaN where missing, but {numbers[row, column]} came in the column "
            f"{columns[column]!r} at row {row} of the table, and {len(infinite)} times in all. Where it means missing: "
            "table.replace([numpy.inf, -numpy.inf], numpy.nan)."
        )
    return numbers


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
        times, values = series.original_times, series.unscale(values)
    ids = np.arange(len(series)) if series.ids is None else series.ids
    columns: dict[str, Any] = {"id": ids[rows], "time": times.cpu().numpy()}
    _add(columns, "values", series.channels, values)
    if series.inputs is not None:
        _add(columns, "inputs", series.input_names, series.inputs)
    if series.static is not None:
        _add(columns, "static", series.static_names, series.static[series.rows])
    for name, labels in (("label", series.labels), ("row_label", series.row_labels)):
        if labels is not None:
            flat = (labels[series.rows] if name == "label" else labels).reshape(len(rows), -1)
            names = (name,) if flat.shape[1] == 1 else tuple(f"{name} {i}" for i in range(flat.shape[1]))
            _add(columns, "labels", names, flat)
    return pandas.DataFrame(columns)


def _add(columns: dict[str, Any], role: str, names: Sequence[str], table: torch.Tensor) -> None:
    """Columns under their names, or behind their role where a name is taken."""
    for name, column in zip(names, table.detach().cpu().numpy().T, strict=True):
        columns[f"{role} {name}" if name in columns else name] = column
