"""The decoder of the RNN-VAE: a recurrence where the latent ODE has a solver."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class Recursion(nn.Module):
    r"""A gated recurrent unit goes from each requested time to the next, and is told how long that is.

    $$z_i = \mathrm{GRU}(z_{i-1},\, t_i - t_{i-1})$$

    Unlike a flow it depends on which times are asked for.

    Args:
        size: Of the state.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.network = nn.GRU(1, size)

    def solve(self, y0: Tensor, t: Tensor, *, args: Any = None) -> Any:
        """States at the times, ``(T, n, size)``, as ``.ys``; the first is ``y0``."""
        gaps = t.diff().to(y0)[:, None, None].expand(-1, len(y0), 1)
        states, _ = self.network(gaps, y0.unsqueeze(0).contiguous())
        return SimpleNamespace(ys=torch.cat([y0.unsqueeze(0), states]))
