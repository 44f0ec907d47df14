"""Data as tensors: small real series that travel with the package, and generators."""

from __future__ import annotations

from pathline.data.digits import digits
from pathline.data.fashion_mnist import fashion_mnist
from pathline.data.hudson_bay import hudson_bay
from pathline.data.mnist import mnist5000
from pathline.data.smoothing import SmoothingSpline
from pathline.data.spheres import concentric_spheres
from pathline.data.targets import TARGETS, Target
from pathline.data.toy import crossing, cubic, two_moons

__all__ = [
    "TARGETS",
    "SmoothingSpline",
    "Target",
    "concentric_spheres",
    "crossing",
    "cubic",
    "digits",
    "fashion_mnist",
    "hudson_bay",
    "mnist5000",
    "two_moons",
]
