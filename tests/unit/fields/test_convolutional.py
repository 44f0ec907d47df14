"""The convolutional field against the formula that it stands for, and as a layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pathline
from pathline import NeuralODE, fields, nets, operators
from pathline.models import ResNet, load, save
from pathline.testing import check_field


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def as_printed(field, t, y, phi):
    """norm, phi, convolution of [y, t], norm, phi, convolution of [y, t], norm, with the time as a channel."""
    for norm, conv in ((field.norm1, field.conv1), (field.norm2, field.conv2)):
        h = phi(norm(y))
        y = conv(torch.cat([h, torch.ones_like(h[:, :1]) * t], 1))
    return field.norm3(y)


def randomised(field):
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return field


@pytest.mark.parametrize("groups", [None, 1, 2, 0])
@pytest.mark.parametrize("hidden", [None, 4])
def test_the_rate_is_the_printed_formula(groups, hidden):
    field = randomised(fields.ConvField(8, hidden=hidden, groups=groups, dtype=torch.float64))
    y, t = torch.randn(3, 8, 5, 4, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    torch.testing.assert_close(field(t, y), as_printed(field, t, y, F.relu))
    rows = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).reshape(3, 1, 1, 1)
    torch.testing.assert_close(field(rows, y), as_printed(field, rows, y, F.relu))


@pytest.mark.parametrize("activation", ["tanh", F.softplus, nn.SiLU(), nn.SiLU])
def test_any_activation(activation):
    field = fields.ConvField(4, activation=activation)
    y, t = torch.randn(2, 4, 3, 3), torch.tensor(0.3)
    phi = {"tanh": torch.tanh}.get(activation) if isinstance(activation, str) else activation
    phi = phi() if isinstance(phi, type) else phi
    torch.testing.assert_close(field(t, y), as_printed(field, t, y, phi))


def test_an_activation_with_parameters_has_its_own_at_each_place():
    field = fields.ConvField(4, activation=nn.PReLU)
    assert [name for name, _ in field.named_parameters() if name.startswith("phi")] == ["phi.0.weight", "phi.1.weight"]
    assert len([name for name, _ in fields.ConvField(4, activation=nn.PReLU()).named_parameters()]) == 11


def test_without_time_it_ignores_it_and_is_the_same_at_all_times():
    field, y = fields.ConvField(4, time=False), torch.randn(2, 4, 3, 3)
    assert field.conv1.in_channels == 4
    assert torch.equal(field(torch.tensor(0.0), y), field(torch.tensor(9.0), y))
    timed = fields.ConvField(4)
    assert not torch.allclose(timed(torch.tensor(0.0), y), timed(torch.tensor(9.0), y))


def test_it_is_a_field():
    check_field(fields.ConvField(4, activation="tanh"), torch.randn(2, 4, 3, 3))
    check_field(fields.ConvField(4, groups=0, activation="softplus"), torch.randn(2, 4, 3, 3))


def test_a_single_image_is_a_batch_of_one():
    field, y, t = fields.ConvField(8), torch.randn(8, 4, 4), torch.tensor(0.2)
    torch.testing.assert_close(field(t, y), field(t, y.unsqueeze(0))[0])


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 1), (8, 2), (32, 8), (64, 16), (256, 32), (12, 3)])
def test_groups_have_four_channels_or_more(channels, groups):
    assert fields.ConvField(channels).groups == groups
    assert nets.ConvBlock(channels).groups == groups


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "`channels` and `hidden` are positive integers, but 0"),
        ({"channels": 4, "hidden": -1}, "positive integers, but 4 and -1"),
        ({"channels": 4, "kernel": 2}, "`kernel` is an odd number.*but 2 came"),
        ({"channels": 6, "groups": 4}, "`groups` divides the channels, 6 and 6, but 4 came"),
        ({"channels": 8, "hidden": 6, "groups": 4}, "`groups` divides the channels, 8 and 6"),
        ({"channels": 4, "activation": "rely"}, 'Did you mean "relu"'),
    ],
)
def test_what_makes_no_convolution_is_refused(settings, message):
    for kind in (fields.ConvField, nets.ConvBlock):
        with pytest.raises(ValueError, match=message):
            kind(**settings)


def test_images_that_do_not_fit_are_refused_in_words():
    ode = NeuralODE(fields.ConvField(8))
    with pytest.raises(
        ValueError, match=r"images with 8 channels, \(batch, 8, height, width\), but \(2, 4, 5, 5\) came"
    ):
        ode(torch.zeros(2, 4, 5, 5))
    with pytest.raises(ValueError, match=r"but \(2, 8\) came"):
        ode(torch.zeros(2, 8))
    with pytest.raises(
        TypeError, match=r"in torch.float64 and the parameters in torch.float32.*model.to\(torch.float64\)"
    ):
        ode(torch.zeros(2, 8, 5, 5).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert ode(torch.zeros(2, 8, 5, 5)).dtype == torch.float32
    unet, t = fields.UNet(2, (8,)), torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"images with 2 channels.*\(3, 1, 8, 8\) came"):
        unet(t, torch.zeros(3, 1, 8, 8))
    with pytest.raises(TypeError, match=r"in torch.float64 and the parameters in torch.float32"):
        unet(t, torch.zeros(3, 2, 8, 8).double())


@pytest.mark.parametrize("groups", [2, 0])
@pytest.mark.parametrize("activation", ["tanh", "gelu", nn.SiLU()])
def test_push_is_the_derivative(groups, activation):
    field = randomised(fields.ConvField(4, hidden=6, groups=groups, activation=activation, dtype=torch.float64))
    y, t = torch.randn(3, 4, 3, 2, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    v = torch.randn(5, *y.shape, dtype=torch.float64)
    rate, dv = field.push(t, y, v)
    torch.testing.assert_close(rate, field(t, y))
    for tangent, found in zip(v, dv, strict=True):
        torch.testing.assert_close(found, torch.autograd.functional.jvp(lambda y: field(t, y), y, tangent)[1])
    shared = field.push(t, y, v[:, :1])[1]
    torch.testing.assert_close(shared, field.push(t, y, v[:, :1].expand_as(v))[1])
    one = field.push(t, y[0], v[:, 0])[1]
    torch.testing.assert_close(one, dv[:, 0])


def test_without_a_known_slope_there_is_no_push_but_a_divergence():
    field, y = fields.ConvField(1, hidden=2, groups=0, activation=lambda x: x.sin()), torch.randn(2, 1, 2, 2)
    assert field.push(torch.tensor(0.0), y, torch.ones(1, 2, 1, 2, 2)) is None
    named = fields.ConvField(1, hidden=2, groups=0, activation="sin")
    named.load_state_dict(field.state_dict())
    found = [operators.divergence(operators.at(f, torch.tensor(0.3)), y)[1] for f in (field, named)]
    torch.testing.assert_close(found[0], found[1])


def test_its_divergence_is_the_trace_of_the_jacobian_and_has_second_derivatives():
    field = fields.ConvField(1, hidden=4, groups=1, activation="softplus", dtype=torch.float64)
    y, t = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True), torch.tensor(0.4, dtype=torch.float64)
    _, found = operators.divergence(operators.at(field, t), y)
    for image, divergence in zip(y, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: field(t, x), image.detach()).reshape(9, 9)
        torch.testing.assert_close(divergence.detach(), jacobian.trace())
    found.sum().backward()
    assert field.conv1.weight.grad.abs().max() > 0


@pytest.mark.parametrize("groups", [0, 1])
def test_a_density_of_images_by_its_push_and_without(groups):
    field = fields.ConvField(1, hidden=2, groups=groups, activation="softplus", dtype=torch.float64)
    images = torch.randn(3, 1, 3, 3, dtype=torch.float64)
    found = []
    for f in (field, fields.ConvField.forward.__get__(field)):
        density = pathline.CNF(f, (1, 3, 3), rtol=1e-6, atol=1e-6).double()
        found.append(density().log_prob(images))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    found[0].sum().backward()
    assert field.conv2.weight.grad.abs().max() > 0


def network(**settings):
    ode = NeuralODE(fields.ConvField(8, activation="gelu"), rtol=1e-3, atol=1e-3, **settings)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), ode, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )


def test_logits_do_not_depend_on_companions_with_a_clock_a_sample():
    net, images = network(clock="per-sample").double(), 3 * torch.randn(8, 1, 8, 8, dtype=torch.float64)
    alone = torch.cat([net(images[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(net(images), alone, rtol=0, atol=1e-12)


def test_on_the_shared_clock_companions_move_logits_within_the_tolerance():
    net, images = network().double(), torch.randn(8, 1, 8, 8, dtype=torch.float64)
    images[0] *= 30.0
    alone = torch.cat([net(images[i : i + 1]) for i in range(8)])
    difference = float((net(images) - alone).detach().abs().max())
    assert 0 < difference < 1e-3


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_batch_normalisation_in_the_field_is_refused_with_what_to_use(gradient):
    class Normed(fields.ConvField):
        def __init__(self):
            super().__init__(4)
            self.norm2 = nn.BatchNorm2d(4)

    with pytest.raises(ValueError, match=r"BatchNorm2d in train mode.*Use torch.nn.GroupNorm"):
        NeuralODE(Normed(), gradient=gradient)(torch.randn(2, 4, 3, 3))


def test_dropout_in_the_field_warns():
    class Dropped(fields.ConvField):
        def __init__(self):
            super().__init__(4)
            self.norm3 = nn.Dropout2d(0.1)

    with pytest.warns(UserWarning, match="Dropout2d in train mode"):
        NeuralODE(Dropped(), method="rk4", dt=0.5)(torch.randn(2, 4, 3, 3))


def test_the_residual_sibling_adds_norm_phi_convolution_twice():
    block, x = nets.ConvBlock(8, activation="tanh"), torch.randn(2, 8, 4, 4)
    h = block.conv1(torch.tanh(block.norm1(x)))
    torch.testing.assert_close(block(x), block.conv2(torch.tanh(block.norm2(h))))
    torch.testing.assert_close(ResNet([block])(x), x + block(x))
    shared = ResNet(block, depth=4, step=0.25)
    euler = pathline.solve(block, x, (0.0, 1.0), method="euler", dt=0.25).y1
    torch.testing.assert_close(shared(x), euler)


@pytest.mark.parametrize("activation", ["relu", nn.SiLU()])
def test_image_models_are_saved_and_read_again(tmp_path, activation):
    field = fields.ConvField(8, hidden=4, groups=2, activation=activation, kernel=5)
    net = nn.Sequential(ResNet([nets.ConvBlock(8, activation=activation)]), NeuralODE(field, clock="per-sample"))
    images = torch.randn(2, 8, 4, 4)
    again = load(save(net, tmp_path))
    torch.testing.assert_close(again(images), net(images))
