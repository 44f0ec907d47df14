"""Names for optimizers and schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from pathline.train.configs import did_you_mean

__all__ = ["MakeOptimizer", "Schedule", "make_optimizer", "make_schedule"]

MakeOptimizer = Callable[..., Optimizer]
Schedule = Callable[[int], float]

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def make_optimizer(optimizer: str | MakeOptimizer, parameters: Iterable[Any], lr: float) -> Optimizer:
    """An optimizer from its name, or from a function called as ``optimizer(parameters, lr=lr)``."""
    if callable(optimizer):
        return optimizer(parameters, lr=lr)
    if not isinstance(optimizer, str):
        raise TypeError(
            f"`optimizer` is a name or a function of (parameters, lr=...), but {type(optimizer).__name__} came, "
            "already built. Pass the class and the rate, optimizer=torch.optim.Adam and lr=1e-3, or for other options "
            "optimizer=lambda parameters, lr: torch.optim.Adam(parameters, lr, betas=(0.9, 0.99))."
            if isinstance(optimizer, Optimizer)
            else f"`optimizer` is a name or a function of (parameters, lr=...), but {type(optimizer).__name__} came. "
            f"The names are: {', '.join(OPTIMIZERS)}."
        )
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f'No optimizer is called "{optimizer}".{did_you_mean(optimizer, OPTIMIZERS)} The names are: '
            f"{', '.join(OPTIMIZERS)}; or pass a function that takes (parameters, lr=...)."
        )
    return OPTIMIZERS[optimizer](parameters, lr=lr)


def make_schedule(schedule: str | Schedule | None, steps: int) -> Schedule:
    """The factor on the learning rate at each step; a function of the step alone, so that a resumed fit agrees."""
    if callable(schedule):
        return schedule
    named: dict[str | None, Schedule] = {
        None: lambda step: 1.0,
        "constant": lambda step: 1.0,
        "cosine": lambda step: 0.5 * (1.0 + math.cos(math.pi * step / max(steps, 1))),
        "linear": lambda step: 1.0 - step / max(steps, 1),
    }
    if schedule not in named:
        names = [name for name in named if name]
        raise ValueError(
            f'No schedule is called "{schedule}".{did_you_mean(str(schedule), names)} The names are: '
            f"{', '.join(names)}; or pass a function from the step to a factor."
        )
    return named[schedule]
