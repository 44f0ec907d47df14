"""Rates as modules, ``(t, y) -> dy``. A field never solves anything."""

from __future__ import annotations

from pathline.fields.coordinates import LogCoordinates
from pathline.fields.mechanics import Hamiltonian
from pathline.fields.mlp import MLP
from pathline.fields.population import LotkaVolterra, PredatorPrey
from pathline.fields.time import WithTime, time_channel, with_time

__all__ = [
    "MLP",
    "Hamiltonian",
    "LogCoordinates",
    "LotkaVolterra",
    "PredatorPrey",
    "WithTime",
    "time_channel",
    "with_time",
]
