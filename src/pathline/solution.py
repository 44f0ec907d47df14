"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline.controls.piecewise import PiecewisePolynomial
from pathline.stats import Stats
from pathline.status import Status


@dataclass(repr=False)
class Solution:
    """The solution of a differential equation. *Stable.*

    Attributes:
        ts: ``(n,)`` the requested times (with ``Save(steps=True)`` the ends of the steps).
        ys: the states there, time first, ``(n, *batch, *state)``, in the structure of ``y0``. Rows that were not
            reached repeat the last valid state, without gradient.
        y1: the last state reached.
        t1: its time, a 0-d tensor; differentiable where the requested times are.
        valid: ``(n,)`` bool: whether a row was reached.
        status: how the solve ended.
        stats: counts; the backward pass adds its own.
        message: why the solve failed; empty on success.
    """

    ts: Tensor
    ys: Any
    y1: Any
    t1: Tensor
    valid: Tensor
    status: Status
    stats: Stats
    message: str = ""
    curve: Any = field(default=None, repr=False)
    unravel: Any = field(default=None, repr=False)
    source: Any = field(default=None, repr=False)

    def __call__(self, t: Tensor | float, *, after: bool = False) -> Any:
        """The state at any time inside the span, by the method's dense output.

        Args:
            t: times of any shape, between the first and the last.
            after: at a jump, the value behind it instead of the one before.

        Returns:
            ``(*t.shape, *batch, *state)`` in the structure of ``y0``; differentiable, also in ``t``.

        Raises:
            ValueError: a time outside the span, or a solve without ``Save(dense=True)``.
        """
        return self.unravel(self._curve()(t, after=after))

    def derivative(self, t: Tensor | float, *, after: bool = False) -> Any:
        """The derivative of the dense output at ``t``, shaped like ``solution(t)``."""
        return self.unravel(self._curve().derivative(t, after=after))

    def _curve(self) -> PiecewisePolynomial:
        if self.curve is None:
            raise ValueError(
                "`solution(t)` needs the dense output, which was not kept. Solve with save=pathline.Save(dense=True)."
            )
        return self.curve

    def masked_mean(self, values: Tensor) -> Tensor:
        """The mean of per-row values over the rows that were reached.

        Args:
            values: ``(n, ...)``, for example squared errors.

        Returns:
            A 0-d tensor.

        Raises:
            ValueError: another number of rows.
        """
        if values.dim() == 0 or len(values) != len(self.valid):
            raise ValueError(
                f"`values` has one row for each of the {len(self.valid)} times; its shape is {tuple(values.shape)}. "
                "Reduce over samples and components only."
            )
        mask = self.valid.reshape(-1, *(1,) * (values.dim() - 1))
        count = self.valid.sum() * values[0].numel()
        return torch.where(mask, values, torch.zeros_like(values)).sum() / count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "source": None}

    def __repr__(self) -> str:
        shapes = pytree.tree_map(lambda x: tuple(x.shape) if isinstance(x, Tensor) else x, self.ys)
        n = len(self.ts)
        span = f"{float(self.ts[0]):g} to {float(self.ts[-1]):g}" if n else "empty"
        counts = f"steps={self.stats.accepted}+{self.stats.rejected}, evaluations={self.stats.evaluations}"
        return f"Solution({self.status.value}, t {span}, ys {shapes}, {counts})"
