"""Rates as modules, ``(t, y) -> dy``. A field never solves anything."""

from __future__ import annotations

from pathline.fields.concat_squash import ConcatSquash
from pathline.fields.convolutional import ConvField
from pathline.fields.coordinates import LogCoordinates
from pathline.fields.evolving_weights import EvolvingWeights, ReactionDiffusionAdvection
from pathline.fields.mechanics import Hamiltonian
from pathline.fields.mlp import MLP
from pathline.fields.physics import (
    SIR,
    Circulation,
    Corrected,
    DampedOscillator,
    Doses,
    DoublePendulum,
    Infusions,
    Known,
    OneCompartment,
    Pendulum,
    Quantity,
    TwoCompartments,
)
from pathline.fields.planar import Planar
from pathline.fields.population import LotkaVolterra, PredatorPrey
from pathline.fields.time import WithTime, time_channel, with_time
from pathline.fields.unet import UNet

__all__ = [
    "MLP",
    "SIR",
    "Circulation",
    "ConcatSquash",
    "ConvField",
    "Corrected",
    "DampedOscillator",
    "Doses",
    "DoublePendulum",
    "EvolvingWeights",
    "Hamiltonian",
    "Infusions",
    "Known",
    "LogCoordinates",
    "LotkaVolterra",
    "OneCompartment",
    "Pendulum",
    "Planar",
    "PredatorPrey",
    "Quantity",
    "ReactionDiffusionAdvection",
    "TwoCompartments",
    "UNet",
    "WithTime",
    "time_channel",
    "with_time",
]
