"""What a fit does when a solve fails: stop, skip the batch, or go back and shrink the learning rate."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from pathline.train.configs import did_you_mean
from pathline.train.stopping import FitStopped

__all__ = ["FailurePolicy", "NonFiniteLoss", "OnSolveFailure"]

OnSolveFailure = Literal["stop", "skip", "shrink-lr"]

SHRINK = 0.5
MOST_SHRINKS = 10
MOST_SKIPPED = 0.01


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or NaN without an error of the solver."""


class FailurePolicy:
    """Decides after a failed solve, and remembers what it has decided.

    ``stop`` raises at once. ``skip`` leaves out the batch, for at most one batch in a hundred (and always one).
    ``shrink-lr`` goes back to the parameters before the last update and halves the learning rate, ten times at most.
    """

    def __init__(self, choice: str, steps: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if choice not in get_args(OnSolveFailure):
            raise ValueError(
                f"`on_solve_failure` is one of {', '.join(map(repr, get_args(OnSolveFailure)))}; "
                f"{choice!r} came.{did_you_mean(choice, get_args(OnSolveFailure))}"
            )
        self.choice = cast("OnSolveFailure", choice)
        self.lr_factor = 1.0
        self.skipped: list[int] = []
        self._shrinks = 0
        self._allowed = max(1, int(MOST_SKIPPED * steps))
        self._model, self._optimizer = model, optimizer
        self._before: dict[str, Any] | None = None

    def remember(self) -> None:
        """Keep the state before an update, where the choice may go back to it."""
        if self.choice == "shrink-lr":
            self._before = {
                "model": {name: _copied(value) for name, value in self._model.state_dict().items()},
                "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            }

    def decide(self, step: int, error: Exception | None, where: str, replay: str) -> str:
        """Act on a failed step and return what was done, for the log.

        Raises:
            FitStopped: Where the fit cannot go on.
        """
        reason = str(error) if error is not None else "The solve failed in another process."
        if self.choice == "skip":
            self.skipped.append(step)
            if len(self.skipped) <= self._allowed:
                return f"skipped batch {len(self.skipped)} of at most {self._allowed}"
            reason = f"More than {self._allowed} batches failed (steps {self.skipped}), the last one with: {reason}"
        elif self.choice == "shrink-lr":
            self._shrinks += 1
            if self._shrinks <= MOST_SHRINKS:
                self._go_back()
                return f"went back one update; the learning rate is {self.lr_factor:g} of what was asked"
            reason = f"The learning rate was halved {MOST_SHRINKS} times and the solve still fails: {reason}"
        raise FitStopped(self._message(step, reason, where, replay)) from error

    def _go_back(self) -> None:
        self.lr_factor *= SHRINK
        if self._before is not None:
            self._model.load_state_dict(self._before["model"])
            self._optimizer.load_state_dict(copy.deepcopy(self._before["optimizer"]))

    def _message(self, step: int, reason: str, where: str, replay: str) -> str:
        lr = self._optimizer.param_groups[0]["lr"]
        advice = {
            "stop": 'go on past such batches with on_solve_failure="skip", or go back and slow down with "shrink-lr"',
            "skip": 'go back and slow down with on_solve_failure="shrink-lr"',
            "shrink-lr": "start from another initialisation or a shorter time span",
        }[self.choice]
        lines = [f"The fit {where} stopped at step {step}. {reason}", f"Try a smaller `lr` (now {lr:g}), or {advice}."]
        if replay:
            lines.append(f"The failed batch is kept; replay it with: {replay}")
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed fit needs to decide alike."""
        return {"lr_factor": self.lr_factor, "skipped": self.skipped, "shrinks": self._shrinks, "before": self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.lr_factor, self.skipped = state["lr_factor"], list(state["skipped"])
        self._shrinks, self._before = state["shrinks"], state["before"]


def check_finite(value: torch.Tensor) -> float:
    """The loss as a number.

    Raises:
        NonFiniteLoss: Where it is not finite.
    """
    number = float(value.detach())
    if not math.isfinite(number):
        raise NonFiniteLoss(
            f"The loss became {number}. A loss is finite; look at the data, the learning rate and the solver."
        )
    return number


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
