"""The zero and the unit in which a series counts its times; original times are ``origin + time_unit * times``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pathline.data.series import checking, converting

if TYPE_CHECKING:
    from pathline.data.series.series import Series


def original(series: Series) -> Tensor:
    """The times as they were before any shift and in their first unit, ``(N,)``."""
    return series.times * series.time_unit + series.origin[series.rows]


def shifted(series: Series, origin: Any) -> dict[str, Any]:
    """Another zero for each series, in the present unit."""
    zero = series.starts.nan_to_num(0.0) if origin is None else converting.as_floating("origin", origin, torch.float64)
    if zero.dim() > 0 and zero.shape != series.lengths.shape:
        raise ValueError(
            f"`origin` is a number or one entry a series, ({len(series)},), but shape {tuple(zero.shape)} came."
        )
    zero = zero.to(series.device).expand(len(series))
    wrong = (~zero.isfinite()).nonzero()
    if len(wrong):
        which = int(wrong[0])
        raise ValueError(
            f"`origin` is a finite number, but {float(zero[which])} came for {checking.name_of(which, series.ids)}. "
            "Where a series has no rows, any number serves: series.shifted(past.starts.nan_to_num(0.0))."
        )
    times = _apart(series, series.times - zero[series.rows], "origin")
    return {"times": times, "origin": series.origin + series.time_unit * zero}


def in_unit(series: Series, unit: float) -> dict[str, Any]:
    """The same moments counted in ``unit`` original units."""
    unit = checked_unit(unit)
    return {"times": _apart(series, series.times * series.time_unit / unit, "unit"), "time_unit": unit}


def checked_unit(unit: Any) -> float:
    """A positive number.

    Raises:
        TypeError: For something else than a number.
        ValueError: For zero, a negative number, NaN or infinity.
    """
    try:
        number = float(unit)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`time_unit` is how many of the original units make one, such as 365.25 for years out of days, but "
            f"{unit!r} came."
        ) from error
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError(
            f"`time_unit` is a finite number above 0, such as 365.25 for years out of days; {unit!r} came."
        )
    return number


def _apart(series: Series, times: Tensor, argument: str) -> Tensor:
    """Times that are still finite and different."""
    remedy = f"Double precision does not tell them apart with this `{argument}`, but it did before."
    checking.check_times(times, series.rows, series.ids, remedy)
    return times
