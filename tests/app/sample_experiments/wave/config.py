from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Net:
    """The network."""

    width: int = 16
    """Units of the hidden layer."""
    activation: Literal["tanh", "relu"] = "tanh"


@dataclass(frozen=True)
class Config:
    """Settings of the wave."""

    steps: int = 60
    """Updates of each fit."""
    lr: float = 1e-2
    """Learning rate."""
    points: int = 64
    batch: int = 16
    """Samples in a batch."""
    pause: float = 0.0
    """Seconds that a step sleeps, so that a test can interrupt it."""
    fail_at: tuple[int, ...] = ()
    """Steps of the second fit whose solve fails."""
    plot: bool = True
    limit: float | None = None
    net: Net = field(default_factory=Net)


PRESETS = {"tiny": {"steps": 6, "net": {"width": 4}}}

EXPECTED = (
    Expected("train_error", 0.5, "<=", "half the variance of the targets", presets=("default", "tiny")),
    Expected("train_error", 0.0, ">=", "a square is not negative", presets=("default", "tiny")),
    Expected("samples", 1000.0, ">=", "a bound that is missed", presets=("tiny",)),
)

ABOUT = About(
    title="A wave, fitted twice",
    summary="A small network learns one period of a sine.",
    authors="Doe, Roe",
    year=2020,
    paper="Fitting waves",
    tasks=("regression", "testing"),
    minutes=0.1,
)
