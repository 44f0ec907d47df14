"""Known equations with named, bounded quantities: fixed, learned, or given for each series."""

from __future__ import annotations

from pathline.fields.physics.circulation import Circulation
from pathline.fields.physics.epidemics import SIR
from pathline.fields.physics.known import Corrected, Known, Quantity
from pathline.fields.physics.mechanics import DampedOscillator, DoublePendulum, Pendulum
from pathline.fields.physics.pharmacokinetics import Doses, Infusions, OneCompartment, TwoCompartments

__all__ = [
    "SIR",
    "Circulation",
    "Corrected",
    "DampedOscillator",
    "Doses",
    "DoublePendulum",
    "Infusions",
    "Known",
    "OneCompartment",
    "Pendulum",
    "Quantity",
    "TwoCompartments",
]
