"""Recurrent networks on irregular series: GRU, GRU-dt, GRU-D and ODE-RNN, with heads that forecast and classify."""

from __future__ import annotations

from pathline.models.recurrent.between import Decay, Flow, Hold
from pathline.models.recurrent.cells import GRUCell
from pathline.models.recurrent.gaps import Gaps
from pathline.models.recurrent.heads import Classifier, Forecaster
from pathline.models.recurrent.recurrent import GRU, GRUD, ODERNN, GRUdt, Recurrent
from pathline.models.recurrent.states import States

__all__ = [
    "GRU",
    "GRUD",
    "ODERNN",
    "Classifier",
    "Decay",
    "Flow",
    "Forecaster",
    "GRUCell",
    "GRUdt",
    "Gaps",
    "Hold",
    "Recurrent",
    "States",
]
