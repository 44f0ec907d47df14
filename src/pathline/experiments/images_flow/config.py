"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pathline.experiments.spec import About, Expected

Paths = Literal["conditional-ot", "rectified", "variance-preserving", "schroedinger-bridge"]


@dataclass(frozen=True)
class Config:
    """Handwritten digits drawn by a class-conditional flow, and how many evaluations a digit costs."""

    path: Paths = "conditional-ot"
    """Path from noise to image."""
    twin_path: Paths = "variance-preserving"
    """Path of the ablation: the same network, images and updates."""
    coupling: Literal["independent", "ot", "sinkhorn"] = "independent"
    """Pairs of noise and image, chosen among images of one class."""
    widths: tuple[int, ...] = (32, 64)
    """Channels of the network's levels."""
    blocks: int = 1
    """Residual blocks of each level, on the way down and on the way up."""
    patch: int = 2
    """Side of the squares of pixels that become channels."""
    steps: int = 900
    """Updates of each flow."""
    batch: int = 64
    """Images in an update."""
    lr: float = 4e-3
    """Learning rate of Adam, which falls to zero by a cosine."""
    drop_context: float = 0.1
    """Share of the images that are shown without their class."""
    guidance: float = 1.5
    """Weight of the class in the guided row of the table."""
    tol: float = 2e-5
    """Tolerance of dopri5."""
    draws: int = 50
    """Digits drawn of each class to measure quality."""
    directions: int = 60
    """Principal directions of each class's Gaussian, the baseline."""
    judge_steps: int = 600
    """Updates of the classifier that judges."""
    identity_steps: int = 800
    """Updates of the small flow between two Gaussians."""


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {
        "widths": (8,),
        "steps": 2,
        "batch": 10,
        "tol": 0.1,
        "draws": 2,
        "directions": 3,
        "judge_steps": 2,
        "identity_steps": 2,
    },
    "long": {"steps": 4000},
}

EXPECTED: tuple[Expected, ...] = (
    Expected("gaussian_velocity_error", 0.05, "<=", "identity: the velocity between Gaussians is known"),
    Expected(
        "judge_accuracy", 0.94, ">=", "a judge that errs often says nothing; it is the same for every seed: 0.955"
    ),
    Expected(
        "frechet_to_gaussian", 0.35, "<=", "proposed; a Gaussian of each class, the baseline, has 1; seed 0: 0.23"
    ),
    Expected("frechet", 28.0, "<=", "proposed; seed 0 gives 20, training images 7, Gaussians 89"),
    Expected("accuracy", 0.70, ">=", "proposed; seed 0 gives 0.79 without guidance"),
    Expected("guided_accuracy", 0.90, ">=", "proposed; guidance sharpens the class; seed 0 gives 0.96"),
    Expected(
        "frechet_euler_10_to_dopri5", 1.25, "<=", "proposed; ten evaluations come close to an exact solve; seed 0: 1.06"
    ),
    Expected(
        "evaluations_to_twin", 1.0, "<=", "Lipman et al. (2023), Table 1: the straight path costs less, 142 to 183"
    ),
    Expected("nearest_to_held_out", 0.9, ">=", "drawn digits lie no nearer to the training images than real ones"),
    Expected("there_and_back", 1e-2, "<=", "the flow is invertible at the tolerance that is used"),
)

ABOUT = About(
    title="Images by flow matching",
    summary="Class-conditional digits from a flow that is trained without solving it, and what a digit costs.",
    authors="Lipman, Chen, Ben-Hamu, Nickel, Le",
    year=2023,
    paper="Flow matching for generative modeling",
    tasks=("images", "generation", "flow matching", "density", "guidance", "normalizing flow"),
    minutes=10.0,
)
