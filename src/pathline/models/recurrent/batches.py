"""Batches and times as models are handed them, and what is wrong with them in words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pathline.data.series.checking import names


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
    check_same(observed, target, "target")
    mine, theirs = observed.channels, target.channels
    if len(mine) == len(theirs) and mine != theirs and _named(mine) and _named(theirs):
        raise ValueError(
            f"A pair (observed, target) has the same channels in the same order, but observed has {mine} and target "
            f"{theirs}. Build both with the same `values` or `channels`."
        )
    return observed, target


def check_same(observed: Any, other: Any, name: str) -> None:
    """Both hold the same series, as far as their ids say.

    Raises:
        ValueError: They don't.
    """
    if len(observed.lengths) != len(other.lengths):
        raise ValueError(
            f"`{name}` is a Series over the same {len(observed.lengths)} series as what is observed, but it "
            f"holds {len(other.lengths)}."
        )
    mine, theirs = (None if series.ids is None else series.ids.tolist() for series in (observed, other))
    if mine is None or theirs is None or mine == theirs:
        return
    first = next(number for number, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
    raise ValueError(
        f"`{name}` holds the same series in the same order as what is observed, but series {first} is "
        f"{mine[first]!r} there and {theirs[first]!r} in `{name}`. Order it by {name}.by_id(*observed.ids)."
    )


def _named(channels: tuple[str, ...]) -> bool:
    """Whether somebody gave the names; those that a Series makes up are numbers."""
    return channels != names("channel", None, len(channels))


def query(t: Any, observed: Any) -> Any:
    """Times that are asked for: a tensor ``(T,)``, or a ``Series`` over the same series.

    Raises:
        TypeError: ``t`` is no list of numbers.
        ValueError: Times of another shape, times that are not finite, or other series.
    """
    if hasattr(t, "lengths"):
        check_same(observed, t, "t")
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
