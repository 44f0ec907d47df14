from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import pathline
from pathline import fields
from pathline.models import NeuralODE
from pathline.plotting import flow_lines, phase_portrait, trajectory

T = torch.linspace(0, 1, 11)


def turning(t, y):
    return torch.stack([-y[..., 1], y[..., 0]], -1)


@pytest.fixture
def axes():
    return Figure().subplots()


def test_a_trajectory_has_a_line_a_component(axes):
    solution = pathline.solve(turning, torch.tensor([1.0, 0.0]), T)
    assert trajectory(solution, axes, names=["cos", "sin"]) is axes
    assert [line.get_label() for line in axes.lines] == ["cos", "sin"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), np.sin(T.numpy()), atol=1e-3)


def test_a_dense_solution_is_drawn_smoothly(axes):
    solution = pathline.solve(turning, torch.tensor([1.0, 0.0]), T[::10], save=pathline.Save(dense=True))
    trajectory(solution, axes, points=50)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.cos(np.linspace(0, 1, 50)), atol=1e-3)


def test_a_model_is_drawn_from_a_start(axes):
    model = NeuralODE(fields.MLP(2, 8))
    trajectory(model, axes, y0=torch.randn(5, 2), t=T, color="black")
    assert len(axes.lines) == 10
    assert len(axes.get_legend_handles_labels()[1]) == 2
    with pytest.raises(ValueError, match="pass `y0` and `t`"):
        trajectory(model, axes)


def test_a_scalar_state(axes):
    trajectory(pathline.solve(lambda t, y: -y, torch.tensor(1.0), T), axes)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.exp(-T.numpy()), atol=1e-3)


def test_without_axes_the_current_ones_are_used():
    axes = trajectory(pathline.solve(turning, torch.tensor([1.0, 0.0]), T))
    assert axes is plt.gca()
    plt.close("all")


def test_the_arrows_of_a_phase_portrait_point_along_the_field(axes):
    phase_portrait(turning, axes, xlim=(-1, 1), ylim=(-1, 1), density=6)
    (arrows,) = [c for c in axes.collections if isinstance(c, matplotlib.quiver.Quiver)]
    x, y = arrows.X, arrows.Y
    np.testing.assert_allclose(arrows.U, -y / np.hypot(x, y), atol=1e-6)
    np.testing.assert_allclose(arrows.V, x / np.hypot(x, y), atol=1e-6)


def test_a_phase_portrait_of_a_model_has_field_and_paths(axes):
    model = NeuralODE(turning)
    phase_portrait(model, axes, y0=torch.tensor([[1.0, 0.0], [0.5, 0.0]]), t=T, xlim=(-2, 2), ylim=(-2, 2))
    assert len(axes.lines) == 2
    np.testing.assert_allclose(np.hypot(*axes.lines[1].get_data()), 0.5, atol=1e-3)
    assert axes.get_xlim() == (-2, 2)


def test_a_phase_portrait_of_a_solution_is_its_path(axes):
    phase_portrait(pathline.solve(turning, torch.tensor([1.0, 0.0]), T), axes)
    assert len(axes.lines) == 1
    assert not axes.collections


def test_a_phase_portrait_needs_a_plane(axes):
    with pytest.raises(ValueError, match="two components, but the state has 3"):
        phase_portrait(pathline.solve(lambda t, y: -y, torch.ones(3), T), axes)


def test_flow_lines_are_one_a_start_and_never_cross(axes):
    model = NeuralODE(fields.MLP(1, 8, time=True))
    flow_lines(model, axes, y0=torch.linspace(-1, 1, 9).unsqueeze(1), t=T)
    ys = np.stack([line.get_ydata() for line in axes.lines])
    assert ys.shape == (9, 11)
    assert (np.diff(ys, axis=0) > 0).all()
    assert len({tuple(line.get_color()) for line in axes.lines}) == 9


def test_what_cannot_be_drawn_says_so(axes):
    with pytest.raises(TypeError, match="A Solution or a model is drawn, but Tensor came"):
        trajectory(torch.zeros(3), axes)
    solution = pathline.solve(lambda t, y: {"q": -y["q"]}, {"q": torch.ones(1)}, T)
    with pytest.raises(TypeError, match="The state is not one tensor"):
        trajectory(solution, axes)
