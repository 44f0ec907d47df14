"""The identities of the regression experiment, and what its report says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import pathline
from pathline import fields
from pathline.experiments.regression import curvature, identities
from pathline.experiments.regression.config import EXPECTED, PRESETS, Config
from pathline.experiments.regression.controls import plain_network, residual_network
from pathline.models import ResNet


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_identities_hold_for_any_weights(seed):
    bounds = [bound for bound in EXPECTED if "tiny" in bound.presets]
    found = identities.measure(seed, width=25)
    assert {bound.metric for bound in bounds} == set(found)
    assert [bound.metric for bound in bounds if not bound.met_by(found[bound.metric])] == []


def test_the_recursion_is_wrong_with_another_sign():
    """The identity is no tautology: the adjoint of the other sign is far off."""
    field, y0 = fields.MLP(2, 8, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    right = identities.backpropagated(field, y0, 20)
    torch.testing.assert_close(identities.adjoint_recursion(field, y0, 20)[0], right, rtol=1e-12, atol=1e-13)

    class Reversed(nn.Module):
        def forward(self, t, y):
            return -field(t, y)

    assert float((identities.backpropagated(Reversed(), y0, 20) - right).norm() / right.norm()) > 0.1


def test_the_recursion_of_a_linear_field_is_a_power_of_a_matrix():
    matrix = torch.tensor([[0.1, -0.4], [0.7, -0.2]], dtype=torch.float64)
    y0 = torch.tensor([0.3, -0.8], dtype=torch.float64)
    step = torch.eye(2, dtype=torch.float64) + matrix / 10
    end = torch.linalg.matrix_power(step, 10) @ y0
    expected = 2 * (end - 1.0) @ torch.linalg.matrix_power(step, 10)
    torch.testing.assert_close(identities.adjoint_recursion(lambda t, y: matrix @ y, y0, 10)[0], expected)


class Sine(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x.sin()


def test_curvature_of_a_known_function():
    # The mean of |sin| over [-3, 3] is (1 - cos 3) / 3; the grid leaves out both ends.
    assert curvature(Sine()) == pytest.approx((1 - math.cos(3)) / 3, rel=2e-3)


def test_curvature_of_a_flow_is_that_of_its_exact_map():
    class Decay(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(1.0))

        def forward(self, t, y):
            return -self.rate * y * y * y

    # y' = -y^3 maps x to x / sqrt(1 + 2 x^2), with second derivative -6 x (1 + 2 x^2)^(-5/2).
    model = pathline.models.NeuralODE(Decay(), rtol=1e-2, atol=1e-2)
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    expected = float((6 * x * (1 + 2 * x**2) ** -2.5).abs().mean())
    assert curvature(model) == pytest.approx(expected, rel=1e-2)
    assert model.rtol == 1e-2


def test_depth_counts_layers():
    for depth in (2, 5):
        layers = [m for m in residual_network(depth).modules() if isinstance(m, nn.Tanh)]
        assert len(layers) == depth
        assert len(plain_network(depth).hidden) == depth
        residual = next(m for m in residual_network(depth).modules() if isinstance(m, ResNet))
        assert residual.step == 1 / depth


def test_as_printed_is_what_the_chapter_prints():
    config = Config(**PRESETS["as-printed"])
    assert (config.depth, config.width, config.optimizer, config.lr, config.steps) == (3, 25, "sgd", 0.01, 1000)
    assert (config.init, config.tol, config.method, config.repeats) == ("torch", 1e-3, "dopri5", 10)
