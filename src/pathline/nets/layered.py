"""Derivatives of layered networks in closed form: along tangents, and the trace of the whole Jacobian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def trace(weights: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    r"""The trace $\mathrm{tr}(W_n S_{n-1} W_{n-1} \cdots S_1 W_1)$ for each sample, without a Jacobian.

    One hidden layer costs a product of a vector with the slopes, two cost one matrix product, whatever the size; from
    three on the columns of $W_1$ pass through the layers between the first and the last.

    Args:
        weights: The matrices, the first ``(hidden, size)``, the last ``(size, hidden)``.
        slopes: Of the activations between them, ``(batch, hidden)`` each.

    Returns:
        ``(batch,)``; 0-d without hidden layers.
    """
    first = weights[0]
    if torch.is_autocast_enabled(first.device.type):
        # Slopes come in the narrow dtype then, which is too coarse for a log-density.
        with torch.autocast(first.device.type, enabled=False):
            return _trace(weights, [slope.to(first.dtype) for slope in slopes])
    return _trace(weights, slopes)


def _trace(weights: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    first, *middle, last = weights if len(weights) > 1 else (weights[0], weights[0])
    if not slopes:
        return first.diagonal().sum()
    if not middle:
        return torch.mv(slopes[0], (first * last.T).sum(1))
    if len(middle) == 1:
        return ((slopes[0] @ ((first @ last) * middle[0].T)) * slopes[1]).sum(-1)
    v = first.T.unsqueeze(1) * slopes[0]
    for weight, slope in zip(middle[:-1], slopes[1:-1], strict=True):
        v = (v @ weight.T) * slope
    return ((v @ middle[-1].T * last.unsqueeze(1)).sum(0) * slopes[-1]).sum(-1)
