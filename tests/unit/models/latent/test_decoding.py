"""States at ragged times: read from a curve, from rows of the union, and on clocks of their own, they are the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathline import fields
from pathline.fields import Doses, OneCompartment
from pathline.models import NeuralODE
from pathline.models.latent import decoding
from pathline.models.latent.decoding import Places, states_at
from pathline.terms import PerSample

ROWS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0])
TIMES = torch.tensor([0.9, 0.0, 1.7, 0.3, 0.4, 0.4, 2.0, 1.1], dtype=torch.float64)


class Driven(nn.Module):
    """A rate with parameters of each sample's own."""

    def forward(self, t, z, args):
        return args["speed"] * torch.stack([z[:, 1], -z[:, 0]], -1) + t


def exactly(field, y0, args=None):
    """Each place alone, to a tight tolerance."""
    out = []
    for time, row in zip(TIMES.tolist(), ROWS.tolist(), strict=True):
        own = None if args is None else {name: value[row : row + 1] for name, value in args.items()}
        model = NeuralODE(field, method="dopri5", rtol=1e-10, atol=1e-10)
        out.append(model(y0[row : row + 1], [0.0, time], own)[-1, 0] if time else y0[row])
    return torch.stack(out)


@pytest.mark.parametrize("ragged", [0.0, 1e9], ids=["curve", "rows"])
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
def test_every_way_gives_the_states_and_their_gradients(monkeypatch, ragged, clock, gradient):
    monkeypatch.setattr(decoding, "RAGGED", ragged)
    y0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    speed = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)
    expected = exactly(Driven(), y0, {"speed": speed})
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((weights * expected).sum(), (y0, speed))
    model = NeuralODE(Driven(), method="dopri5", rtol=1e-8, atol=1e-8, clock=clock, gradient=gradient)
    found, _ = states_at(model, y0, {"speed": speed}, 0.0, Places(TIMES, ROWS))
    assert torch.allclose(found, expected, atol=1e-6)
    for one, other in zip(torch.autograd.grad((weights * found).sum(), (y0, speed)), wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("ragged", [0.0, 1e9], ids=["curve", "rows"])
@pytest.mark.parametrize("options", [{"method": "rk4", "dt": 0.02}, {"method": "kvaerno5", "rtol": 1e-7, "atol": 1e-7}])
def test_fixed_and_implicit_steps(monkeypatch, options, ragged):
    monkeypatch.setattr(decoding, "RAGGED", ragged)
    field = fields.MLP(2, 8).double()
    y0 = torch.randn(3, 2, dtype=torch.float64)
    found, _ = states_at(NeuralODE(field, **options), y0, None, 0.0, Places(TIMES, ROWS))
    assert torch.allclose(found, exactly(field, y0), atol=1e-5)


def test_fixed_steps_without_a_length_follow_the_union_of_the_times(monkeypatch):
    # A curve between the first and the last time alone would be one giant step.
    monkeypatch.setattr(decoding, "RAGGED", 0.0)
    field = fields.MLP(2, 8).double()
    y0 = torch.randn(3, 2, dtype=torch.float64)
    model = NeuralODE(field, method="rk4")
    states_at(model, y0, None, 0.0, Places(TIMES, ROWS))
    assert model.evaluations >= 4 * (len(TIMES.unique()) - 1)


@pytest.mark.parametrize("ragged", [0.0, 1e9], ids=["curve", "rows"])
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_rate_is_integrated_to_the_same_places(monkeypatch, ragged, clock):
    monkeypatch.setattr(decoding, "RAGGED", ragged)
    y0 = torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)
    model = NeuralODE(lambda t, z: -z, method="dopri5", rtol=1e-9, atol=1e-9, clock=clock)
    states, integral = states_at(model, y0, None, 0.0, Places(TIMES, ROWS), lambda z: torch.cat([z, z**2], -1))
    fading = torch.exp(-TIMES)[:, None]
    assert torch.allclose(states, y0[ROWS] * fading, atol=1e-7)
    expected = torch.cat([y0[ROWS] * (1 - fading), y0[ROWS] ** 2 * (1 - fading**2) / 2], -1)
    assert torch.allclose(integral, expected, atol=1e-6)


