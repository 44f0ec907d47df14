"""What an experiment says about itself. Free of torch: ``pathline list`` reads nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["About", "Expected"]


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
