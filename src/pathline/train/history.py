"""What a fit recorded: one row a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["History"]


@dataclass
class History:
    """The record of one fit.

    Attributes:
        columns: Name to values, one a step; ``loss`` and ``lr`` always, ``evaluations`` and ``backward_evaluations``
            where the model counts them, ``watched`` where it was evaluated, and the metrics that the loss returned.
            A value that a step does not have is NaN.
        stopped: Why the fit ended: ``"finished"``, ``"patience"``, ``"max-time"``, or ``"running"`` before its end.
        best_step: Number of updates behind the best parameters, or None before the first check.
        best_value: Their watched value.
        seconds: Time spent in the fit, over all of its sessions when it was resumed.
        skipped: Steps whose batch was skipped since the solve failed.
    """

    columns: dict[str, list[float]] = field(default_factory=lambda: {"loss": [], "lr": []})
    stopped: str = "running"
    best_step: int | None = None
    best_value: float = math.inf
    seconds: float = 0.0
    skipped: list[int] = field(default_factory=list)

    @property
    def loss(self) -> list[float]:
        """The training loss, one value a step."""
        return self.columns["loss"]

    @property
    def final_loss(self) -> float:
        """The last training loss, NaN before the first step."""
        return self.loss[-1] if self.loss else math.nan

    @property
    def grew(self) -> bool:
        """Whether the last training loss is above a hundred times the first, as after steps that are far too large."""
        return self.steps > 1 and self.loss[0] > 0 and self.loss[-1] > 100 * self.loss[0]

    @property
    def steps(self) -> int:
        """Number of rows."""
        return len(self.loss)

    def append(self, row: Mapping[str, float]) -> None:
        """Add the row of one step; a column that is new starts with NaNs."""
        count = self.steps
        for name in row:
            if name not in self.columns:
                self.columns[name] = [math.nan] * count
        for name, values in self.columns.items():
            values.append(float(row.get(name, math.nan)))

    @property
    def last(self) -> dict[str, float]:
        """The row of the last step."""
        return {name: values[-1] for name, values in self.columns.items() if values}

    def total(self, column: str) -> float:
        """The sum of a column without its NaNs, 0 when there is no such column."""
        return sum(value for value in self.columns.get(column, []) if not math.isnan(value))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the columns as tensors in double precision."""
        columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in self.columns.items()}
        return {**vars(self), "columns": columns}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """The inverse of :meth:`state_dict`."""
        return cls(**{**state, "columns": {name: values.tolist() for name, values in state["columns"].items()}})

    def summary(self) -> dict[str, Any]:
        """The plain facts, for ``metrics.json``."""
        return {
            "steps": self.steps,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
            "final_loss": self.final_loss,
            "best_step": self.best_step,
            "best_value": self.best_value,
            "skipped": list(self.skipped),
            "evaluations": int(self.total("evaluations")),
            "backward_evaluations": int(self.total("backward_evaluations")),
        }

    def __repr__(self) -> str:
        return f"History(steps={self.steps}, loss={self.final_loss:.4g}, stopped={self.stopped!r})"
