"""What is kept of a solve: rows at the requested times, every step, or a curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._structure import host

if TYPE_CHECKING:
    from pathline._structure import Structure
    from pathline.solvers.base import Step
    from pathline.terms import Time


@dataclass(frozen=True)
class Save:
    """What a solution keeps. *Stable.*

    Args:
        steps: rows at the start and at the end of every accepted step, in place of the requested times.
        dense: keep the dense output, so that ``solution(t)`` answers for every t inside.
        fn: keep ``fn(t, y)`` instead of ``y``; any tensor or structure of tensors.

    Example:
        >>> import torch, pathline
        >>> save = pathline.Save(fn=lambda t, y: y.square().sum())
        >>> pathline.solve(lambda t, y: -y, torch.ones(3), torch.linspace(0, 1, 5), save=save).ys.shape
        torch.Size([5])
    """

    steps: bool = False
    dense: bool = False
    fn: Callable[[Tensor, Any], Any] | None = None


class Keeper:
    """The outputs of one solve.

    Args:
        save: what to keep.
        times: the requested times as host floats.
        structure: of the state.
        moved: ``moved(rows, due)`` gives the rows their derivative with respect to their times, where that is wanted
            and the steps do not follow the times.
        exact: the requested times as tensors, where the steps follow them.
    """

    def __init__(
        self,
        save: Save,
        times: Sequence[float],
        structure: Structure,
        moved: Callable[[Tensor, slice], Tensor] | None = None,
        exact: Sequence[Time] | None = None,
    ) -> None:
        self.save, self.times, self.structure, self.moved, self.exact = save, times, structure, moved, exact
        self.sign = 1.0 if times[-1] >= times[0] else -1.0
        self.next = 0
        self.spec: Any = None

    def due(self, t1: float, *, before: bool = False) -> slice:
        """The requested times up to ``t1`` (strictly ``before`` it) that no earlier step has served."""
        if self.save.steps:
            return slice(0, 0)
        start = self.next
        end, times, sign = start, self.times, self.sign
        limit = t1 * sign
        while end < len(times) and (times[end] * sign < limit or (times[end] * sign == limit and not before)):
            end += 1
        self.next = end
        return slice(start, end)

    def first(self, y0: Tensor, due: slice) -> tuple[Tensor, ...]:
        """The rows at the start."""
        n = 1 if self.save.steps else due.stop - due.start
        rows = y0.unsqueeze(0).expand(n, *y0.shape)
        if self.moved is not None and not self.save.steps:
            rows = self.moved(rows, due)
        return self.kept(rows, [self.times[0]] * n)

    def outputs(self, step: Step, t1: Time, due: slice) -> tuple[Tensor, ...]:
        """What one accepted step contributes: rows (a tensor for each leaf), then the coefficients of the curve."""
        out: tuple[Tensor, ...] = ()
        if self.save.steps:
            out = self.kept(step.y1.unsqueeze(0), [host(t1)])
        elif due.stop > due.start:
            rows = self._rows(step, t1, due)
            if self.moved is not None:
                rows = self.moved(rows, due)
            out = self.kept(rows, self.times[due])
        return (*out, step.coefficients()) if self.save.dense else out

    def _rows(self, step: Step, t1: Time, due: slice) -> Tensor:
        times = self.times[due]
        if self.exact is not None:
            return self._exact_rows(step, t1, self.exact[due])
        inner = sum(t != t1 for t in times)
        ends = [step.y1.unsqueeze(0)] * (len(times) - inner)
        if not inner:
            return torch.cat(ends) if len(ends) > 1 else ends[0]
        rows = step.rows(times[:inner])
        return torch.cat([rows, *ends]) if ends else rows

    def _exact_rows(self, step: Step, t1: Time, times: Sequence[Any]) -> Tensor:
        """Rows whose times carry a derivative: only the tensor that ends the step is served by its end."""
        rows = [step.y1 if t is t1 else step.rows(t.unsqueeze(0))[0] for t in times]
        return torch.stack(rows)

    def kept(self, rows: Tensor, times: Sequence[float]) -> tuple[Tensor, ...]:
        """Rows as they are kept: ``fn`` of them, a tensor for each leaf."""
        fn = self.save.fn
        if fn is None:
            return (rows,)
        clock = [torch.full((), t, dtype=torch.float64, device=rows.device) for t in times]
        values = [
            fn(t.to(rows.real.dtype if rows.is_complex() else rows.dtype), self.structure.unravel(row))
            for t, row in zip(clock, rows, strict=True)
        ]
        flat = [pytree.tree_flatten(value) for value in values]
        self.spec = flat[0][1]
        return tuple(torch.stack(leaves) for leaves in zip(*(leaves for leaves, _ in flat), strict=True))
