"""What torch.func asks of a backward pass that has to read values, or that is not differentiated by the times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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


def once_by(t: Tensor, grads: Grads) -> Grads:
    """Gradients that are no functions of the times ``t``: to differentiate them in turn is an error.

    torch.func.grad always asks for a graph and seldom differentiates it, so the error waits until it does.
    """
    found = iter(_Once.apply(t, *(g for g in grads if g is not None)))  # pyright: ignore[reportArgumentType]
    return [None if g is None else next(found) for g in grads]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(t: Tensor, *grads: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(g.clone() for g in grads)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError(
            'Second derivatives of a solve whose `t` is differentiated are not offered by gradient="adjoint". Use '
            'gradient="checkpointed", or pass t.detach().'
        )
