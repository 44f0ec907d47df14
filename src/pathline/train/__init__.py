"""One visible training loop, its checkpoints, the run folder and the report. Everything here loads on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathline.train.batches import minibatches as minibatches
    from pathline.train.history import History as History
    from pathline.train.loop import fit as fit
    from pathline.train.run import Run as Run
    from pathline.train.stopping import FitStopped as FitStopped
    from pathline.train.stopping import Interrupted as Interrupted
    from pathline.train.stopping import OutOfTime as OutOfTime
    from pathline.train.trajectory import trajectory_loss as trajectory_loss

_HOMES = {
    "FitStopped": "stopping",
    "History": "history",
    "Interrupted": "stopping",
    "OutOfTime": "stopping",
    "Run": "run",
    "fit": "loop",
    "minibatches": "batches",
    "trajectory_loss": "trajectory",
}

__all__ = [
    "FitStopped",
    "History",
    "Interrupted",
    "OutOfTime",
    "Run",
    "fit",
    "minibatches",
    "trajectory_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
