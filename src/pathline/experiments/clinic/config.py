"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Config:
    """Laboratory values of patients at irregular visits: forecasts, and who will fall ill."""

    folds: int = 5
    """Parts of the patients, each of which is the test once."""
    choose: float = 0.2
    """Share of the other patients on which a fit decides when to stop."""
    horizon: float = 2.0
    """Years within which death or transplantation counts as an event."""
    hidden: int = 32
    """Size of the state of all networks."""
    dropout: float = 0.3
    """Share of the state that the readouts do not see while training."""
    decay: float = 0.01
    """Weight decay of AdamW."""
    lr: float = 0.01
    """Its learning rate."""
    steps: int = 100
    """Most updates of each network, each on all training patients."""
    every: int = 10
    """Updates between two looks at the patients who decide when to stop."""
    risk: float = 0.3
    """Weight of the cross-entropy of the outcome beside the squared error of the forecasts."""
    method: str = "rk4"
    """Of the solve between visits."""
    dt: float = 2.0
    """Its longest step, in years."""
    iterations: int = 300
    """Of expectation and maximisation in the mixed model."""
    ridge: float = 1e-3
    """Of the logistic regression."""


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {"folds": 2, "hidden": 4, "steps": 4, "every": 2, "iterations": 5, "dt": 4.0},
}

_EXACT = ("default", "tiny")

EXPECTED: tuple[Expected, ...] = (
    Expected("mixed_to_gaussian", 1e-8, "<=", "identity: the mixed model is a conditioned Gaussian", _EXACT),
    Expected("later_visits_seen", 0.0, "<=", "identity: a forecast knows nothing of later visits, bit for bit", _EXACT),
    Expected("still_to_held", 1e-6, "<=", "identity: with a field of zero the ODE-RNN is the GRU", _EXACT),
    Expected("ode_mse", 0.62, "<=", "calibrated: 0.566 to 0.597 over three seeds"),
    Expected("ode_to_last", 0.75, "<=", "baseline: the last value; calibrated, 0.71 to 0.72"),
    Expected("ode_to_mixed", 0.95, "<=", "baseline: a line for each patient; calibrated, 0.90 to 0.93"),
    Expected("ode_to_gru", 1.02, "<=", "baseline: GRU-dt, which is ahead by 1 %; calibrated over three seeds"),
    Expected("held_to_ode", 1.02, ">=", "ablation: between visits the state stands still"),
    Expected("held_to_ode_far", 1.05, ">=", "the same where five years or more are between the visits"),
    Expected("ode_auc", 0.88, ">=", "calibrated: 0.888 to 0.894 over three seeds"),
    Expected("step_to_tight", 0.01, "<=", "forecasts by steps of two years against a tight solve"),
    Expected("there_and_back", 1e-4, "<=", "five years on and back at 1e-8, double precision"),
)

ABOUT = About(
    title="The course of a disease",
    summary="Seven laboratory values of 312 patients at irregular visits: forecasts over years, and who falls ill.",
    authors="Rubanova, Chen, Duvenaud",
    year=2019,
    paper="Latent ordinary differential equations for irregularly-sampled time series",
    tasks=("time series", "irregular", "ODE-RNN", "clinical", "forecast", "survival", "GRU"),
    minutes=3.0,
)
