"""The update of a hidden state at an observation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pathline.models.sizes import check_sizes


class GRUCell(nn.Module):
    r"""A gated recurrent unit in two halves: what depends on the input alone, and the rest. *Maturing.*

    $$r, z = \sigma(W_{r,z}\, x + U_{r,z}\, h + b), \quad
      n = \tanh(W_n x + b_n + r \odot (U_n h + c_n)), \quad
      h' = n + z \odot (h - n)$$

    The first half (``project``) is computed for all observations at once, before the recursion.

    Args:
        inputs: Size of the input.
        hidden: Size of the state.

    Example:
        >>> import torch
        >>> cell = GRUCell(3, 8)
        >>> cell(cell.project(torch.zeros(5, 3)), torch.zeros(5, 8)).shape
        torch.Size([5, 8])

    References:
        K. Cho et al. (2014), Learning phrase representations using RNN encoder-decoder for statistical machine
        translation.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        check_sizes(inputs=inputs, hidden=hidden)
        self.inputs, self.hidden = inputs, hidden
        self.input = nn.Linear(inputs, 3 * hidden)
        self.state = nn.Linear(hidden, 3 * hidden)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, as ``torch.nn.GRUCell`` does."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(self.hidden), 1 / math.sqrt(self.hidden))

    def project(self, x: Tensor) -> Tensor:
        """The input's half, ``(..., inputs)`` to ``(..., 4 hidden)``: the sums of gates and new state."""
        size = 2 * self.hidden
        sums, bias = self.input(x), self.state.bias
        recalled = bias[size:].expand(*x.shape[:-1], -1)
        return torch.cat([sums[..., :size] + bias[:size], recalled, sums[..., size:]], -1)

    def forward(self, projected: Tensor, h: Tensor) -> Tensor:
        """The state after the update, ``(m, hidden)``."""
        size = 3 * self.hidden
        return update(projected[:, :size], projected[:, size:], h, self.state.weight)[0]


def update(
    sums: Tensor, fresh: Tensor, h: Tensor, weight: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The state after the update; and for its derivative both gates, the new state and the old one's part in it."""
    size = h.shape[1]
    gates, recalled = torch.addmm(sums, h, weight.t()).split((2 * size, size), 1)
    reset, keep = gates.sigmoid().split(size, 1)
    new = torch.addcmul(fresh, reset, recalled).tanh()
    # Under autocast the gates are coarser than the state, which keeps its precision.
    return torch.lerp(new.to(h.dtype), h, keep.to(h.dtype)), (reset, keep, new, recalled)
