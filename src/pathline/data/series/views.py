"""Ragged rows seen as rectangles: by their number in the series, or by their time among all times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathline.data.series.series import Series


@dataclass(frozen=True)
class _Rectangle:
    times: Tensor
    values: Tensor
    mask: Tensor
    present: Tensor
    inputs: Tensor | None
    series: Tensor
    index: Tensor

    def align(self, tensor: Tensor, *, time_first: bool = False) -> Tensor:
        """What stands at the rows, ``(N, ...)``, in a tensor that begins with the shape of ``present``.

        Args:
            tensor: ``(n, columns, ...)``.
            time_first: Whether it is ``(columns, n, ...)``, as a solve at the times of a union returns it.

        Raises:
            ValueError: For another shape.
        """
        shape = tuple(self.present.shape)
        wanted = shape[::-1] if time_first else shape
        if tuple(tensor.shape[:2]) != wanted:
            order = "times first" if time_first else "series first"
            raise ValueError(
                f"`align` takes a tensor whose shape begins with {wanted} ({order}), but {tuple(tensor.shape)} came."
            )
        return tensor[self.index, self.series] if time_first else tensor[self.series, self.index]


class Padded(_Rectangle):
    """Row ``j`` of each series stands in column ``j``; short series end early. *Maturing.*

    Attributes:
        times: ``(n, L)``; after the end of a series its last time goes on, so that no gap appears there.
        values: ``(n, L, D)``, 0 where nothing was observed.
        mask: ``(n, L, D)``, whether a value was observed.
        present: ``(n, L)``, whether the series has a row here.
        inputs: ``(n, L, K)``, 0 beyond the end, or None.
        series: ``(N,)``, the series of each row.
        index: ``(N,)``, the column of each row.
    """


class Union(_Rectangle):
    """Each distinct time of all the series has its column. *Maturing.*

    The rectangle has ``n T D`` entries, and with times of its own in each series ``T`` is as long as all the rows: it
    is a view for batches.

    Attributes:
        times: ``(T,)``, increasing.
        values: ``(n, T, D)``, 0 where nothing was observed.
        mask: ``(n, T, D)``, whether a value was observed.
        present: ``(n, T)``, whether the series has a row at this time.
        inputs: ``(n, T, K)``, 0 where the series has no row, or None.
        series: ``(N,)``, the series of each row.
        index: ``(N,)``, the column of each row.
    """


def padded(series: Series) -> Padded:
    """The rows by their number in the series."""
    shape = len(series), int(series.lengths.max()) if len(series) else 0
    clock = series.times.new_zeros(shape)
    clock[series.rows, series.places] = series.times
    if shape[1]:
        last = (series.lengths - 1).clamp_min(0)
        # the entry in the last column that the series has, repeated behind it
        columns = torch.minimum(torch.arange(shape[1], device=clock.device).expand(shape), last[:, None])
        clock = clock.gather(1, columns)
    return Padded(clock, *_laid_out(series, series.places, shape))


def union(series: Series) -> Union:
    """The rows by their time among all times."""
    distinct, index = torch.unique(series.times, sorted=True, return_inverse=True)
    return Union(distinct, *_laid_out(series, index, (len(series), len(distinct))))


def _laid_out(series: Series, column: Tensor, shape: tuple[int, int]) -> tuple[Any, ...]:
    """Values, mask, presence and inputs in a rectangle; and the place of each row there."""
    place, values, observed, inputs = (series.rows, column), series.values, series.mask, series.inputs
    filled = values.new_zeros(*shape, *values.shape[1:]).index_put(place, values.nan_to_num(0.0))
    mask = observed.new_zeros(*shape, *values.shape[1:]).index_put(place, observed)
    present = mask.new_zeros(shape)
    present[place] = True
    given = None if inputs is None else inputs.new_zeros(*shape, inputs.shape[1]).index_put(place, inputs)
    return filled, mask, present, given, *place


def aligned(series: Series, tensor: Tensor) -> Tensor:
    """What stands at the rows in a rectangle of either view.

    Raises:
        ValueError: For a shape that is neither's, or both.
    """
    longest = int(series.lengths.max()) if len(series) else 0
    if tensor.shape[:2] == (len(series), longest):
        shared = torch.unique(series.times)
        if len(shared) == longest and bool((series.lengths < longest).any()):
            raise ValueError(
                "The padded and the union view of these series have the same shape, so `align` cannot tell which "
                "this is. Use series.padded().align(...) or series.union().align(...)."
            )
        return tensor[series.rows, series.places]
    distinct, index = torch.unique(series.times, return_inverse=True)
    if tensor.shape[:2] != (len(series), len(distinct)):
        raise ValueError(
            f"`align` takes a tensor of shape ({len(series)}, {longest}, ...), as padded() has, or "
            f"({len(series)}, {len(distinct)}, ...), as union() has, but {tuple(tensor.shape)} came."
        )
    return tensor[series.rows, index]
