"""Linear systems of which only products are known: GMRES, and Jacobians as products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def gmres(apply: Product, b: Tensor, *, rtol: float, most: int = 200) -> Tensor:
    """``(rows, *)``: the solutions of ``apply(x) = b``, each row a system of its own.

    The least residual over the Krylov space, with vectors made orthogonal twice; no restarts.

    Args:
        apply: a linear function that does not mix rows.
        b: ``(rows, *)``.
        rtol: the residual wanted, relative to ``b``.
        most: the largest dimension of the space.

    References:
        Saad and Schultz (1986), GMRES: a generalized minimal residual algorithm for nonsymmetric linear systems.
    """
    shape, rows = b.shape, len(b)
    flat = b.reshape(rows, -1)
    size = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    tiny = torch.finfo(b.dtype).tiny
    space = [flat / size.clamp_min(tiny)]
    columns: list[Tensor] = []
    y = flat.new_zeros(rows, 0)
    for k in range(1, min(most, flat.shape[1]) + 1):
        w = apply(space[-1].reshape(shape)).reshape(rows, -1)
        basis = torch.stack(space, 1)
        parts = flat.new_zeros(rows, k)
        for _ in range(2):
            along = torch.linalg.vecdot(basis, w.unsqueeze(1))
            w, parts = w - torch.matmul(along.unsqueeze(1), basis).squeeze(1), parts + along
        left = torch.linalg.vector_norm(w, dim=1, keepdim=True)
        columns.append(torch.cat([parts, left], 1))
        space.append(w / left.clamp_min(tiny))
        y, residual = _least(columns, size)
        if bool((residual <= rtol * size).all()):
            break
    return torch.matmul(y.unsqueeze(1), torch.stack(space[: y.shape[1]], 1)).reshape(shape)


def _least(columns: Sequence[Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients ``(rows, k)`` with the least residual, and its size ``(rows, 1)``."""
    k = len(columns)
    h = torch.stack([torch.nn.functional.pad(c, (0, k + 1 - c.shape[1])) for c in columns], 2)
    target = torch.nn.functional.pad(size, (0, k)).unsqueeze(-1)
    y = torch.matmul(torch.linalg.pinv(h), target)
    return y.squeeze(-1), torch.linalg.vector_norm(target - torch.matmul(h, y), dim=1)


class Products:
    """Products with the Jacobians at some points, without the Jacobians.

    Args:
        rates: ``(rows, size)`` each, with their graphs.
        xs: the points that they were made at.
    """

    def __init__(self, rates: Sequence[Tensor], xs: Sequence[Tensor]) -> None:
        self.points = []
        for rate, x in zip(rates, xs, strict=True):
            weights = torch.zeros_like(rate, requires_grad=True)
            pulled = _product(rate, x, weights, graph=True)
            self.points.append((rate, x, weights, pulled))

    def forth(self, v: Tensor) -> Tensor:
        """``J_i v_i`` for ``v`` ``(rows, stages, size)``: ``J^T w`` is linear in ``w``, and its derivative is ``J``."""
        found = [_product(pulled, weights, v[:, i]) for i, (_, _, weights, pulled) in enumerate(self._for(v))]
        return torch.stack(found, 1)

    def back(self, v: Tensor) -> Tensor:
        """``J_i^T v_i``."""
        return torch.stack([_product(rate, x, v[:, i]) for i, (rate, x, _, _) in enumerate(self._for(v))], 1)

    def _for(self, v: Tensor) -> Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]:
        return self.points * v.shape[1] if len(self.points) == 1 else self.points


def _product(y: Tensor, x: Tensor, weights: Tensor, *, graph: bool = False) -> Tensor:
    """``weights^T dy/dx``; zero where there is no path."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(y, x, weights, retain_graph=True, create_graph=graph, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


class Solved(torch.autograd.Function):
    """``x`` with ``apply(x) = b``; its derivative solves the transposed system, and so do the derivatives of that."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, apply: Product, transposed: Product, rtol: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.functions = apply, transposed, rtol
        return gmres(apply, b, rtol=rtol)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        apply, transposed, rtol = ctx.functions
        return Solved.apply(g, transposed, apply, rtol), None, None, None
