"""Classes as they come with series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pathline.data.series.checking import name_of
from pathline.models.means import mean_over_processes

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


def label_loss(logits: Tensor, series: Series, *, training: bool, of_rows: bool = False) -> Tensor:
    """The cross-entropy of labels, averaged over those that are known and over draws.

    Labels are ``(n,)``, whole numbers with -1 for unknown; or ``(n, classes)``, each 0, 1 or NaN for unknown.

    Args:
        logits: ``(S, n, classes)``.
        series: Whose labels they are.
        training: Whether the average is over all processes, as in `mean_over_processes`.
        of_rows: Whether those of the rows are meant, ``(N,)`` or ``(N, classes)``.
    """
    labels, classes = series.row_labels if of_rows else series.labels, logits.shape[-1]
    if labels is None:
        raise ValueError("A classifier is trained with labels, but the series have none. Set `labels` or `row_labels`.")
    if labels.dim() == 1 and not (labels.is_floating_point() and classes == 1):
        numbers = class_numbers(labels, classes, series, series.rows if of_rows else None).repeat(len(logits))
        each = F.cross_entropy(logits.flatten(0, 1), numbers, ignore_index=-1, reduction="sum")
        return mean_over_processes(each, (numbers >= 0).sum(), training=training)
    if labels.numel() != logits[0].numel() or bool(((labels < 0) | (labels > 1)).any()):
        raise ValueError(
            f"`{'row_labels' if of_rows else 'labels'}` are the numbers of classes, ({logits.shape[1]},), or one label "
            f"for each, {tuple(logits.shape[1:])}, that is 0, 1 or NaN for unknown; but shape {tuple(labels.shape)} "
            f"with values from {float(labels.nan_to_num(0.0).min()):g} to {float(labels.nan_to_num(0.0).max()):g} came."
        )
    labels = labels.reshape(logits.shape[1:]).to(logits.dtype).expand_as(logits)
    known = ~labels.isnan()
    each = F.binary_cross_entropy_with_logits(logits, torch.where(known, labels, 0.0), reduction="none")
    return mean_over_processes(torch.where(known, each, 0.0).sum(), known.sum(), training=training)
