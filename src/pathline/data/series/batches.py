"""Batches of series: shuffled as a pure function of the step, and collated for a ``DataLoader``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import default_collate

if TYPE_CHECKING:
    from pathline.data.series.series import Series


def place() -> tuple[int, int]:
    """The rank of this process and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def shuffled(series: Series, size: int, seed: int, drop_last: bool) -> Callable[[int], Series]:
    """The batch of each step: every epoch has its own permutation, and each batch is dealt out by rank."""
    count = len(series)
    if not 1 <= size <= count:
        raise ValueError(f"`size` has to lie between 1 and the number of series, {count}; {size} came.")
    per_epoch = count // size if drop_last else -(-count // size)

    def batch(step: int) -> Series:
        epoch, position = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)[position * size : (position + 1) * size]
        rank, world = place()
        return series[order[rank::world]]

    return batch


def collated(kind: type[Series], items: Any) -> Any:
    """A batch of what a ``DataLoader`` fetched: series, or tuples and dicts that contain series."""
    if isinstance(items, kind):
        return items
    if not isinstance(items, Sequence) or not items:
        raise TypeError(f"`Series.collate` takes a list of what the data set returned, but {items!r} came.")
    first = items[0]
    if isinstance(first, kind):
        return kind.cat(items)
    if isinstance(first, tuple):
        return tuple(collated(kind, list(column)) for column in zip(*items, strict=True))
    if isinstance(first, dict):
        return {key: collated(kind, [item[key] for item in items]) for key in first}
    return default_collate(list(items))
