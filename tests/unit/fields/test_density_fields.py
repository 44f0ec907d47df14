"""Fields made for densities: shapes, times, contexts, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import pathline
from pathline import fields

MAKERS = {
    "squash": lambda **o: fields.ConcatSquash(2, (5, 4), **o),
    "planar": lambda **o: fields.Planar(2, 6, 5, **o),
    "mlp": lambda **o: fields.MLP(2, (5, 4), time=True, **o),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_rate_for_one_state_many_and_a_time_for_each(name: str):
    field = MAKERS[name](dtype=torch.float64)
    y, t = torch.randn(4, 3, 2, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    rate = field(t, y)
    assert rate.shape == y.shape
    torch.testing.assert_close(field(t, y[1, 2]), rate[1, 2])
    times = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None]
    rows = field(times, y[:, 0])
    torch.testing.assert_close(rows, torch.stack([field(s[0], z) for s, z in zip(times, y[:, 0], strict=True)]))
    one = pathline.solve(field, y[:, 0], (0.0, 1.0), clock="per-sample").y1
    torch.testing.assert_close(one, pathline.solve(field, y[:, 0], (0.0, 1.0)).y1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_the_time_matters(name: str):
    field, y = MAKERS[name](), torch.ones(1, 2)
    assert not torch.allclose(field(torch.tensor(0.0), y), field(torch.tensor(1.0), y))


def test_a_planar_field_may_stand_still():
    field, y = fields.Planar(2, time_dependent=False), torch.ones(1, 2)
    assert torch.equal(field(torch.tensor(0.0), y), field(torch.tensor(1.0), y))


def test_planar_units_are_their_formula():
    field, t = fields.Planar(3, units=4, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    w, u, b, g = field.net(t.reshape(1)).split([12, 12, 4, 4])
    z = torch.randn(3, dtype=torch.float64)
    terms = [
        torch.sigmoid(g[n]) / math.sqrt(4) * u.reshape(4, 3)[n] * torch.tanh(w.reshape(4, 3)[n] @ z + b[n])
        for n in range(4)
    ]
    torch.testing.assert_close(field(t, z), torch.stack(terms).sum(0))


def test_squashed_layers_are_their_formula():
    field = fields.ConcatSquash(2, 3, context=1, dtype=torch.float64)
    t, y, context = torch.tensor(0.7, dtype=torch.float64), torch.randn(1, 2).double(), torch.randn(1, 1).double()
    s = torch.cat([t.reshape(1, 1), context], 1)
    gates, shifts = torch.sigmoid(field.gate(s)).split([3, 2], 1), field.shift(s).split([3, 2], 1)
    hidden = torch.tanh(field.layers[0](y) * gates[0] + shifts[0])
    torch.testing.assert_close(field(t, y, context), field.layers[1](hidden) * gates[1] + shifts[1])


def test_signals_keep_their_size_at_the_start():
    torch.manual_seed(0)
    y = torch.randn(4000, 32)
    rate = fields.ConcatSquash(32, (128, 128, 128))(torch.tensor(0.5), y)
    assert 0.5 < float(rate.detach().std()) < 2.0
    assert float(fields.ConcatSquash(32, (128, 128), init="torch")(torch.tensor(0.5), y).std(0).mean().detach()) < 0.2


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: fields.ConcatSquash(0), ValueError, "positive"),
        (lambda: fields.ConcatSquash(2, activation="tahn"), ValueError, "tanh"),
        (lambda: fields.ConcatSquash(2, activation=nn.Tanh), TypeError, r"Tanh\(\)"),
        (lambda: fields.ConcatSquash(2, init="small"), ValueError, "matched"),
        (lambda: fields.Planar(2, 0), ValueError, "positive"),
        (lambda: fields.ConcatSquash(2)(torch.tensor(0.0), torch.zeros(1, 2), torch.zeros(1, 1)), TypeError, "SIZE"),
        (lambda: fields.MLP(2)(torch.tensor(0.0), torch.zeros(1, 2), torch.zeros(1, 1)), TypeError, "SIZE"),
        (lambda: fields.MLP(2, context=1)(torch.tensor(0.0), torch.zeros(1, 2)), TypeError, "receives none"),
        (
            lambda: fields.MLP(2, context=3)(torch.tensor(0.0), torch.zeros(1, 2), torch.zeros(1, 1)),
            ValueError,
            "size 3",
        ),
    ],
)
def test_refusals(call, kind, said: str):
    with pytest.raises(kind, match=said):
        call()


@pytest.mark.parametrize("context", [-1, 1.5, True, "2"])
@pytest.mark.parametrize("make", [fields.ConcatSquash, fields.Planar, fields.UNet])
def test_sizes_of_a_context_that_are_none_are_refused(make, context):
    with pytest.raises(ValueError, match="`context` is the size of the context, 0 for none, but .* came"):
        make(2, context=context)


def test_planar_units_follow_the_context():
    """Each row has the units that the network gives for its context."""
    field, t = fields.Planar(2, 6, 5, context=1, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    y, context = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    rates = field(t, y, context)
    for row in range(4):
        w, u, b, g = field.net(torch.cat([t.reshape(1), context[row]])).split([12, 12, 6, 6])
        h = torch.tanh(w.reshape(6, 2) @ y[row] + b)
        torch.testing.assert_close(rates[row], (torch.sigmoid(g) / math.sqrt(6) * h) @ u.reshape(6, 2))
    assert not torch.allclose(field(t, y, -context), rates)
    with pytest.raises(TypeError, match="receives none"):
        field(t, y)
    with pytest.raises(TypeError, match="built without"):
        fields.Planar(2)(t.float(), y.float(), context.float())
    density = pathline.CNF(field, 2)(context)
    assert density.log_prob(y).shape == density.sample().shape[:1] == (4,)
