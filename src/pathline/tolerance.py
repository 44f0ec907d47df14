"""What an error is measured against."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """``atol + rtol |y|``, and the root mean square of what is measured in it.

    Attributes:
        rtol, atol: numbers, or tensors that broadcast to the flat state.
        per_sample: whether each row of a batch is measured by itself.
    """

    rtol: float | Tensor
    atol: float | Tensor
    per_sample: bool = False

    def scale(self, y0: Tensor, y1: Tensor) -> Tensor:
        """``atol + rtol max(|y0|, |y1|)``, in the shape of the state."""
        scale = torch.maximum(y0.abs(), y1.abs()).mul_(self.rtol).add_(self.atol)
        if isinstance(self.atol, Tensor) or self.atol == 0.0:
            scale.clamp_min_(torch.finfo(scale.dtype).tiny)  # no tolerance at zero: 0/0 must not read as failure
        return scale

    def resolution(self, y: Tensor) -> Tensor:
        """What equations of a step are solved to, in the shape of the state."""
        return self.scale(y, y)

    def norm(self, scaled: Tensor) -> float | Tensor:
        """The root mean square: a number, or one for each sample ``(rows,)``."""
        if self.per_sample:
            return self.norms(scaled)
        n = scaled.numel()
        return torch.linalg.vector_norm(scaled).item() / math.sqrt(n) if n else 0.0

    def norms(self, scaled: Tensor) -> Tensor:
        """The root mean square of each row of the first dimension, ``(rows,)``, in double precision."""
        flat = scaled.reshape(len(scaled), -1)
        return torch.linalg.vector_norm(flat, dim=1).double() / math.sqrt(max(flat.shape[1], 1))

    def select(self, index: Tensor) -> Tolerance:
        """The tolerance of some rows."""

        def rows(value: float | Tensor) -> float | Tensor:
            return value[index] if isinstance(value, Tensor) and value.dim() and len(value) > 1 else value

        return replace(self, rtol=rows(self.rtol), atol=rows(self.atol))
