"""Models: a field plus a way of solving it, and the residual network that it is the limit of."""

from __future__ import annotations

from pathline.models.neural_ode import NeuralODE
from pathline.models.residual import ResNet
from pathline.models.storage import load, save

__all__ = ["NeuralODE", "ResNet", "load", "save"]
