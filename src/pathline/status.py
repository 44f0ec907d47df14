"""How a solve ended, and the errors that say so."""

from __future__ import annotations

from enum import Enum
from typing import Any


class Status(Enum):
    """How a solve ended. *Stable.*"""

    SUCCESS = "success"
    MAX_STEPS = "max_steps"
    STEP_UNDERFLOW = "step_underflow"
    NON_FINITE = "non_finite"

    def __bool__(self) -> bool:
        return self is Status.SUCCESS


class SolveError(RuntimeError):
    """A solve that did not reach its end; ``solution`` holds what there is, ``status`` says why. *Stable.*"""

    def __init__(self, message: str, solution: Any = None, status: Status | None = None) -> None:
        super().__init__(message)
        self.solution = solution
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.solution, self.status)


class MaxStepsError(SolveError):
    """``max_steps`` was reached."""


class StepSizeUnderflow(SolveError):
    """The tolerance asks for steps below the resolution of the time, or below ``min_step``."""


class NonFiniteError(SolveError):
    """The state or the field became infinite or NaN."""


ERRORS: dict[Status, type[SolveError]] = {
    Status.MAX_STEPS: MaxStepsError,
    Status.STEP_UNDERFLOW: StepSizeUnderflow,
    Status.NON_FINITE: NonFiniteError,
}
