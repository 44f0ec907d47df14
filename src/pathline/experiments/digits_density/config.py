"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Config:
    """The density of handwritten digits, 64 pixels of 17 levels each."""

    hidden: tuple[int, ...] = (256, 256)
    """Hidden layers of FFJORD's field."""
    couplings: int = 6
    """Coupling layers of the RealNVP."""
    coupling_hidden: tuple[int, ...] = (170,)
    """Hidden layers in each; with these the parameters are as many as FFJORD's, within 3 %."""
    steps: int = 600
    """Updates of FFJORD."""
    realnvp_steps: int = 800
    """Updates of the RealNVP, which starts to overfit long before."""
    batch: int = 128
    """Digits in a batch."""
    lr: float = 5e-3
    """Learning rate of FFJORD, decaying to zero as a cosine."""
    realnvp_lr: float = 2e-3
    """Learning rate of the RealNVP, alike."""
    weight_decay: float = 0.1
    """Decoupled weight decay (AdamW) of both: there are 1257 digits to learn from."""
    kinetic: float = 0.02
    """Weight of FFJORD's kinetic energy."""
    jacobian: float = 0.02
    """Weight of the squared norm of its Jacobian."""
    alpha: float = 0.05
    """Margin of the logit."""
    tol: float = 1e-3
    """Relative and absolute tolerance while training."""
    exact_tol: float = 1e-7
    """Tolerance of all that is measured after training, in double precision."""
    dequantisations: int = 5
    """Draws of the noise that spreads whole numbers, over which the likelihood of the test digits is averaged."""
    noises: int = 256
    """Noises of the stochastic trace, a digit, in its comparison with the exact one."""


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {
        "hidden": (8,),
        "couplings": 2,
        "coupling_hidden": (8,),
        "steps": 3,
        "realnvp_steps": 3,
        "batch": 32,
        "exact_tol": 1e-4,
        "dequantisations": 1,
        "noises": 8,
    },
}

_BASELINE = "set beforehand: nats by which it beats the Gaussian in the same space"
_EXACT = ("default", "tiny")

EXPECTED: tuple[Expected, ...] = (
    Expected("uniform_bits", 1e-6, "<=", "identity: a uniform density costs log2(17) bits a pixel", _EXACT),
    Expected("pixel_round_trip", 1e-9, "<=", "identity: pixels to the flow's space and back", _EXACT),
    Expected("base_without_field", 1e-6, "<=", "identity: with a field of zero the flow is its Gaussian base", _EXACT),
    Expected("ffjord_below_diagonal_gaussian", 5.0, ">=", _BASELINE),
    Expected("ffjord_below_full_gaussian", 5.0, ">=", _BASELINE),
    Expected("stochastic_deviation", 3.0, "<=", "stochastic against exact trace, in standard errors"),
    Expected("there_and_back", 1e-4, "<=", "forward and inverse solve, largest distance, at tolerance 1e-7"),
)

ABOUT = About(
    title="The density of digits",
    summary="FFJORD on 64 pixels: bits per pixel by the exact and the stochastic trace, against Gaussians and RealNVP.",
    authors="Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud",
    year=2019,
    paper="FFJORD: free-form continuous dynamics for scalable reversible generative models",
    tasks=("density", "CNF", "normalizing flow", "FFJORD", "images", "digits", "likelihood", "generative model"),
    minutes=3.0,
)
