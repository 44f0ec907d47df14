"""Settings and bounds. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from pathline.experiments.spec import About, Expected


@dataclass(frozen=True)
class Config:
    """Who speaks? Four recurrent networks on utterances of which half of the frames are missing."""

    dropped: float = 0.5
    """Part of the frames of each utterance that nobody sees, in training and in the test."""
    rates: tuple[float, ...] = (0.0, 0.3, 0.7)
    """Other parts, for the figure."""
    repeats: int = 5
    """Times that everything is done, each with other frames dropped and other initial weights."""
    hidden: int = 32
    """Size of the ODE-RNN's state; those of the others are as much larger as equal parameters need."""
    width: int = 32
    """Units of the field's hidden layer."""
    unit: float = 0.1
    """Length of a frame in the unit of the field's time."""
    output_scale: float = 0.1
    """Factor on the initial weights of the field's last layer."""
    epochs: int = 60
    """Passes over the training utterances."""
    batch: int = 54
    """Utterances in a batch."""
    lrs: tuple[float, ...] = (1e-2, 2e-2)
    """Learning rates of AdamW, decaying to zero as a cosine; each network takes the one that suits it."""
    tries: int = 4
    """Splits of the training utterances on which that is found out; 0 for the first rate."""
    weight_decay: float = 0.3
    """Decay of the weights."""
    train: int = 0
    """Number of training utterances; 0 for all."""


PRESETS: dict[str, dict[str, object]] = {
    "tiny": {
        "rates": (0.3,),
        "repeats": 1,
        "tries": 1,
        "lrs": (1e-2,),
        "hidden": 6,
        "width": 8,
        "epochs": 2,
        "train": 60,
        "batch": 30,
    },
}

_EXACT = ("default", "tiny")

EXPECTED: tuple[Expected, ...] = (
    Expected("zero_field_to_gru", 0.0, "<=", "identity: an ODE-RNN whose field is zero is a GRU, bit for bit", _EXACT),
    Expected("empty_rows_change", 0.0, "<=", "identity: rows without a value leave a held state as it is", _EXACT),
    Expected(
        "companions", 1e-5, "<=", "an utterance's probabilities do not depend on its batch, but for rounding", _EXACT
    ),
    Expected("ahead_of_gru_dt", 0.0, ">=", "the ODE-RNN is to be above the GRU with gaps as inputs"),
)

ABOUT = About(
    title="Who speaks, with half of the frames missing",
    summary="GRU, GRU-dt, GRU-D and ODE-RNN classify utterances of nine speakers, half of whose frames were dropped.",
    authors="Rubanova, Chen, Duvenaud",
    year=2019,
    paper="Latent ordinary differential equations for irregularly-sampled time series",
    tasks=("classification", "time series", "irregular", "missing", "recurrent", "speech"),
    minutes=4.0,
)
