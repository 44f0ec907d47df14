"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Config:
    """A ball inside a shell, a crossing and the digits: flows of the inputs' own dimension, and of more."""

    hidden: tuple[int, ...] = (32, 32)
    """Hidden layers of the augmented flow; those of the plain one are as much wider as equal parameters need."""
    activation: str = "relu"
    """Their activation, as printed."""
    method: str = "dopri5"
    """Method of the solver."""
    tol: float = 1e-3
    """Relative and absolute tolerance while training."""
    measured_tol: float = 1e-5
    """Tolerance of everything that is measured: evaluations, accuracy, the way there and back."""
    inner: int = 500
    """Points of the ball."""
    outer: int = 1000
    """Points of the shell."""
    epochs: int = 30
    """Passes over the points."""
    batch: int = 64
    """Points in a batch."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    crossing_steps: int = 300
    """Updates of the flows that are asked to swap -1 and 1."""
    digits_augment: int = 10
    """Zeros appended to the 64 pixels."""
    digits_hidden: tuple[int, ...] = (128,)
    """Hidden layers of the augmented flow of the digits."""
    digits_epochs: int = 10
    """Passes over the digits in each fold; 0 leaves them out."""
    digits_lr: float = 3e-3
    """Learning rate of Adam on the digits, decaying to zero as a cosine."""
    folds: int = 5
    """Parts into which the digits are divided, each held out once."""


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {
        "hidden": (6,),
        "inner": 20,
        "outer": 40,
        "epochs": 2,
        "batch": 60,
        "crossing_steps": 3,
        "digits_hidden": (4,),
        "digits_epochs": 1,
        "folds": 2,
    },
}

_EXACT = ("default", "tiny")
_PAPER = "Dupont, Doucet, Teh (2019)"

EXPECTED: tuple[Expected, ...] = (
    Expected("augment_0_to_node", 0.0, "<=", "identity: no added dimension is the plain flow, bit for bit", _EXACT),
    Expected("augmented_start", 0.0, "<=", "identity: the added components start at zero exactly", _EXACT),
    Expected("anode_train_accuracy", 0.999, ">=", f"{_PAPER}: one more dimension suffices"),
    Expected("anode_wedge_accuracy", 0.99, ">=", "replication with the same wedge held out: 1.000"),
    Expected("node_wedge_accuracy", 0.75, "<=", "replication with the same wedge held out: 0.619"),
    Expected("anode_to_node_evaluations", 1.0, "<=", f"{_PAPER}: fewer evaluations; replication 170 against 218"),
    Expected("node_growth", 1.4, ">=", "evaluations after training over those before it; replication 1.74"),
    Expected("anode_growth", 1.2, "<=", "evaluations after training over those before it; replication 1.04"),
    Expected("node_there_and_back", 1e-2, "<=", "at the tolerance at which evaluations are counted"),
    Expected("anode_there_and_back", 1e-2, "<=", "at the tolerance at which evaluations are counted"),
    Expected("crossing_node_mse", 0.99, ">=", "a flow on the line keeps the order: no better than 1"),
    Expected("crossing_anode_mse", 0.01, "<=", f"{_PAPER}: one more dimension suffices"),
)

ABOUT = About(
    title="Augmented neural ODEs",
    summary="What a flow of the plane cannot do and one dimension more can: spheres with a held-out wedge, a crossing.",
    authors="Dupont, Doucet, Teh",
    year=2019,
    paper="Augmented neural ODEs",
    tasks=("classification", "neural ODE", "augmented", "topology", "digits", "evaluations"),
    minutes=2.0,
)
