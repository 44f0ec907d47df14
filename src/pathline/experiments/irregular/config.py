"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Config:
    """Sine waves of unknown frequency at irregular times: five models interpolate and extrapolate."""

    fractions: tuple[float, ...] = (0.5,)
    """Shares of the points that the models are shown."""
    series: int = 1000
    """Number of series; a fifth is for the test, a tenth of the others chooses the parameters that are kept."""
    batch: int = 50
    """Series in a batch of the autoregressive models."""
    latent_batch: int = 100
    """Series in a batch of the latent models."""
    hidden: int = 40
    """Size of every recurrent network's state."""
    width: int = 50
    """Hidden units of the fields, of which the latent one has two layers, and of the decoders."""
    latent: int = 10
    """Size of the draws of both latent models, and of the latent ODE's state."""
    scale: float = 0.1
    """Standard deviation of the latent models' likelihood, in units of the series."""
    method: str = "dopri5"
    """Method of the latent ODE's flow; the ODE-RNN makes one Euler step a gap."""
    tol: float = 1e-3
    """Its relative and absolute tolerance."""
    steps: int = 300
    """Updates of each autoregressive model."""
    lr: float = 2e-2
    """Their learning rate, with Adam, decaying to zero as a cosine."""
    latent_steps: int = 1200
    """Updates of each latent model."""
    latent_lr: float = 1e-2
    """Their learning rate, likewise."""
    annealed: float = 0.3
    """Share of their updates during which the weight of the divergence grows from 0 to 1."""
    growing: float = 0.3
    """Share of their updates during which the part of the span that they have to explain grows from a fifth to all."""
    clip: float = 1.0
    """Largest norm of the gradient, where the loss is the error of a point."""

    def __post_init__(self) -> None:
        if not self.fractions or not all(0.0 < fraction <= 1.0 for fraction in self.fractions):
            raise ValueError(f"`fractions` are one or more shares above 0 and up to 1, but {self.fractions} came.")


PRESETS: dict[str, dict[str, object]] = {
    "table": {"fractions": (0.1, 0.2, 0.3, 0.5)},
    "tiny": {
        "series": 40,
        "batch": 10,
        "latent_batch": 10,
        "hidden": 4,
        "width": 5,
        "latent": 3,
        "steps": 2,
        "latent_steps": 2,
    },
}

_EXACT = ("default", "table", "tiny")
_FULL = ("default", "table")
_IDENTITY = "identity"

EXPECTED: tuple[Expected, ...] = (
    Expected(
        "still_field_to_gru", 0.0, "<=", f"{_IDENTITY}: with the field 0 an ODE-RNN is its GRU, bit for bit", _EXACT
    ),
    Expected("flow_between_observations", 1e-9, "<=", f"{_IDENTITY}: the exact flow of a linear field", _EXACT),
    Expected("untouched_by_missing_rows", 0.0, "<=", f"{_IDENTITY}: where nothing is observed, nothing jumps", _EXACT),
    Expected("untouched_by_companions", 1e-12, "<=", f"{_IDENTITY}: to rounding of float64", _EXACT),
    Expected("ode_rnn_interpolation_50", 0.025, "<=", "Rubanova et al. (2019) print .01666", _FULL),
    Expected("ode_rnn_to_rnn_dt_interpolation_50", 1.0, "<=", "baseline: RNN-dt, as many updates", _FULL),
    Expected("latent_ode_extrapolation_50", 0.020, "<=", "Rubanova et al. (2019) print .01388", _FULL),
    Expected("latent_ode_to_rnn_vae_extrapolation_50", 0.6, "<=", "baseline: RNN-VAE, as many updates", _FULL),
    Expected(
        "ode_rnn_to_still_interpolation_50",
        0.5,
        "<=",
        "ablation: the state held between points; proposed, a first seed gave 0.1",
    ),
)

ABOUT = About(
    title="Irregular series",
    summary="Sine waves at random times: RNN-dt, GRU-D, ODE-RNN, RNN-VAE, latent ODE; between the points and beyond.",
    authors="Rubanova, Chen, Duvenaud",
    year=2019,
    paper="Latent ordinary differential equations for irregularly-sampled time series",
    tasks=("time series", "irregular", "interpolation", "extrapolation", "ODE-RNN", "latent ODE", "GRU-D", "VAE"),
    minutes=6.5,
)
