"""Data as tensors: small real series that travel with the package, and generators."""

from __future__ import annotations

from pathline.data.hudson_bay import hudson_bay
from pathline.data.smoothing import SmoothingSpline
from pathline.data.toy import crossing, cubic, two_moons

__all__ = ["SmoothingSpline", "crossing", "cubic", "hudson_bay", "two_moons"]
