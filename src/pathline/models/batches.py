"""Batches and times as models are handed them, and what is wrong with them in words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pathline.data.series.scaling import numbered, same


def check_series(series: Any) -> Any:
    """``series``, if it is one.

    Raises:
        TypeError: It is something else.
    """
    if not (hasattr(series, "lengths") and hasattr(series, "mask")):
        raise TypeError(
            f"A batch is a Series, but {type(series).__name__} came. Series.from_table takes a table, "
            "Series.from_arrays takes times and values."
        )
    return series


def check_channels(series: Any, channels: int) -> None:
    """``series`` is one, of as many channels as the model was built for.

    Raises:
        TypeError: It is something else.
        ValueError: It has another number of channels.
    """
    came = check_series(series).values.shape[-1]
    if came != channels:
        raise ValueError(
            f"The model was built for channels={channels}, but the series have {came}. Build it with channels={came}."
        )


def rows_read(series: Any, inputs: int) -> Tensor:
    """Which rows say something, ``(N,)``: those with a value, and all of them to a model that takes known inputs."""
    return torch.ones_like(series.times, dtype=torch.bool) if inputs else series.mask.any(-1)


def known(series: Any, name: str, size: int) -> Tensor:
    """Static covariates ``(n, size)`` or known inputs ``(N, size)``, zero where missing.

    Args:
        series: The batch.
        name: ``"static"`` or ``"inputs"``.
        size: How many the model was built for.

    Raises:
        ValueError: The series have another number of them.
    """
    found = getattr(series, name)
    if found is None or found.shape[-1] != size:
        came = 0 if found is None else found.shape[-1]
        raise ValueError(
            f"The model was built for {name}={size}, but the series have {came or 'none'}. Pass them as "
            f"Series(..., {name}=...), or build it with {name}={came}."
        )
    return found.nan_to_num(0.0)


def pair(batch: Any) -> tuple[Any, Any]:
    """What is observed and what is to be explained, of the same series and channels.

    Raises:
        TypeError: ``batch`` is neither a ``Series`` nor a pair of them.
        ValueError: The two don't belong together.
    """
    if not isinstance(batch, tuple | list):
        return check_series(batch), batch
    if len(batch) != 2:
        raise ValueError(f"A batch is a Series or a pair (observed, target), but {len(batch)} parts came.")
    observed, target = map(check_series, batch)
    _check_same(observed, target, "target")
    if not same(observed.scaling, target.scaling):
        raise ValueError(
            "A pair (observed, target) is standardised alike, but only one of both is, or each by numbers of its own. "
            "Standardise before the cut, or use target.standardized(observed.scaling)."
        )
    return observed, target


def _check_same(observed: Any, other: Any, name: str) -> None:
    """Both hold the same series and channels on the same clock, as far as ids, names and origins say.

    Raises:
        ValueError: They don't.
    """
    if len(observed.lengths) != len(other.lengths):
        raise ValueError(
            f"`{name}` is a Series over the same {len(observed.lengths)} series as what is observed, but it "
            f"holds {len(other.lengths)}."
        )
    _check_ids(observed, other, name)
    _check_channels(observed.channels, other.channels, name)
    _check_clock(observed, other, name)


def _check_ids(observed: Any, other: Any, name: str) -> None:
    mine, theirs = (None if series.ids is None else series.ids.tolist() for series in (observed, other))
    if mine is None or theirs is None or mine == theirs:
        return
    first = next(number for number, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
    raise ValueError(
        f"`{name}` holds the same series in the same order as what is observed, but series {first} is "
        f"{mine[first]!r} there and {theirs[first]!r} in `{name}`. Order it by {name}.by_id(*observed.ids)."
    )


def _check_channels(mine: tuple[str, ...], theirs: tuple[str, ...], name: str) -> None:
    if len(mine) == len(theirs) and mine != theirs and not numbered(mine) and not numbered(theirs):
        raise ValueError(
            f"`{name}` has the same channels in the same order as what is observed, but observed has {mine} and "
            f"{name} {theirs}. Build both with the same `values` or `channels`."
        )


def _check_clock(observed: Any, other: Any, name: str) -> None:
    if observed.time_unit != other.time_unit:
        raise ValueError(
            f"`{name}` counts time in the unit of what is observed, but `time_unit` is {observed.time_unit:g} there "
            f"and {other.time_unit:g} in `{name}`. Use {name}.with_time_unit({observed.time_unit:g})."
        )
    wrong = (observed.origin != other.origin.to(observed.origin)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"`{name}` counts time from the same zero as what is observed, but the origin of series {first} is "
            f"{float(observed.origin[first]):g} there and {float(other.origin[first]):g} in `{name}`. Shift before the "
            "cut, as in series.shifted(); times that are counted so already come with origin=observed.origin."
        )


def query(t: Any, observed: Any) -> Any:
    """Times that are asked for: a tensor ``(T,)``, or a ``Series`` over the same series.

    Raises:
        TypeError: ``t`` is no list of numbers.
        ValueError: Times of another shape, times that are not finite, or other series.
    """
    if hasattr(t, "lengths"):
        _check_same(observed, t, "t")
        return t
    try:
        times = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`t` is a tensor of times (T,), or a Series, but {type(t).__name__} came.") from error
    if times.dim() != 1:
        raise ValueError(
            f"`t` are times (T,) that all series share, but shape {tuple(times.shape)} came. For a single time pass "
            "a list of one; for times of each series' own pass a Series."
        )
    wrong = (~times.isfinite()).nonzero()
    if len(wrong):
        raise ValueError(f"`t` are finite numbers, but t[{int(wrong[0])}] is {float(times[wrong[0]])}. Leave it out.")
    return times
