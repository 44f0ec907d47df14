"""How a solve ended, and the errors that say so."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Any


class Status(Enum):
    """How a solve ended; true for SUCCESS (the end of the span) and EVENT (a terminal event before it). *Stable.*"""

    SUCCESS = "success"
    MAX_STEPS = "max_steps"
    STEP_UNDERFLOW = "step_underflow"
    NON_FINITE = "non_finite"
    NEWTON = "newton"
    ZENO = "zeno"
    EVENT = "event"

    def __bool__(self) -> bool:
        return self in (Status.SUCCESS, Status.EVENT)


class Statuses(tuple[Status, ...]):
    """The status of each sample; true where none failed. *Maturing.*

    Example:
        >>> bool(Statuses([Status.SUCCESS, Status.NON_FINITE]))
        False
    """

    def __bool__(self) -> bool:
        return all(self)

    @property
    def failed(self) -> list[int]:
        """The samples that failed."""
        return [i for i, status in enumerate(self) if not status]

    @property
    def value(self) -> str:
        """A summary, such as "success" or "2 of 5 failed"."""
        failed = len(self.failed)
        return f"{failed} of {len(self)} failed" if failed else "success"

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {s.value}" for s, n in Counter(self).items())
        return f"Statuses({counts})"


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


class NewtonError(SolveError):
    """The iteration of an implicit method does not converge, however short the step."""


class ZenoError(SolveError):
    """An event fires infinitely often in finite time."""


class BatchError(SolveError):
    """Samples of a batch failed for different reasons; ``solution.status`` has that of each."""


ERRORS: dict[Status, type[SolveError]] = {
    Status.MAX_STEPS: MaxStepsError,
    Status.STEP_UNDERFLOW: StepSizeUnderflow,
    Status.NON_FINITE: NonFiniteError,
    Status.NEWTON: NewtonError,
    Status.ZENO: ZenoError,
}
