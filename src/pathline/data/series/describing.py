"""A series in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathline.data.series.series import Series


def described(series: Series) -> str:
    """What ``repr`` says."""
    names = series.channels if len(series.channels) <= 4 else (*series.channels[:3], "...")
    plural = "" if len(series.channels) == 1 else "s"
    text = f"{len(series)} series of {len(series.channels)} channel{plural} ({', '.join(names)}), "
    text += f"{len(series.times)} rows"
    if len(series.times):
        low, high = int(series.lengths.min()), int(series.lengths.max())
        text += f" ({low} a series)" if low == high else f" ({low} to {high} a series)"
        missing = 100 * float(series.values.isnan().double().mean())
        text += f", {missing:.2g} % missing" if missing else ""
        text += f", times {float(series.times.min()):.6g} to {float(series.times.max()):.6g}"
        text += f" (in units of {series.time_unit:g})" if series.time_unit != 1.0 else ""
    for name in ("static", "inputs", "labels", "row_labels"):
        tensor = getattr(series, name)
        text += "" if tensor is None else f", {name} {tuple(tensor.shape)}"
    text += ", standardized" if series.scaling is not None else ""
    return f"Series({text})"
