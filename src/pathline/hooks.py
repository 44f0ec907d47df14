"""Functions that the loop calls at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from pathline.solvers.base import Step
    from pathline.terms import Time


def _nothing(*_: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Hooks:
    """Functions that the loop calls: ``on_step(t0, t1, y0)`` before a step, the others with the step behind it.

    With one clock a sample, times are ``(rows,)`` and states ``(rows, *state)``: of the active samples before a step,
    of those that moved in ``on_accept``, whose step has ``index``, which samples they are. *Maturing.*
    """

    on_step: Callable[[Time, Time, Tensor], None] = _nothing
    on_accept: Callable[[Time, Time, Tensor, Step], None] = _nothing
    on_reject: Callable[[Time, Time, Tensor, Step], None] = _nothing
