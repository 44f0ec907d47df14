"""Means of a loss, over one process or over all that train together."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def together(*, training: bool) -> bool:
    """Whether several processes train one model, each on its share of a batch."""
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    return shared and training and torch.is_grad_enabled()


def tied(loss: Tensor, model: nn.Module) -> Tensor:
    """A loss in which every parameter has a part, while several processes train.

    They wait for each other at every gradient, and a small share of a batch may not need all parameters: series of one
    row have no gaps.
    """
    if not together(training=model.training):
        return loss
    return loss + sum((0.0 * p).sum() for p in model.parameters())


def mean_over_processes(total: Tensor, count: Tensor, *, training: bool) -> Tensor:
    """A sum as a mean, such that the mean over the processes is the mean over all that any of them holds.

    Gradients of several processes are averaged. If each took the mean over its own values, those of a process with few
    would count for more; so in training all have to ask together, as they do for the gradients.
    """
    if together(training=training):
        count = count.to(torch.float64, copy=True)
        torch.distributed.all_reduce(count)
        world = torch.distributed.get_world_size()
        return total / (count.clamp_min(1) / world).to(total.dtype)
    return total / count.clamp_min(1)
