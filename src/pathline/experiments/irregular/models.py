"""The five models, and that of the ablation. Each has ``loss(batch)`` and ``predict(observed, t)``."""

from __future__ import annotations

from torch import nn

from pathline import fields, nets
from pathline.experiments.irregular.config import Config
from pathline.experiments.irregular.recursion import Recursion
from pathline.models import (
    GRU,
    GRUD,
    ODERNN,
    Forecaster,
    GRUdt,
    Latent,
    NeuralODE,
    Recurrent,
    RecurrentEncoder,
    RNNEncoder,
    annealing,
    likelihoods,
)

LABELS = {
    "rnn_dt": "RNN-dt",
    "gru_d": "GRU-D",
    "ode_rnn": "ODE-RNN",
    "rnn_vae": "RNN-VAE",
    "latent_ode": "latent ODE",
}
LATENT = ("rnn_vae", "latent_ode")


def build(name: str, config: Config, feedback: bool) -> Forecaster | Latent:
    """A model by its name.

    Args:
        name: A key of ``LABELS``, or "still" for the ODE-RNN whose state is held between observations.
        config: Sizes and solvers.
        feedback: Whether an autoregressive model is fed its own forecasts behind the last observation.
    """
    if name in LATENT:
        return rnn_vae(config) if name == "rnn_vae" else latent_ode(config)
    recurrent = {"rnn_dt": GRUdt, "gru_d": GRUD, "still": GRU}
    core = ode_rnn(config) if name == "ode_rnn" else recurrent[name](1, config.hidden)
    return Forecaster(core, feedback=feedback)


def ode_rnn(config: Config) -> Recurrent:
    """A state that follows a field from one observation to the next."""
    return ODERNN(1, config.hidden, fields.MLP(config.hidden, config.width, init="torch"))


def latent_ode(config: Config) -> Latent:
    """An ODE-RNN reads the points backwards, down to t = 0; a flow goes on from there."""
    field = fields.MLP(config.latent, (config.width, config.width), init="torch")
    flow = NeuralODE(field, method=config.method, rtol=config.tol, atol=config.tol)
    return _latent(config, RecurrentEncoder(ode_rnn(config), config.latent), flow, config.latent)


def rnn_vae(config: Config) -> Latent:
    """An RNN reads the points backwards; another one goes on from there."""
    encoder = RNNEncoder(1, config.latent, config.hidden)
    start = nn.Linear(config.latent, config.hidden)
    return _latent(config, encoder, Recursion(config.hidden), config.hidden, start)


def _latent(
    config: Config, encoder: nn.Module, dynamics: NeuralODE | Recursion, size: int, start: nn.Module | None = None
) -> Latent:
    return Latent(
        encoder,
        dynamics,
        nets.MLP(size, 1, config.width, activation="tanh"),
        likelihoods.Gaussian(config.scale),
        start=start,
        annealing=annealing.Linear(max(1, round(config.annealed * config.latent_steps))),
    )
