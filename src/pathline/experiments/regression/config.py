"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Config:
    """Ten points of a cubic: a residual network, and the flow that it is a discretisation of."""

    part: Literal["all", "fit"] = "all"
    """Everything, or the fits of the ten points alone."""
    repeats: int = 1
    """Fits of both models, each from other weights: seed, seed + 1, ..."""
    width: int = 25
    """Hidden units of both networks."""
    depth: int = 3
    """Residual blocks, sharing one network."""
    init: Literal["matched", "torch"] = "matched"
    """Initial weights: those that keep the signal's variance, or those of torch.nn.Linear."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimizer of the fits."""
    lr: float = 1e-2
    """Its learning rate."""
    steps: int = 2000
    """Updates of each fit."""
    method: str = "tsit5"
    """Method of the solver."""
    tol: float = 1e-3
    """Relative and absolute tolerance while training."""
    crossing_steps: int = 500
    """Updates of the two flows that are asked to swap -1 and 1."""
    depths: tuple[int, ...] = (4, 16, 64)
    """Hidden layers of the plain and the residual classifiers."""
    depth_steps: int = 300
    """Updates of each classifier."""
    depth_lr: float = 3e-3
    """Their learning rate, with Adam."""


PRESETS: dict[str, dict[str, object]] = {
    "as-printed": {
        "part": "fit",
        "repeats": 10,
        "init": "torch",
        "optimizer": "sgd",
        "steps": 1000,
        "method": "dopri5",
    },
    "tiny": {"steps": 5, "crossing_steps": 5, "depths": (2, 4), "depth_steps": 2},
}

_EXACT = ("default", "tiny")
_IDENTITY = "identity"

EXPECTED: tuple[Expected, ...] = (
    Expected(
        "euler_to_block",
        0.0,
        "<=",
        f"{_IDENTITY}: one Euler step of length 1 is one residual block, bit for bit",
        _EXACT,
    ),
    Expected(
        "euler_to_resnet",
        1e-6,
        "<=",
        f"{_IDENTITY}: K Euler steps are K shared blocks of step 1/K, to rounding",
        _EXACT,
    ),
    Expected("recursion_to_backprop", 1e-13, "<=", f"{_IDENTITY}: to rounding of float64", _EXACT),
    Expected("recursion_to_adjoint_order", 0.9, ">=", "first order of the Euler method", _EXACT),
    Expected("recursion_to_adjoint_order", 1.1, "<=", "first order of the Euler method", _EXACT),
    Expected("flow_composition", 1e-8, "<=", f"{_IDENTITY}: flows compose, at tolerance 1e-10", _EXACT),
    Expected("flow_inverse", 1e-8, "<=", f"{_IDENTITY}: the inverse flow returns, at tolerance 1e-10", _EXACT),
    Expected("resnet_mse", 0.17, "<=", "1 % of the variance of the targets, 17.0"),
    Expected("odenet_mse", 0.17, "<=", "1 % of the variance of the targets, 17.0"),
    Expected("odenet_inversions", 0.0, "<=", "solutions of an ODE on the line do not cross"),
    Expected("odenet_there_and_back", 1e-2, "<=", "the flow is invertible at the tolerance of training"),
    Expected("crossing_plain_mse", 0.99, ">=", "a flow on the line keeps the order: no better than 1"),
    Expected("crossing_augmented_mse", 0.01, "<=", "Dupont, Doucet, Teh (2019): one more dimension suffices"),
    Expected("plain_deep_to_shallow", 5.0, ">=", "proposed; seeds 0 to 5 give 150 or more"),
    Expected("residual_deep_to_shallow", 1.0, "<=", "He et al. (2016): residual networks gain from depth"),
)

ABOUT = About(
    title="Residual network and ODE-Net",
    summary="A residual block is an Euler step: the identities, ten points fitted by both, and what each cannot do.",
    authors="Chen, Rubanova, Bettencourt, Duvenaud; Kolter, Duvenaud, Johnson",
    year=2018,
    paper="Neural ordinary differential equations",
    tasks=("regression", "neural ODE", "residual network", "adjoint", "augmented", "depth"),
    minutes=0.5,
)
