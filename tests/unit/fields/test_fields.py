from __future__ import annotations

import pytest
import torch
from torch import nn

import pathline
from pathline import fields, nets


def test_a_channel_of_time_for_one_clock_and_for_many():
    y = torch.zeros(7, 3)
    assert torch.equal(fields.time_channel(torch.tensor(0.5), y), torch.full((7, 1), 0.5))
    many = torch.arange(7.0).reshape(7, 1)
    assert torch.equal(fields.time_channel(many, y), many)
    images = torch.zeros(7, 3, 4, 5, dtype=torch.float64)
    channel = fields.time_channel(torch.arange(7.0).reshape(7, 1, 1, 1), images, dim=1)
    assert channel.shape == (7, 1, 4, 5)
    assert channel.dtype == torch.float64
    assert torch.equal(channel[:, 0, 2, 3], torch.arange(7.0, dtype=torch.float64))


def test_with_time_appends_the_time_last():
    net = nn.Linear(3, 2)
    field, y = fields.with_time(net), torch.randn(5, 2)
    expected = net(torch.cat([y, torch.full((5, 1), 0.25)], 1))
    torch.testing.assert_close(field(torch.tensor(0.25), y), expected)
    assert field(torch.tensor(0.25), y[0]).shape == (2,)


def test_with_time_on_images():
    field = fields.with_time(nn.Conv2d(4, 3, 3, padding=1), dim=1)
    assert field(torch.tensor(0.5), torch.zeros(2, 3, 8, 8)).shape == (2, 3, 8, 8)
    assert "dim=1" in repr(field)


def test_the_time_receives_gradients():
    t = torch.tensor(0.3, requires_grad=True)
    fields.MLP(2, 8, time=True)(t, torch.randn(4, 2)).sum().backward()
    assert t.grad is not None
    assert t.grad.abs() > 0


def test_mlp_with_time_is_with_time_of_the_net():
    field, y, t = fields.MLP(2, 8, time=True), torch.randn(4, 2), torch.tensor(0.7)
    torch.testing.assert_close(field(t, y), fields.with_time(field.net)(t, y))
    assert field.net.inputs == 3
    assert fields.MLP(2, 8).net.inputs == 2


def test_mlp_without_time_ignores_it():
    field, y = fields.MLP(2, 8), torch.randn(4, 2)
    assert torch.equal(field(torch.tensor(0.0), y), field(torch.tensor(9.0), y))


def test_lotka_volterra_is_the_equations():
    a, b, c, d = 1.1, 0.4, 0.5, 0.1
    field = fields.LotkaVolterra((a, b, c, d), dtype=torch.float64)
    y = torch.rand(6, 2, dtype=torch.float64) * 5
    prey, predators = y[:, 0], y[:, 1]
    expected = torch.stack([a * prey - b * prey * predators, d * prey * predators - c * predators], 1)
    torch.testing.assert_close(field(torch.tensor(0.0), y), expected)


def test_lotka_volterra_keeps_its_first_integral():
    field = fields.LotkaVolterra((1.1, 0.4, 0.5, 0.1), dtype=torch.float64)
    y0 = torch.tensor([10.0, 5.0], dtype=torch.float64)
    ys = pathline.solve(field, y0, torch.linspace(0, 30, 61, dtype=torch.float64), rtol=1e-10, atol=1e-10).ys
    a, b, c, d = field.rates
    integral = d * ys[:, 0] - c * ys[:, 0].log() + b * ys[:, 1] - a * ys[:, 1].log()
    assert float((integral - integral[0]).detach().abs().max()) < 1e-7


def test_rates_stay_positive_and_can_be_kept():
    field = fields.LotkaVolterra()
    with torch.no_grad():
        field.log_rates -= 50
    assert bool((field.rates > 0).all())
    assert not list(fields.LotkaVolterra(learn=False).parameters())
    assert "log_rates" in fields.LotkaVolterra(learn=False).state_dict()


def test_a_hybrid_without_interaction_is_lotka_volterra():
    rates = (1.1, 0.4, 0.5, 0.1)
    silent = fields.PredatorPrey(nets.MLP(2, 2, 8, output_scale=0.0), rates, scale=10.0)
    y = torch.rand(6, 2) * 5
    torch.testing.assert_close(silent(torch.tensor(0.0), y), fields.LotkaVolterra(rates)(torch.tensor(0.0), y))


def test_a_hybrid_never_eats_what_does_not_live():
    field = fields.PredatorPrey(nets.MLP(2, 2, 8))
    alone = field(torch.tensor(0.0), torch.tensor([[3.0, 0.0], [0.0, 3.0]]))
    growth, _, death, _ = field.rates
    torch.testing.assert_close(
        alone, torch.stack([torch.stack([3 * growth, 0 * growth]), torch.stack([0 * death, -3 * death])])
    )


def test_log_coordinates_follow_the_same_curve():
    field = fields.LotkaVolterra((1.1, 0.4, 0.5, 0.1), dtype=torch.float64)
    seen = fields.LogCoordinates(field, [1.0, 0.5], [0.7, 2.0]).double()
    y0, t = torch.tensor([10.0, 5.0], dtype=torch.float64), torch.linspace(0, 10, 21, dtype=torch.float64)
    direct = pathline.solve(field, y0, t, rtol=1e-10, atol=1e-10).ys
    there = pathline.solve(seen, seen.to_coordinates(y0), t, rtol=1e-10, atol=1e-10).ys
    torch.testing.assert_close(seen.to_state(there), direct, rtol=1e-6, atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"four positive numbers a, b, c, d, but \(1.0, 2.0\) came"):
        fields.LotkaVolterra((1.0, 2.0))
    with pytest.raises(ValueError, match="four positive numbers"):
        fields.LotkaVolterra((1.0, 2.0, -1.0, 1.0))
    with pytest.raises(ValueError, match="`scale` is positive, but 0.0 came"):
        fields.LogCoordinates(fields.LotkaVolterra(), scale=0.0)
