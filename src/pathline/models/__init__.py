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
from pathline.models.neural_ode import NeuralODE
from pathline.models.residual import ResNet
from pathline.models.storage import load, save

__all__ = [
    "CNF",
    "COUPLINGS",
    "PATHS",
    "ConditionalOT",
    "FlowMatching",
    "Independent",
    "LayeredFlow",
    "Logit",
    "NeuralODE",
    "OptimalTransport",
    "PlanarFlow",
    "RealNVP",
    "Rectified",
    "ResNet",
    "SchroedingerBridge",
    "Sinkhorn",
    "Standardize",
    "VariancePreserving",
    "bits_per_dim",
    "dequantize",
    "load",
    "save",
]
