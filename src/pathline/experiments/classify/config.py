"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Config:
    """Six classifiers of small images; one of them is a differential equation."""

    data: Literal["digits", "fashion-mnist"] = "digits"
    """The digits of scikit-learn by cross-validation, or Fashion-MNIST with its own test set."""
    data_root: str | None = None
    """Folder with the files of Fashion-MNIST, where the Debian package is not installed."""
    images: int = 0
    """Training images, drawn at random; 0 takes all. With the digits, images of the whole set."""
    folds: int = 5
    """Parts of the digits, each of which is the test set once, with equal shares of the classes."""
    rows: tuple[str, ...] = ("mlp", "no_block", "residual_1", "residual_6", "rk_net", "ode_net")
    """The models."""
    channels: int = 32
    """Channels of the images behind the stem, and of the blocks."""
    groups: int = 1
    """Groups of the normalisation. The field ends in one, and its rate has no mean over a group: with small groups the
    flow can hardly move what the head averages."""
    halvings: int = 1
    """Convolutions of the stem; each halves height and width."""
    pooled: int = 2
    """The head averages over that many parts of the height and of the width; 1 averages over the whole image."""
    activation: str = "gelu"
    """Activation of the field and of the residual blocks."""
    method: str = "bosh3"
    """Method of the solver."""
    tol: float = 1e-3
    """Relative and absolute tolerance."""
    adjoint_tol: float = 1e-2
    """Both tolerances of the adjoint's backward solve."""
    epochs: int = 30
    """Times that each training image is seen."""
    batch: int = 128
    """Images in a batch."""
    lr: float = 4e-3
    """Learning rate of Adam, decaying to zero as a cosine; its mean is half of it."""
    rotation: float = 0.15
    """Training images are turned by up to that angle, in radians, a new draw each time they are seen."""
    zoom: float = 0.1
    """They are scaled by up to that share."""
    shift: float = 0.5
    """They are moved by up to that many pixels."""
    depths: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    """Numbers of solver steps at which memory is measured."""


_FASHION: dict[str, object] = {
    "data": "fashion-mnist",
    "halvings": 2,
    "groups": 8,
    "batch": 64,
    "lr": 2e-3,
    "rotation": 0.0,
    "zoom": 0.0,
    "shift": 0.0,
}
"""Settings of the digits were chosen on the digits; clothing lies straight in its frame."""

PRESETS: dict[str, dict[str, object]] = {
    "tiny": {"images": 80, "folds": 2, "channels": 8, "groups": 2, "epochs": 1, "depths": (4, 8)},
    "fashion-small": {**_FASHION, "images": 5000, "epochs": 8},
    "fashion": {**_FASHION, "epochs": 20},
}

_DIGITS = ("default", "tiny")
_ALL = ("default", "tiny", "fashion-small", "fashion")
_TABLE = "Chen et al. (2018), table 1: ResNet 0.60 M parameters and 0.41 % error, ODE-Net 0.22 M and 0.42 %"

EXPECTED: tuple[Expected, ...] = (
    Expected("gradient_difference", 1e-4, "<=", "identity: adjoint and backpropagation, float64, tolerance 1e-7", _ALL),
    Expected("ode_net_memory_spread", 0.05, "<=", "O(1) in table 1 of Chen et al. (2018), counted in bytes", _ALL),
    Expected("companions_per_sample", 1e-9, "<=", "identity: one clock a sample, float64", _ALL),
    Expected("companions_shared", 1e-2, "<=", "ten times the tolerance: logits in a batch of 1 and of 32", _DIGITS),
    Expected("ode_net_there_and_back", 1e-2, "<=", "the flow is invertible at the tolerance of training", _DIGITS),
    Expected("parameter_ratio", 0.40, "<=", _TABLE, _ALL),
    Expected("ode_net_accuracy", 98.5, ">=", "set beforehand"),
    Expected("behind_residual_6", 0.5, "<=", "points; " + _TABLE),
    Expected("ahead_of_mlp", 0.0, ">=", "baseline: a multilayer perceptron with as many parameters"),
)

ABOUT = About(
    title="ODE-Net image classification",
    summary="Digits and clothing by an ODE-Net, residual networks and no block at all; memory against depth.",
    authors="Chen, Rubanova, Bettencourt, Duvenaud",
    year=2018,
    paper="Neural ordinary differential equations",
    tasks=("classification", "image", "neural ODE", "residual network", "adjoint", "digits", "fashion-mnist"),
    minutes=6.0,
)
