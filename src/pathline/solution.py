"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline.controls.piecewise import PiecewisePolynomial, RowPiecewise
from pathline.events import EventRecord
from pathline.stats import Stats
from pathline.status import Status, Statuses


@dataclass(repr=False)
class Solution:
    """The solution of a differential equation. *Stable.*

    Attributes:
        ts: ``(n,)``, or ``(n, batch)`` with one clock a sample, the requested times (with ``Save(steps=True)`` the ends
            of the steps).
        ys: the states there, time first, ``(n, *batch, *state)``, in the structure of ``y0``. Rows that were not
            reached repeat the last valid state, without gradient.
        y1: the last state reached.
        t1: its time, a 0-d tensor (``(batch,)`` with one clock a sample), that of a terminal event where one ended the
            solve; differentiable where the requested times or the event are.
        valid: shaped like ``ts``, bool: whether a row was reached.
        status: how the solve ended; with one clock a sample a `Statuses`, one for each.
        stats: counts; the backward pass adds its own.
        events: what happened at each event, by its name, see `EventRecord`.
        integrals: the running costs of ``solve(integrals=...)`` by name, at the rows of ``ys``: ``(n, *cost)``.
        integrals1: the same at ``t1``.
        message: why the solve failed; empty on success.
    """

    ts: Tensor
    ys: Any
    y1: Any
    t1: Tensor
    valid: Tensor
    status: Status | Statuses
    stats: Stats
    events: dict[Any, EventRecord] = field(default_factory=dict)
    integrals: dict[str, Tensor] = field(default_factory=dict)
    integrals1: dict[str, Tensor] = field(default_factory=dict)
    message: str = ""
    batch_first: bool = False
    curve: Any = field(default=None, repr=False)
    unravel: Any = field(default=None, repr=False)
    source: Any = field(default=None, repr=False)

    def __call__(self, t: Tensor | float, *, after: bool = True) -> Any:
        """The state at any time inside the span, by the method's dense output.

        Args:
            t: times of any shape, between the first and the last; with one clock a sample a number, or
                ``(..., batch)``.
            after: at a jump, the value behind it, as in ``ys``; False for the one before.

        Returns:
            ``(*t.shape, *batch, *state)`` in the structure of ``y0``; differentiable, also in ``t``.

        Raises:
            ValueError: a time outside the span, or a solve without ``Save(dense=True)``.
        """
        return self.unravel(self._curve()(t, after=after))

    def derivative(self, t: Tensor | float, *, after: bool = True) -> Any:
        """The derivative of the dense output at ``t``, shaped like ``solution(t)``.

        Args:
            t: as for ``solution(t)``.
            after: at a jump, of the state or of its rate, the derivative behind it; False for the one before.
        """
        return self.unravel(self._curve().derivative(t, after=after))

    def _curve(self) -> PiecewisePolynomial | RowPiecewise:
        if self.curve is None:
            raise ValueError(
                "`solution(t)` needs the dense output, which was not kept. Solve with save=pathline.Save(dense=True)."
            )
        return self.curve

    def masked_mean(self, values: Tensor) -> Tensor:
        """The mean of per-row values over the rows that were reached.

        Args:
            values: for example squared errors, ``(n, ...)``; with one clock a sample ``(n, batch, ...)``.

        Returns:
            A 0-d tensor.

        Raises:
            ValueError: another number of rows.
        """
        shape = self.valid.shape
        if values.shape[: len(shape)] != shape:
            raise ValueError(
                f"`values` begins with the shape of `valid`, {tuple(shape)}; its shape is {tuple(values.shape)}. "
                "Reduce over components only."
            )
        mask = self.valid.reshape(*shape, *(1,) * (values.dim() - len(shape))).expand_as(values)
        return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "source": None}

    def __repr__(self) -> str:
        shapes = pytree.tree_map(lambda x: tuple(x.shape) if isinstance(x, Tensor) else x, self.ys)
        n = self.ts.numel()
        span = f"{self.ts.flatten()[0].item():g} to {self.ts.flatten()[-1].item():g}" if n else "empty"
        counts = f"steps={self.stats.accepted}+{self.stats.rejected}, evaluations={self.stats.evaluations}"
        return f"Solution({self.status.value}, t {span}, ys {shapes}, {counts})"
