"""Figures: each function takes a ``Solution`` or a model, and the axes to draw on."""

from __future__ import annotations

from pathline.plotting.density import density_map, flow_of_lattice
from pathline.plotting.flow_lines import flow_lines
from pathline.plotting.phase_portrait import phase_portrait
from pathline.plotting.style import PALETTE
from pathline.plotting.trajectory import trajectory

__all__ = ["PALETTE", "density_map", "flow_lines", "flow_of_lattice", "phase_portrait", "trajectory"]
