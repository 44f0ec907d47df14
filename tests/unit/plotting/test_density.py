"""Maps of densities, and lattices that a flow moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure

import pathline
from pathline import fields
from pathline.data import TARGETS
from pathline.models import PlanarFlow
from pathline.plotting import density_map, flow_of_lattice
from pathline.plotting.density import moved_lattice, on_grid


@pytest.fixture
def axes():
    return Figure().subplots()


class Stretch(torch.nn.Module):
    """dy/dt = A y: the flow is known."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rates", torch.tensor([0.5, -1.0]))

    def forward(self, t, y):
        return self.rates * y


def test_a_map_has_its_value_at_the_point_where_it_is_drawn(axes):
    shift = torch.tensor([1.0, -2.0])
    density_map(lambda x: -(x - shift).square().sum(-1), axes, xlim=(-4, 4), ylim=(-3, 3), points=81)
    (image,) = axes.images
    values = np.asarray(image.get_array())
    row, column = np.unravel_index(values.argmax(), values.shape)
    left, right, bottom, top = image.get_extent()
    # The origin is below, and pixels are the middles of cells.
    assert left + (column + 0.5) / 81 * (right - left) == pytest.approx(1.0, abs=0.06)
    assert bottom + (row + 0.5) / 81 * (top - bottom) == pytest.approx(-2.0, abs=0.06)
    assert image.get_clim() == pytest.approx((values.max() - 8, values.max()))


@pytest.mark.parametrize("kind", ["model", "distribution", "function", "values"])
def test_a_map_takes_a_density_in_any_form(axes, kind):
    torch.manual_seed(0)
    model = PlanarFlow(2, depth=2)
    values = on_grid(model().log_prob, (-2, 2), (-2, 2), 12)
    forms = {"model": model, "distribution": model(), "function": model().log_prob, "values": values}
    density_map(forms[kind], axes, xlim=(-2, 2), points=12)
    np.testing.assert_allclose(axes.images[0].get_array(), values, rtol=1e-5)


def test_where_there_is_nothing_the_map_is_dark(axes):
    density_map(TARGETS["checkerboard"]().log_prob, axes, points=16)
    values = np.asarray(axes.images[0].get_array())
    assert np.isfinite(values).all()
    assert (values > -math.log(32) - 1e-3).mean() == pytest.approx(0.5)


def test_a_lattice_moves_as_the_flow_does():
    model = pathline.CNF(Stretch(), 2, rtol=1e-7, atol=1e-7)
    start, log_start = moved_lattice(model, 0.0, (-2, 2), 9)
    moved, log_p = moved_lattice(model, 0.6, (-2, 2), 9)
    torch.testing.assert_close(moved, start * (0.6 * Stretch().rates).exp(), rtol=1e-5, atol=1e-5)
    # tr A t = -0.3: the flow makes areas smaller, and the density larger.
    torch.testing.assert_close(log_p, log_start + 0.3, rtol=1e-5, atol=1e-5)


def test_without_a_time_the_lattice_is_that_of_the_data():
    model = pathline.CNF(Stretch(), 2, t=(0.0, 2.0), rtol=1e-7, atol=1e-7)
    whole, at_the_end = moved_lattice(model, None, (-1, 1), 5), moved_lattice(model, 2.0, (-1, 1), 5)
    torch.testing.assert_close(whole, at_the_end)


def test_the_density_of_a_moved_lattice_is_the_models_own():
    torch.manual_seed(1)
    model = pathline.CNF(fields.ConcatSquash(2, (8,)), 2, rtol=1e-6, atol=1e-6)
    moved, log_p = moved_lattice(model, None, (-2, 2), 6)
    with torch.no_grad():
        torch.testing.assert_close(model().log_prob(moved), log_p, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [pathline.CNF, pathline.FlowMatching])
def test_a_lattice_is_drawn_with_lines_and_a_shade(axes, kind):
    model = kind(fields.ConcatSquash(2, (8,)), 2)
    assert flow_of_lattice(model, axes, t=0.5, lines=5, points=21) is axes
    (mesh,) = [c for c in axes.collections if isinstance(c, QuadMesh)]
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert mesh.get_array().size == 21**2
    assert len(lines.get_segments()) == 10


def test_a_lattice_needs_a_flow_in_the_plane(axes):
    with pytest.raises(TypeError, match="CNF or a FlowMatching over the plane, but PlanarFlow came"):
        flow_of_lattice(PlanarFlow(2), axes)
    with pytest.raises(TypeError, match="over the plane, but CNF came"):
        flow_of_lattice(pathline.CNF(fields.ConcatSquash(3, (8,)), 3), axes)
