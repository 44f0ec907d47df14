"""Plain networks, ``x -> y``: no time, no solver."""

from __future__ import annotations

from pathline.nets.activations import ACTIVATIONS
from pathline.nets.convolutional import ConvBlock
from pathline.nets.mlp import MLP
from pathline.nets.unet import UNet

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConvBlock",
    "UNet",
]
