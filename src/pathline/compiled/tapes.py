"""How compiled programs are differentiated: one by one under autograd, or from a record of what their kernels saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pathline.compiled.kernels import Pair
from pathline.gradients.base import aliases
from pathline.solvers.runge_kutta import product


class Operation(torch.autograd.Function):
    """A compiled program as a differentiable operation."""

    @staticmethod
    def forward(ctx: Any, pair: Pair, *tensors: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        outputs, saved = pair.forward(tensors)
        ctx.pair, ctx.count = pair, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(x for i, x in enumerate(outputs) if i not in pair.pulled))
        ctx.others = [None if isinstance(x, Tensor) else x for x in saved]
        ctx.save_for_backward(*tensors, *(x for x in saved if isinstance(x, Tensor)))
        ctx.likes = [(outputs[i].shape, outputs[i].dtype, outputs[i].device) for i in pair.pulled]
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pair: Pair = ctx.pair
        given = [cotangents[i] for i in pair.pulled]
        tensors = ctx.saved_tensors[: ctx.count]
        if torch.is_grad_enabled():
            names = [x for x in aliases(tensors, True) if x is not None]
            found = pair.pull(pair.function(*names), names, given, create_graph=True)
        else:
            kept = iter(ctx.saved_tensors[ctx.count :])
            saved = [next(kept) if x is None else x for x in ctx.others]
            full = [
                torch.zeros(shape, dtype=dtype, device=device) if g is None else g.contiguous()
                for g, (shape, dtype, device) in zip(given, ctx.likes, strict=True)
            ]
            found = pair.backward(saved, full)
        grads: list[Tensor | None] = [None] * ctx.count
        for i, g in zip(pair.wanted, found, strict=True):
            grads[i] = g
        return None, *grads


class Tape:
    """What the kernels of one step saved for their derivative.

    Attributes:
        count: rows of dense output that the step gave.
        powers: ``(count, degree)``, where it gave the curve and the rows were read from that.
        slope: the tape of the slope at its start, where that was evaluated for this step.
    """

    def __init__(self, pair: Pair, saved: list[Any], own: int, capacity: int) -> None:
        self.pair, self.saved, self.own, self.capacity = pair, saved, own, capacity
        self.count = 0
        self.powers: Tensor | None = None
        self.slope: Tape | None = None

    def pull(
        self, g_end: Tensor, g_slope: Tensor | None, g_rows: Tensor | None, zero: Tensor
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Cotangents of the state and the slope at the start, and of the inputs."""
        pair, kinds = self.pair, list(self.pair.pulled.values())
        cotangents = [g_end]
        if kinds[1:2] == [0]:
            cotangents.append(zero if g_slope is None else g_slope)
        g_extra: Tensor | None = None
        if kinds[-1] == 1:
            g_curve = zero.new_zeros(self.capacity, *zero.shape)
            if g_rows is not None and self.powers is None:
                g_curve[: len(g_rows)] = g_rows
            elif g_rows is not None and self.powers is not None:
                g_curve[: self.powers.shape[1]] = product(self.powers.T.to(g_rows), g_rows)
                g_extra = g_rows.sum(0)  # rows read from a curve hold the state itself
            cotangents.append(g_curve)
        g_start, *grads = pair.backward(self.saved, cotangents)
        assert g_start is not None
        g_first = grads.pop(0) if self.own > 1 else None
        if g_extra is not None:
            g_start = g_start + g_extra
        if self.slope is not None and g_first is not None:
            g_more, _, more = self.slope.pull(g_first, None, None, zero)
            return g_start + g_more, None, summed(grads, more)
        return g_start, g_first, grads


def summed(sums: list[Any], terms: list[Any]) -> list[Any]:
    """Sums of cotangents; not in place, since a kernel may return one tensor for two inputs."""
    if not (sums and terms):
        return sums or terms
    return list(torch._foreach_add(sums, terms))  # pyright: ignore[reportPrivateImportUsage]
