"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Config:
    """Kernels that react, diffuse and drift while the state flows: identities, a task that asks for it, digits."""

    line: int = 16
    """Cells of the periodic line of the synthetic task."""
    channels: int = 2
    """Its channels."""
    kernel: int = 5
    """Cells of its kernels."""
    strength: float = 3.0
    """Norm of the true kernel at the start."""
    diffusion: float = 1.0
    """True diffusivity of the kernel."""
    reaction: float = 0.5
    """True growth of the kernel."""
    steps: int = 6
    """Runge-Kutta steps of the trained flows."""
    updates: int = 200
    """Updates of Adam on the synthetic task."""
    polish: int = 100
    """Iterations of L-BFGS after them."""
    lr: float = 2e-2
    """Learning rate of Adam on the synthetic task."""
    digits_channels: int = 8
    """Channels of the blocks on the digits."""
    digits_method: str = "midpoint"
    """Method of the flows on the digits, with fixed steps."""
    digits_steps: int = 4
    """Its steps; the weights that go ahead take twice as many."""
    digits_epochs: int = 8
    """Passes over the digits in each fold; 0 leaves them out."""
    digits_lr: float = 2e-2
    """Learning rate of Adam on the digits, decaying to zero as a cosine."""
    batch: int = 64
    """Digits in a batch."""
    folds: int = 5
    """Parts into which the digits are divided, each held out once."""


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {
        "line": 6,
        "kernel": 3,
        "steps": 2,
        "updates": 2,
        "polish": 1,
        "digits_channels": 2,
        "digits_steps": 2,
        "digits_epochs": 1,
        "batch": 500,
        "folds": 2,
    },
}

_EXACT = ("default", "tiny")

EXPECTED: tuple[Expected, ...] = (
    Expected("rest_to_node", 0.0, "<=", "identity: kernels at rest are the plain flow, bit for bit", _EXACT),
    Expected("fourier", 1e-5, "<=", "identity: each Fourier mode of a kernel is an exponential", _EXACT),
    Expected("gradient_to_differences", 1e-4, "<=", "identity: finite differences, float64", _EXACT),
    Expected("smallest_gradient", 1e-3, ">=", "none of the gradients of d, v, rho and w0 vanishes", _EXACT),
    Expected("checkpointed_to_backprop", 1e-6, "<=", "identity: the same discrete gradient", _EXACT),
    Expected("checkpointed_states_a_step", 1.0, "<=", "memory: one state (z, weights) more for each step", _EXACT),
    Expected("node_to_lock_step_mse", 5.0, ">=", "set beforehand: the task asks for weights that evolve"),
    Expected("node_to_ahead_mse", 5.0, ">=", "set beforehand, for weights evolved on their own grid first"),
    Expected("resnet_to_lock_step_mse", 5.0, ">=", "set beforehand: independent weights, equal parameters"),
    Expected("digits_lock_step_gain", 0.0, ">=", "set beforehand: no worse than constant weights in the mean"),
    Expected("digits_ahead_gain", 0.0, ">=", "set beforehand: no worse than constant weights in the mean"),
)

ABOUT = About(
    title="Evolving weights",
    summary="ANODEV2: kernels that react, diffuse and drift while the state flows, in lock-step or ahead of it.",
    authors="Zhang, Yao, Gholami, Keutzer, Gonzalez, Biros, Mahoney",
    year=2019,
    paper="ANODEV2: a coupled neural ODE evolution framework",
    tasks=("classification", "neural ODE", "time-dependent weights", "convolution", "digits", "checkpoints"),
    minutes=4.0,
)
