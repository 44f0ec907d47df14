"""What is wrong with the arguments of a series, in words."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathline.data.series.series import Series


def name_of(series: int, ids: np.ndarray | None) -> str:
    """``series 3 (id 'p17')``."""
    return f"series {series}" if ids is None else f"series {series} (id {ids[series : series + 1].tolist()[0]!r})"


def check_times(times: Tensor, rows: Tensor, ids: np.ndarray | None, remedy: str) -> None:
    """Times are finite and increase strictly within each series.

    Raises:
        ValueError: With the first place that does not, and how many there are.
    """
    check_finite(times, rows, ids)
    step, same = times.diff(), rows[1:] == rows[:-1]
    back = (same & (step < 0)).nonzero()
    if len(back):
        row = int(back[0]) + 1
        raise ValueError(
            f"`times` increase within each series, but in {name_of(int(rows[row]), ids)} {float(times[row])} follows "
            f"{float(times[row - 1])} (row {row}); {_counted(len(back), 'such row')}. "
            "Sort the rows by their time, or pass sort=True to Series.from_arrays; Series.from_table sorts."
        )
    twice = (same & (step == 0)).nonzero()
    if len(twice):
        row = int(twice[0]) + 1
        raise ValueError(repeated(float(times[row]), int(rows[row]), ids, len(twice), remedy))


def check_finite(times: Tensor, rows: Tensor, ids: np.ndarray | None) -> None:
    """No time is NaN or infinite."""
    wrong = (~times.isfinite()).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"`times` are finite numbers, but {float(times[first])} came at row {first}, in "
            f"{name_of(int(rows[first]), ids)}; {_counted(len(wrong), 'such row')}. "
            "Leave out rows without a time, as in table.dropna(subset=[...])."
        )


def repeated(time: float, series: int, ids: np.ndarray | None, count: int, remedy: str) -> str:
    """The words for a time that comes twice."""
    return (
        f"Each time comes once in a series, but {name_of(series, ids)} has the time {time} twice; "
        f"{_counted(count, 'repeated row')}. {remedy}"
    )


def _counted(count: int, what: str, many: str | None = None) -> str:
    return f"there is 1 {what}" if count == 1 else f"there are {count} {many or what + 's'}"


def check_lengths(lengths: Tensor, total: int) -> None:
    """Lengths are counts that add up to the number of rows."""
    if lengths.dim() != 1 or bool((lengths < 0).any()) or int(lengths.sum()) != total:
        raise ValueError(
            f"`lengths` (n,) says how many of the {total} rows belong to each series, but shape "
            f"{tuple(lengths.shape)} with the sum {int(lengths.sum())} came."
        )


def check_rows(name: str, tensor: Tensor, count: int, what: str, dims: int | None = None) -> None:
    """``tensor`` has one entry a row, or one a series."""
    if tensor.dim() < 1 or tensor.shape[0] != count or (dims is not None and tensor.dim() != dims):
        size = f"({count}, ...)" if dims is None else f"({count}, {'D' if name == 'values' else 'K'})"
        hint = f" One channel is `{name}[:, None]`." if dims == 2 and tensor.dim() == 1 else ""
        raise ValueError(f"`{name}` has one entry a {what}, {size}, but shape {tuple(tensor.shape)} came.{hint}")


def check_known(name: str, tensor: Tensor, ids: np.ndarray | None, rows: Tensor | None = None) -> None:
    """Known inputs are known everywhere."""
    missing = tensor.isnan().flatten(1).any(1).nonzero() if tensor.is_floating_point() else []
    if len(missing):
        row = int(missing[0])
        where = name_of(row if rows is None else int(rows[row]), ids)
        raise ValueError(
            f"`{name}` are known at each row, but there is a NaN at row {row}, in {where}; "
            f"{_counted(len(missing), 'such row')}. Fill them, or make them channels of `values`, where NaN is missing."
        )


def check_bounded(name: str, tensor: Tensor, columns: Sequence[str], where: Callable[[int], str]) -> None:
    """No entry is infinite, or has become so in a type that does not hold it.

    Args:
        name: The argument.
        tensor: ``(rows, columns)``.
        columns: Names of the columns.
        where: Words for a row.
    """
    wrong = tensor.detach().isinf().nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(
            f"`{name}` are finite numbers, or NaN where missing, but {float(tensor[row, column])} came in the column "
            f"{columns[column]!r} {where(row)}; {_counted(len(wrong), 'such entry', 'such entries')}. {tensor.dtype} "
            f"holds numbers up to {torch.finfo(tensor.dtype).max:.2g}: larger ones need a wider `dtype`, or another "
            "unit."
        )


def check_all_bounded(series: Series) -> None:
    """No value, input or static covariate is infinite."""
    check_bounded("values", series.values, series.channels, lambda row: row_of(series, row))
    if series.inputs is not None:
        check_bounded("inputs", series.inputs, series.input_names, lambda row: row_of(series, row))
    if series.static is not None:
        check_bounded("static", series.static, series.static_names, lambda one: f"in {name_of(one, series.ids)}")


def row_of(series: Series, row: int) -> str:
    """``at the time 3.0 (row 7), in series 2``."""
    return f"at the time {float(series.times[row])} (row {row}), in {name_of(int(series.rows[row]), series.ids)}"


def names(kind: str, given: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The names of the columns; numbered where none were given."""
    if given is None:
        return tuple(f"{kind} {i}" for i in range(count))
    chosen = (given,) if isinstance(given, str) else tuple(map(str, given))
    if len(chosen) != count or len(set(chosen)) != count:
        raise ValueError(f"{count} different names are wanted for the {kind}s, but {list(chosen)} came.")
    return chosen


def one_of(argument: str, value: str, choices: Sequence[str]) -> None:
    """``value`` is one of the words."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        raise ValueError(f"`{argument}` is one of {', '.join(map(repr, choices))}, but {value!r} came.{hint}")


def check_columns(
    argument: str, wanted: Iterable[Any], present: Iterable[Any], lacks: str = "the table has no column"
) -> None:
    """Every column is there.

    Raises:
        ValueError: With the closest name.
    """
    there = list(present)
    for column in wanted:
        if column not in there:
            close = difflib.get_close_matches(str(column), list(map(str, there)), n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"`{argument}`: {lacks} {column!r}.{hint} Its {lacks.split()[-1]}s: {', '.join(map(str, there))}."
            )


def check_ids_alike(ids: np.ndarray | Sequence[Any]) -> np.ndarray:
    """Names are all numbers or all text: arrays and files would turn ``1`` into ``"1"`` beside text."""
    given = ids.tolist() if isinstance(ids, np.ndarray) and ids.dtype == object else ids
    if not isinstance(given, np.ndarray) and len({isinstance(name, str) for name in given}) > 1:
        raise TypeError(f"`ids` are all text or none is, but both came, as {list(given)[:3]}. Use map(str, ids).")
    return np.asarray(ids)


def check_ids(wanted: Sequence[Any], present: Mapping[Any, int]) -> None:
    """Every name is that of a series."""
    for name in wanted:
        if name not in present:
            texts = {str(other): other for other in present} if isinstance(name, str) else {}
            close = difflib.get_close_matches(str(name), list(texts), n=1, cutoff=0.5)
            some = ", ".join(map(repr, list(present)[:5]))
            hint = (
                f" Did you mean {texts[close[0]]!r}?" if close else f" The first of the {len(present)} names: {some}."
            )
            raise ValueError(f"No series is called {name!r}.{hint}")
