"""What an experiment says about itself. Free of torch: ``pathline list`` reads nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["About", "Expected", "check_at_least"]


@dataclass(frozen=True)
class Expected:
    """A bound that a metric of an experiment has to keep, and where the bound comes from.

    Args:
        metric: The name under which the experiment calls ``run.metric(name, value)``.
        bound: The number to keep, in the metric's own unit.
        sense: ``"<="`` where the metric must not exceed the bound, ``">="`` where it must reach it.
        source: Where the bound comes from: a paper's table, an identity, or a calibration over seeds.
        presets: The presets for which the bound holds. A bound is not compared in other presets.

    Example:
        >>> Expected("train_rmse", 0.15, "<=", "calibrated over three seeds").met_by(0.08)
        True
    """

    metric: str
    bound: float
    sense: Literal["<=", ">="]
    source: str
    presets: tuple[str, ...] = ("default",)

    def met_by(self, value: float) -> bool:
        """Whether ``value`` keeps the bound; a NaN never does."""
        if math.isnan(value):
            return False
        return value <= self.bound if self.sense == "<=" else value >= self.bound


@dataclass(frozen=True)
class About:
    """The label on an experiment: what ``pathline list`` prints and searches.

    Args:
        title: A few words, as a heading.
        summary: One line that says what is shown.
        authors: Of the paper, as "Chen, Rubanova, Bettencourt, Duvenaud".
        year: Of the paper.
        paper: Its title.
        tasks: Words somebody may search for: ``("regression", "time series")``.
        minutes: Minutes that the default preset takes on two cores.
    """

    title: str
    summary: str
    authors: str = ""
    year: int | None = None
    paper: str = ""
    tasks: tuple[str, ...] = ()
    minutes: float = 1.0


def check_at_least(config: Any, **bounds: int) -> None:
    """Refuse settings that are too small, before anything is computed with them.

    Args:
        config: The configuration of an experiment.
        bounds: The smallest value of each field, by its name; for a tuple, of each of its entries.

    Raises:
        ValueError: For the first that is below.

    Example:
        >>> from types import SimpleNamespace
        >>> check_at_least(SimpleNamespace(folds=1), folds=2)
        Traceback (most recent call last):
        ...
        ValueError: `folds` is at least 2, but 1 came.
    """
    for name, least in bounds.items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if any(entry < least for entry in values):
            raise ValueError(f"`{name}` is at least {least}, but {value} came.")
