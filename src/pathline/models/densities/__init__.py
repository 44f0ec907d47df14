"""Densities that move: continuous normalising flows."""

from __future__ import annotations

from pathline.models.densities.cnf import CNF
from pathline.models.densities.couplings import COUPLINGS, Independent, OptimalTransport, Sinkhorn
from pathline.models.densities.flow_matching import FlowMatching
from pathline.models.densities.paths import PATHS, ConditionalOT, Rectified, SchroedingerBridge, VariancePreserving

__all__ = [
    "CNF",
    "COUPLINGS",
    "PATHS",
    "ConditionalOT",
    "FlowMatching",
    "Independent",
    "OptimalTransport",
    "Rectified",
    "SchroedingerBridge",
    "Sinkhorn",
    "VariancePreserving",
]
