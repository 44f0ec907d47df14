"""The residual network: the Euler method with a network as its rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class ResNet(nn.Module):
    r"""Residual blocks with a step size. *Maturing.*

    $$h_{k+1} = h_k + \Delta t\,f_k(h_k)$$

    One block used ``depth`` times is ``depth`` Euler steps of $\dot h = f(h)$; ``step=1/depth`` ends them at time 1.

    Args:
        blocks: One module, shared by all layers, or a sequence of modules, one a layer.
        depth: Number of layers, with a shared block; a sequence knows its own.
        step: The step size ``dt``.

    Raises:
        ValueError: A shared block without a depth, or a depth that contradicts the sequence.

    Example:
        >>> import torch
        >>> from pathline.models import ResNet
        >>> from pathline.nets import MLP
        >>> shared = ResNet(MLP(1, 1, hidden=25), depth=3)
        >>> separate = ResNet([MLP(1, 1, hidden=25) for _ in range(3)], step=1 / 3)
        >>> separate(torch.zeros(10, 1)).shape
        torch.Size([10, 1])

    References:
        K. He, X. Zhang, S. Ren, J. Sun (2016), Deep residual learning for image recognition.
    """

    def __init__(self, blocks: nn.Module | Sequence[nn.Module], depth: int | None = None, *, step: float = 1.0) -> None:
        super().__init__()
        shared = isinstance(blocks, nn.Module) and not isinstance(blocks, nn.ModuleList)
        self.blocks: Any = blocks if shared else nn.ModuleList(cast("Sequence[nn.Module]", blocks))
        count = depth if shared else len(self.blocks)
        if count is None or count < 1 or depth not in (None, count):
            raise ValueError(
                "A shared block needs `depth`, at least 1, and a sequence of blocks has its own, "
                f"but depth={depth!r} came with {'one block' if shared else f'{count} blocks'}. "
                "Three layers with one block: ResNet(block, depth=3)."
            )
        self.depth = count
        self.step = step

    def forward(self, h: Tensor) -> Tensor:
        """The state after the last block, in the shape of ``h``."""
        return self.states(h)[-1]

    def states(self, h: Tensor) -> list[Tensor]:
        """The state before the first block and after each, ``depth + 1`` tensors."""
        blocks = self.blocks if isinstance(self.blocks, nn.ModuleList) else [self.blocks] * self.depth
        states = [h]
        for block in blocks:
            states.append(torch.add(states[-1], block(states[-1]), alpha=self.step))
        return states

    def extra_repr(self) -> str:
        kind = "separate" if isinstance(self.blocks, nn.ModuleList) else "shared"
        return f"depth={self.depth} ({kind}), step={self.step:.4g}"
