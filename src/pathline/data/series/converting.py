"""Lists, arrays, columns and masked arrays as tensors, of which none loses a number in silence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series import checking


def check_dtype(dtype: torch.dtype | None) -> None:
    """Missing is NaN, which only floating types have."""
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(
            f"`dtype` is a floating type, as missing values are NaN, but {dtype} came. Choose torch.float32 or "
            "torch.float64; labels keep their own type."
        )


def plain(data: Any) -> Any:
    """What ``torch.as_tensor`` takes: masked entries become NaN, tables and columns their values.

    Raises:
        TypeError: For dates and durations.
    """
    kind = getattr(data, "dtype", None)
    if getattr(kind, "kind", "") in ("m", "M"):
        raise TypeError(
            f"{kind} is no number. Count in a unit: (t - t[0]) / numpy.timedelta64(1, 'D'); tables do so by "
            'Series.from_table(..., unit="days").'
        )
    if isinstance(data, np.ma.MaskedArray):
        # a mask says missing, as NaN does
        data = np.ma.filled(data.astype(np.result_type(data.dtype, np.float32)), np.nan)
    elif hasattr(data, "to_numpy"):
        column, data = data, data.to_numpy()
        data = column.to_numpy(dtype=np.float64, na_value=np.nan) if data.dtype == object else data
    # torch warns of arrays that cannot be written to
    return np.require(data, requirements=["C", "W"]) if isinstance(data, np.ndarray) else data


def as_floating(name: str, data: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a floating tensor; whole numbers get torch's default type.

    Raises:
        TypeError: For anything else than real numbers.
        ValueError: For whole times that double precision would change.
    """
    check_dtype(dtype)
    try:
        if isinstance(data, list | tuple) and len(data) and isinstance(data[0], Tensor) and data[0].dim():
            data = torch.stack(list(data))
        tensor = torch.as_tensor(plain(data))
        if tensor.is_floating_point() and not hasattr(data, "dtype"):
            # Python's own numbers are double precision, and torch would round them to its default type
            dtype = tensor.dtype if dtype is None else dtype
            tensor = torch.as_tensor(data, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`{name}` are numbers, but {type(data).__name__} came: {error}") from error
    if tensor.is_complex():
        raise TypeError(f"`{name}` are real numbers, but {tensor.dtype} came.")
    if dtype is None:
        dtype = tensor.dtype if tensor.is_floating_point() else torch.get_default_dtype()
    if name == "times" and not tensor.is_floating_point():
        _check_exact(tensor)
    return tensor.to(dtype)


def beside(name: str, data: Any, count: int, what: str, values: Tensor, dims: int | None = None) -> Tensor | None:
    """What travels beside the values: one entry a row, or one a series, on their device.

    Raises:
        ValueError: For another shape.
    """
    if data is None:
        return None
    if dims == 2:
        tensor = as_floating(name, data, values.dtype)
    elif isinstance(data, np.ma.MaskedArray) and data.dtype.kind in "biu":
        tensor = torch.as_tensor(np.ma.filled(data.astype(np.int64), -1))
    else:
        tensor = _of_numbers(name, data)
    checking.check_rows(name, tensor, count, what, dims)
    return tensor.to(values.device)


def _of_numbers(name: str, data: Any) -> Tensor:
    try:
        return torch.as_tensor(plain(data))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`{name}` are numbers, but {type(data).__name__} came: {error}. Words become numbers by "
            "pandas.factorize(words)[0]."
        ) from error


def warn_rounded(values: np.ndarray, dtype: torch.dtype, channels: Sequence[str]) -> None:
    """Warn of channels whose variation is lost in the type that values get by default.

    Args:
        values: ``(N, D)``, in double precision.
        dtype: What they are about to become.
        channels: Names of the columns.
    """
    there = np.isfinite(values)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, values, 0.0).sum(0) / count
    spread = np.sqrt(np.square(np.where(there, values - mean, 0.0)).sum(0) / count)
    step = np.abs(mean) * torch.finfo(dtype).eps
    lost = (spread > 1e-12 * np.abs(mean)) & (spread < 32 * step)
    for column in np.flatnonzero(lost).tolist():
        warnings.warn(
            f"The channel {channels[column]!r} varies by {spread[column]:.2g} around {mean[column]:.9g}, where {dtype} "
            f"has steps of {step[column]:.1g}. Read it with dtype=torch.float64, standardize, then "
            "series.to(torch.float32).",
            stacklevel=4,
        )


def _check_exact(times: Tensor) -> None:
    """Double precision tells all whole numbers up to 9e15 apart, and nanoseconds since 1970 are beyond."""
    changed = times[times.double().to(times.dtype) != times]
    if len(changed):
        first = int(changed[0])
        raise ValueError(
            f"`times` are kept in double precision, in which {first} becomes {int(float(first))}: neighbours fall "
            "together. Subtract an origin from the whole numbers first, as in (times - times[0]) / 1e9."
        )
