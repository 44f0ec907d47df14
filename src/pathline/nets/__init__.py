"""Plain networks, ``x -> y``: no time, no solver."""

from __future__ import annotations

from pathline.nets.activations import ACTIVATIONS
from pathline.nets.mlp import MLP

__all__ = ["ACTIVATIONS", "MLP"]
