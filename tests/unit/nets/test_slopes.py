"""Slopes of activations and the traces of layered networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathline.nets import ACTIVATIONS, MLP
from pathline.nets.slopes import MODULES, SLOPES, slope_of


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_named_activation_has_its_value_and_slope(name: str):
    x = torch.linspace(-6, 6, 100, dtype=torch.float64, requires_grad=True)
    value, slope = SLOPES[name](x)
    torch.testing.assert_close(value, ACTIVATIONS[name](x))
    (wanted,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope, wanted)


def test_modules_of_torch_are_known_where_they_have_no_settings():
    x = torch.linspace(-3, 3, 20)
    for kind, name in MODULES.items():
        torch.testing.assert_close(kind()(x), ACTIVATIONS[name](x))
        assert slope_of(kind()) is SLOPES[name]
    assert slope_of(nn.Softplus(beta=2.0)) is None
    assert slope_of(torch.atan) is None


def test_a_network_tells_what_it_cannot_say():
    net, x = MLP(3, 3, 4, activation=torch.atan), torch.zeros(2, 3)
    assert net.trace(x) is None
    assert net.push(x, torch.ones(1, 3)) is None


def test_further_inputs_count_for_nothing():
    net = MLP(5, 2, (4, 6)).double()  # two inputs and three that are given, such as time and context
    x = torch.randn(7, 5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x).sum(0), x).permute(1, 0, 2)[:, :, :2]
    found = net.trace(x)
    assert found is not None
    torch.testing.assert_close(found[1], jacobian.diagonal(dim1=1, dim2=2).sum(-1))
