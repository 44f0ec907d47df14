"""Cotangents batched by vmap, as torch.func.jacrev makes them, for a backward pass that has to read values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Grads = Sequence[Tensor | None]


def entry_by_entry(backward: Callable[[Grads], Grads], cotangents: Grads) -> Grads:
    """``backward(cotangents)``; where they are batched, of one entry after the other, and the results batched again.

    Args:
        backward: from cotangents to gradients.
        cotangents: None is zero.
    """
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    batched = [g for g in cotangents if g is not None and functorch.is_batchedtensor(g)]
    if not batched:
        return backward(cotangents)
    level = max(functorch.maybe_get_level(g) for g in batched)
    whole = {id(g): _rows(g) for g in batched if functorch.maybe_get_level(g) == level}
    size = len(next(iter(whole.values())))
    found = [
        entry_by_entry(backward, [whole[id(g)][i] if id(g) in whole else g for g in cotangents]) for i in range(size)
    ]
    return [_joined(column, level) for column in zip(*found, strict=True)]


def _rows(g: Tensor) -> Tensor:
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return functorch.get_unwrapped(g).movedim(functorch.maybe_get_bdim(g), 0)


def _joined(column: Grads, level: int) -> Tensor | None:
    some = next((g for g in column if g is not None), None)
    if some is None:
        return None
    rows = torch.stack([torch.zeros_like(some) if g is None else g for g in column])
    return torch._C._functorch._add_batch_dim(rows, 0, level)  # pyright: ignore[reportAttributeAccessIssue]
