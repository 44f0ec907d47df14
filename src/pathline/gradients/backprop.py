"""Backpropagation through the accepted steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pathline.gradients.base import Kept, gather, move_end, move_start, run, timed
from pathline.loop import Problem


@dataclass(frozen=True)
class Backprop:
    """Autograd records the accepted steps and plays them back: exact, fastest, memory of all stages. *Stable.*"""

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve under the caller's grad mode."""
        start = move_start(problem, y0, t, args)
        kept = gather(problem, run(problem, start, args, **timed(problem, t, args)))
        return move_end(problem, kept, t, args)
