"""Models: a field plus a way of solving it, and the residual network that it is the limit of."""

from __future__ import annotations

from pathline.models.densities import (
    CNF,
    COUPLINGS,
    PATHS,
    ConditionalOT,
    FlowMatching,
    Independent,
    OptimalTransport,
    Rectified,
    SchroedingerBridge,
    Sinkhorn,
    VariancePreserving,
)
from pathline.models.densities.discrete import LayeredFlow, PlanarFlow, RealNVP
from pathline.models.densities.transforms import Logit, Standardize, bits_per_dim, dequantize
from pathline.models.latent import (
    GOKU,
    AttentionEncoder,
    GOKUEncoder,
    KnownStart,
    Latent,
    LatentODE,
    Prediction,
    RecurrentEncoder,
    RNNEncoder,
    annealing,
    likelihoods,
    quantities,
)
from pathline.models.neural_ode import NeuralODE
from pathline.models.recurrent import GRU, GRUD, ODERNN, Classifier, Forecaster, GRUdt, Recurrent
from pathline.models.residual import ResNet
from pathline.models.storage import load, save

__all__ = [
    "CNF",
    "COUPLINGS",
    "GOKU",
    "GRU",
    "GRUD",
    "ODERNN",
    "PATHS",
    "AttentionEncoder",
    "Classifier",
    "ConditionalOT",
    "FlowMatching",
    "Forecaster",
    "GOKUEncoder",
    "GRUdt",
    "Independent",
    "KnownStart",
    "Latent",
    "LatentODE",
    "LayeredFlow",
    "Logit",
    "NeuralODE",
    "OptimalTransport",
    "PlanarFlow",
    "Prediction",
    "RNNEncoder",
    "RealNVP",
    "Rectified",
    "Recurrent",
    "RecurrentEncoder",
    "ResNet",
    "SchroedingerBridge",
    "Sinkhorn",
    "Standardize",
    "VariancePreserving",
    "annealing",
    "bits_per_dim",
    "dequantize",
    "likelihoods",
    "load",
    "quantities",
    "save",
]