def test_an_integral_is_under_error_control_where_the_state_rests():
    model = NeuralODE(lambda t, z: torch.ones_like(z), method="dopri5", rtol=1e-8, atol=1e-8)
    places = Places(torch.tensor([20.0], dtype=torch.float64), torch.tensor([0]))
    _, integral = states_at(model, torch.zeros(1, 1).double(), None, 0.0, places, torch.sin)
    assert float(integral) == pytest.approx(1 - torch.cos(torch.tensor(20.0).double()).item(), abs=1e-6)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_what_a_field_brings_along_happens_while_a_rate_is_integrated(clock):
    body = OneCompartment(absorption=1.0, clearance=3.0, volume=30.0).double()
    given = {
        "doses": Doses(torch.tensor([[0.2], [0.5], [1.0]]).double(), torch.tensor([[10.0], [20.0], [30.0]]).double())
    }
    if clock == "per-sample":
        given = {"doses": Doses(*map(PerSample, given["doses"]))}
    model = NeuralODE(body, method="dopri5", rtol=1e-8, atol=1e-8, clock=clock)
    y0 = torch.zeros(3, 2, dtype=torch.float64)
    plain, _ = states_at(model, y0, given, 0.0, Places(TIMES, ROWS))
    states, integral = states_at(model, y0, given, 0.0, Places(TIMES, ROWS), lambda z: z[:, :1])
    assert torch.allclose(states, plain, atol=1e-6)
    dose, at = torch.tensor([10.0, 20.0, 30.0])[ROWS], torch.tensor([0.2, 0.5, 1.0])[ROWS]
    late = (TIMES - at).clamp_min(0.0)  # what waits in the gut fades at the rate 1
    assert torch.allclose(integral[:, 0], dose * (1 - torch.exp(-late)), atol=1e-4)


@pytest.mark.parametrize("ragged", [0.0, 1e9], ids=["curve", "rows"])
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_state_at_the_very_time_of_a_dose_is_the_one_behind_it(monkeypatch, ragged, clock):
    monkeypatch.setattr(decoding, "RAGGED", ragged)
    when = torch.tensor([[0.0, 1.0], [0.5, 1.7], [0.4, 2.0]]).double()  # at the start, between, at the end
    model = NeuralODE(OneCompartment(clearance=1e-9).double(), method="dopri5", rtol=1e-8, atol=1e-8, clock=clock)
    part = PerSample if clock == "per-sample" else lambda x: x
    doses = Doses(part(when), part(torch.tensor([[100.0, 1.0], [100.0, 1.0], [100.0, 1.0]]).double()))
    rows = torch.tensor([0, 0, 1, 1, 2, 2])
    states, _ = states_at(model, torch.zeros(3, 2).double(), {"injections": doses}, 0.0, Places(when.flatten(), rows))
    assert torch.allclose(states[:, 1], torch.tensor([100.0, 101.0] * 3).double(), atol=1e-5)


@pytest.mark.parametrize("kept", [True, False])
def test_augmented_components_are_shown_if_the_dynamics_keeps_them(kept):
    field = fields.MLP(4, 8).double()
    model = NeuralODE(field, augment=2, return_augmented=kept, rtol=1e-8, atol=1e-8)
    y0 = torch.randn(3, 2, dtype=torch.float64)
    seen = []
    states, _ = states_at(model, y0, None, 0.0, Places(TIMES, ROWS), lambda z: (seen.append(z.shape[-1]), z[:, :1])[1])
    assert states.shape[-1] == (4 if kept else 2)
    assert set(seen) == {states.shape[-1]}
    whole = exactly(field, torch.cat([y0, torch.zeros(3, 2).double()], -1))
    assert torch.allclose(states, whole[:, : states.shape[-1]], atol=1e-6)


def test_on_own_clocks_a_state_does_not_depend_on_the_batch():
    field = fields.MLP(2, 8).double()
    y0 = torch.randn(3, 2, dtype=torch.float64)
    model = NeuralODE(field, method="dopri5", rtol=1e-3, atol=1e-3, clock="per-sample")
    together, _ = states_at(model, y0, None, 0.0, Places(TIMES, ROWS))
    one = ROWS == 2
    alone, _ = states_at(model, y0[2:], None, 0.0, Places(TIMES[one], torch.zeros(3, dtype=torch.long)))
    assert torch.allclose(together[one], alone, atol=1e-12)
