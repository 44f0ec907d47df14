"""A flow as one layer of an image network, as somebody would write it the first time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pathline import NeuralODE, fields


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def bars(count):
    """Images of 8 by 8 pixels with a bright row (class 0) or column (class 1) and noise."""
    labels = torch.arange(count) % 2
    images = 0.3 * torch.randn(count, 1, 8, 8)
    for image, label, place in zip(images, labels, torch.randint(1, 7, (count,)), strict=True):
        image[0].select(int(label), int(place)).add_(1.5)
    return images, labels


def network(**settings):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        NeuralODE(fields.ConvField(8, groups=2, activation="silu"), rtol=1e-4, atol=1e-4, **settings),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


@pytest.mark.parametrize(
    ("gradient", "clock"),
    [("backprop", "shared"), ("adjoint", "shared"), ("checkpointed", "per-sample"), ("adjoint", "per-sample")],
)
def test_a_flow_inside_a_sequential_learns(gradient, clock):
    net, (images, labels) = network(gradient=gradient, clock=clock), bars(8)
    flow = copy.deepcopy(net[1].field.conv1.weight)
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=5e-3), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not torch.allclose(flow, net[1].field.conv1.weight, atol=1e-3)
    assert net[1].evaluations > 0
    assert (net[1].backward_evaluations > 0) == (gradient != "backprop")


def test_the_adjoint_trains_the_stem_as_backpropagation_does():
    images, labels = bars(8)
    net = network().double()
    found = []
    for gradient in ("backprop", "adjoint"):
        same = copy.deepcopy(net)
        same[1].gradient, same[1].rtol, same[1].atol = gradient, 1e-8, 1e-8
        F.cross_entropy(same(images.double()), labels).backward()
        found.append(torch.cat([p.grad.flatten() for p in same.parameters()]))
    assert found[0][:72].abs().max() > 0  # the stem, in front of the flow
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


def test_two_flows_with_a_halving_between_them():
    stages = [
        nn.Conv2d(3, 8, 3, padding=1),
        NeuralODE(fields.ConvField(8), method="rk4", dt=0.5),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        NeuralODE(fields.ConvField(16), method="rk4", dt=0.5, gradient="checkpointed"),
    ]
    net = nn.Sequential(*stages)
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 16, 4, 4)
    net(torch.randn(2, 3, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_channels_of_zeros_widen_the_state():
    flow = NeuralODE(fields.ConvField(8, groups=2), augment=5, augment_dim=1, method="rk4", dt=0.5)
    images = torch.randn(2, 3, 6, 6)
    assert flow(images).shape == images.shape
    assert flow.solve(images).y1.shape == (2, 8, 6, 6)
