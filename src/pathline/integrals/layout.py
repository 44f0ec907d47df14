"""How the state and its costs lie in one tensor, and what error control sees of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathline._structure import Structure
from pathline.loop import Problem
from pathline.tolerance import Tolerance


class Beside(Structure):
    """The structure of a pair ``(state, costs)``; the way of a plain state, taken at every evaluation, is short.

    Args:
        state: the user's.
        costs: zeros, by name.
        rows: whether every sample has its own clock.
        aligned: whether the parts lie side by side along their common first dimension on the shared clock too.
    """

    def __init__(self, state: Any, costs: dict[str, Tensor], *, rows: bool, aligned: bool) -> None:
        super().__init__((state, costs), rows=rows or aligned)
        self.rows = rows
        self.names = list(costs) if isinstance(state, Tensor) else None

    def ravel(self, state: Any, what: str = "`f`") -> Tensor:
        """One tensor out of a pair, whose parts the term has checked."""
        if self.names is None or what != "`f`":
            return super().ravel(state, what)
        y, costs = state
        lead = self._lead
        parts = zip((y, *costs.values()), self.widths, strict=True)
        return torch.cat([x.reshape(*x.shape[:lead], width) for x, width in parts], dim=-1)

    def unravel(self, flat: Tensor) -> Any:
        """The pair from one tensor."""
        if self.names is None:
            return super().unravel(flat)
        lead = flat.shape[:-1]
        parts = zip(flat.split(self.widths, dim=-1), self.shapes, strict=True)
        y, *costs = (part.reshape(lead + shape) for part, shape in parts)
        return y, dict(zip(self.names, costs, strict=True))


def layout(state: Any, zeros: dict[str, Tensor], problem: Problem) -> Structure:
    """The structure of the pair ``(state, costs)``."""
    # Implicit methods find the samples of a batch in its rows.
    batch = problem.structure.plain and state.dim() > 1
    aligned = batch and all(z.dim() and len(z) == len(state) for z in zeros.values())
    return Beside(state, zeros, rows=problem.per_sample, aligned=aligned and not problem.per_sample)


@dataclass(frozen=True)
class Seen(Tolerance):
    """A tolerance that looks at the first ``seen`` of ``width`` entries of the last dimension alone."""

    seen: int = 0
    width: int = 0

    def scale(self, y0: Tensor, y1: Tensor) -> Tensor:
        """That of the entries that count; without bound for the others."""
        n = self.seen
        rtol, atol = (x[..., :n] if isinstance(x, Tensor) else x for x in (self.rtol, self.atol))
        part = Tolerance(rtol, atol).scale(y0[..., :n], y1[..., :n])
        rest = part.new_full((*part.shape[:-1], self.width - n), torch.finfo(part.dtype).max / 4)
        return torch.cat([part, rest], dim=-1)

    def resolution(self, y: Tensor) -> Tensor:
        """Such that a mean over all entries is that over the ones that count."""
        return self.scale(y, y) * math.sqrt(self.seen / self.width if self.width else 1.0)

    def norm(self, scaled: Tensor) -> float | Tensor:
        """Of the entries that count."""
        return super().norm(scaled) if self.per_sample else super().norm(self._counting(scaled))

    def norms(self, scaled: Tensor) -> Tensor:
        """Of the entries that count, for each row."""
        return super().norms(self._counting(scaled))

    def _counting(self, scaled: Tensor) -> Tensor:
        return scaled[..., : self.seen].contiguous()  # added up in the order of a solve without costs


def wide(value: float | Tensor, start: Tensor, y0: Tensor, seen: int, rest: float | None) -> float | Tensor:
    """A tolerance of the state alone, for the whole in its layout; costs get ``rest``, or the largest."""
    if not isinstance(value, Tensor):
        return value
    if start.dim() == 1:
        part = value.expand(y0.shape).reshape(-1)
    else:
        lead = len(value) if value.dim() == y0.dim() else 1
        part = value.expand(lead, *y0.shape[1:]).reshape(lead, seen)
    if rest is None:
        rest = float(part.max()) if part.numel() else 0.0
    return torch.cat([part, part.new_full((*part.shape[:-1], start.shape[-1] - seen), rest)], dim=-1)
