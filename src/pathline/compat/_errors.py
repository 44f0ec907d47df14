"""Errors that are ours by type and the original's by ancestry: it checked with ``assert``."""

from __future__ import annotations

from pathline import status
from pathline.status import Status


class ArgumentError(ValueError, AssertionError):
    """An argument that the original refuses with an assertion."""


class MaxStepsError(status.MaxStepsError, AssertionError):
    """``max_num_steps`` was reached; ``solution`` holds what there is."""


class StepSizeUnderflow(status.StepSizeUnderflow, AssertionError):
    """The tolerance asks for steps below the resolution of the time."""


class NonFiniteError(status.NonFiniteError, AssertionError):
    """The state or the field became infinite or NaN."""


class NewtonError(status.NewtonError, AssertionError):
    """The iteration of an implicit method did not converge."""


#: The error of each way to fail.
ERRORS: dict[Status, type[status.SolveError]] = status.ERRORS | {
    Status.NEWTON: NewtonError,
    Status.MAX_STEPS: MaxStepsError,
    Status.STEP_UNDERFLOW: StepSizeUnderflow,
    Status.NON_FINITE: NonFiniteError,
}


def require(condition: bool, message: str) -> None:
    """Raise `ArgumentError` unless the condition holds."""
    if not condition:
        raise ArgumentError(message)
