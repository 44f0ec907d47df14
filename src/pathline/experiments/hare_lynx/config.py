"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Config:
    """Hare and lynx, 1900 to 1920: three models by gradient through the solver."""

    train_until: int = 1914
    """Last year that the models see; the later ones are forecast."""
    method: str = "tsit5"
    """Method of the solver."""
    rtol: float = 1e-3
    """Relative and absolute tolerance, in standardised logarithms of the populations."""
    strategy: Literal["full", "horizon", "multiple-shooting", "derivative-match"] = "horizon"
    """How the trajectories are trained."""
    hidden: tuple[int, ...] = (32, 32)
    """Hidden layers of the neural ODE."""
    interaction: tuple[int, ...] = (16,)
    """Hidden layers of the network inside the hybrid."""
    interaction_prior: float = 1.0
    """Weight of the mean square of the hybrid's network: errors of 0.3, as the equations leave, against corrections
    of 0.3, both squared."""
    steps: int = 600
    """Updates of the neural ODE."""
    known_steps: int = 300
    """Updates of Lotka-Volterra and of the hybrid."""
    known_lr: float = 2e-2
    """Their learning rate."""
    lr: float = 1e-2
    """Learning rate of Adam, decaying to zero as a cosine."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ablation_steps: int = 500
    """Updates of the neural ODE under each of the four strategies; 0 leaves the ablation out."""
    ablation_lr: float = 3e-3
    """Learning rate of the ablation, constant and without clipping."""


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {"hidden": (8,), "interaction": (4,), "steps": 4, "known_steps": 4, "ablation_steps": 3},
}

EXPECTED: tuple[Expected, ...] = (
    Expected(
        "neural_ode_train_rmse",
        0.15,
        "<=",
        "set beforehand; plain shooting without clipping ends at .45 to .93",
    ),
    Expected("lotka_volterra_forecast_rmse", 6.0, "<=", "set beforehand; seeds 0, 1, 2 give 5.40 to 5.41"),
    Expected(
        "lotka_volterra_to_last_cycle",
        1.0,
        "<=",
        "baseline: the last cycle, its lag chosen on the training years",
    ),
    Expected("hybrid_to_last_cycle", 1.0, "<=", "the same baseline"),
)

ABOUT = About(
    title="Hare and lynx",
    summary="Hudson Bay pelts of 1900 to 1914 fitted by equations, a network and both; 1915 to 1920 forecast.",
    authors="Hewitt; Lotka; Volterra; Rackauckas et al.",
    year=2020,
    paper="Universal differential equations for scientific machine learning",
    tasks=("time series", "forecast", "population dynamics", "neural ODE", "Lotka-Volterra", "hybrid"),
    minutes=1.8,
)
