"""Latent dynamics: encoders, decoding by a solve, likelihoods, evidence bounds, predictions."""

from __future__ import annotations

from pathline.models.latent import annealing, likelihoods
from pathline.models.latent.constructors import LatentODE
from pathline.models.latent.encoders import AttentionEncoder, RecurrentEncoder, RNNEncoder
from pathline.models.latent.goku import GOKU, GOKUEncoder, KnownStart, quantities
from pathline.models.latent.latent import Latent
from pathline.models.latent.prediction import Prediction

__all__ = [
    "GOKU",
    "AttentionEncoder",
    "GOKUEncoder",
    "KnownStart",
    "Latent",
    "LatentODE",
    "Prediction",
    "RNNEncoder",
    "RecurrentEncoder",
    "annealing",
    "likelihoods",
    "quantities",
]
