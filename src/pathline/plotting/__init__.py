"""Figures: each function takes a ``Solution`` or a model, and the axes to draw on."""

from __future__ import annotations

from pathline.plotting.density import density_map, flow_of_lattice
from pathline.plotting.flow_lines import flow_lines
from pathline.plotting.phase_portrait import phase_portrait
from pathline.plotting.series import fan, forecast, observations
from pathline.plotting.style import PALETTE
from pathline.plotting.trajectory import trajectory

__all__ = [
    "PALETTE",
    "density_map",
    "fan",
    "flow_lines",
    "flow_of_lattice",
    "forecast",
    "observations",
    "phase_portrait",
    "trajectory",
]
