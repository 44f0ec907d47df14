"""Batched linear solves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathline.stats import Stats


class Factors(NamedTuple):
    """LU factors of a batch of matrices ``(rows, size, size)``, with the pivots."""

    lu: Tensor
    pivots: Tensor

    def select(self, index: Any) -> Factors:
        """Of some rows."""
        return Factors(self.lu[index], self.pivots[index])

    def replaced(self, index: Any, other: Factors) -> Factors:
        """With the factors of some rows exchanged."""
        return Factors(self.lu.index_copy(0, index, other.lu), self.pivots.index_copy(0, index, other.pivots))


def factor(matrix: Tensor, stats: Stats | None = None) -> Factors:
    """LU factors of ``(rows, size, size)``, real or complex.

    A singular matrix is no error: its solutions are infinite or NaN, and whoever asked for them sees that.

    Args:
        matrix: float32, float64, complex64, complex128, or shorter (then worked on in float32).
        stats: where the factorisation counts; a batch counts once.
    """
    if stats is not None:
        stats.factorizations += 1
    if matrix.dtype in (torch.bfloat16, torch.float16):
        matrix = matrix.float()
    lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    return Factors(lu, pivots)


def solve(factors: Factors, b: Tensor) -> Tensor:
    """``(rows, size)``: the solutions of ``matrix x = b``, in the dtype of ``b``."""
    x = torch.linalg.lu_solve(factors.lu, factors.pivots, b.to(factors.lu.dtype).unsqueeze(-1)).squeeze(-1)
    return x.to(b.dtype)
