"""Classes as they come with series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pathline.data.series.checking import name_of

if TYPE_CHECKING:
    from pathline.data import Series


def class_numbers(labels: Tensor, classes: int, series: Series, rows: Tensor | None = None) -> Tensor:
    """Labels as whole numbers, -1 where the class is unknown.

    Args:
        labels: ``(n,)``, or ``(N,)`` of rows.
        classes: Number of classes.
        series: Whose labels they are.
        rows: ``(N,)``, the series of each label of a row.

    Raises:
        ValueError: A label that is no class.
    """
    name = "labels" if rows is None else "row_labels"
    if labels.dim() != 1:
        raise ValueError(
            f"`{name}` hold one class {'a series' if rows is None else 'a row'}, ({len(labels)},), but shape "
            f"{tuple(labels.shape)} came."
        )
    numbers = labels.nan_to_num(-2.0).long() if labels.is_floating_point() else labels.long()
    wrong = ((numbers != labels) | (numbers < -1) | (numbers >= classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        place = name_of(first if rows is None else int(rows[first]), series.ids)
        place += "" if rows is None else f", row {first},"
        raise ValueError(
            f"`{name}` are whole numbers from 0 to {classes - 1}, or -1 where the class is unknown, but {place} has "
            f"{labels[first].item()!r}; {len(wrong)} such in all. Number the classes from 0; -1 is for empty cells."
        )
    return numbers
