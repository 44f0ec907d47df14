"""A column of a table as times: numbers as they are, dates and durations counted in a unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pathline.data.series import checking, converting

_SECONDS = {
    "seconds": 1.0,
    "minutes": 60.0,
    "hours": 3600.0,
    "days": 86_400.0,
    "weeks": 604_800.0,
    "years": 365.25 * 86_400.0,
}


def times_of(column: Any, name: str, unit: str | None) -> np.ndarray:
    """The times ``(M,)``, of dates since 1970-01-01 UTC; NaN where the cell is empty.

    Raises:
        TypeError: For text, and whatever else is neither number nor date.
        ValueError: For dates without a unit, or numbers with one.
    """
    if unit is not None:
        checking.one_of("unit", unit, tuple(_SECONDS))
    kind = column.dtype.kind
    if kind in "mM":
        if unit is not None:
            return _seconds(column) / _SECONDS[unit]
        raise ValueError(
            f"`time`: the column {name!r} holds {'durations' if kind == 'm' else 'dates'}. Say in which unit to count "
            'them, as in Series.from_table(..., unit="days").'
        )
    if kind not in "iufb":
        raise TypeError(
            f"`time`: the column {name!r} holds {column.dtype}, but numbers or dates are wanted. "
            f"Turn text into dates first: table[{name!r}] = pandas.to_datetime(table[{name!r}]); periods have "
            f"table[{name!r}].dt.to_timestamp()."
        )
    if unit is not None:
        raise ValueError(
            f"`unit` counts dates, but the column {name!r} holds numbers. Leave `unit` out. Another unit of numbers: "
            "series.with_time_unit(365.25)."
        )
    if kind == "f" or column.isna().any():
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return converting.as_floating("times", column, torch.float64).numpy()


def _seconds(column: Any) -> np.ndarray:
    """Of durations, or of dates since 1970, in the resolution that they have: nanoseconds end in the year 2262."""
    if column.dtype.kind == "m":
        return column.dt.total_seconds().to_numpy(np.float64)
    zone = getattr(getattr(column.dtype, "pyarrow_dtype", column.dtype), "tz", None)
    stamps = (column if zone is None else column.dt.tz_convert("UTC").dt.tz_localize(None)).to_numpy()
    if stamps.dtype.kind != "M":
        stamps = stamps.astype("datetime64[us]")
    parts = np.timedelta64(1, "s") / np.timedelta64(1, np.datetime_data(stamps.dtype)[0])
    return np.where(np.isnat(stamps), np.nan, stamps.astype(np.int64) / parts)
