"""The pieces of the densities experiment: identities, clocks, distances, and what the ablations take away."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import pathline
from pathline import fields
from pathline.data import TARGETS
from pathline.experiments.densities import identities, measures
from pathline.experiments.densities.config import EXPECTED, PRESETS, Config
from pathline.experiments.densities.models import NAMES, Clock, Shuffled, cross_entropy, make, steps_of
from pathline.models import PlanarFlow, RealNVP
from pathline.models.densities.couplings import OptimalTransport

TARGET = TARGETS["8gaussians"]()
SMALL = Config(**PRESETS["tiny"])


def bound(name):
    return next(expected.bound for expected in EXPECTED if expected.metric == name)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_linear_field_changes_the_density_by_its_trace(seed):
    log_det, back = identities.linear(seed)
    assert log_det <= bound("linear_log_det")
    assert back <= bound("linear_there_and_back")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_exact_velocity_makes_the_exact_gaussian(seed):
    assert identities.closed_form(seed) <= bound("gaussian_closed_form")


def test_a_velocity_of_the_other_sign_does_not():
    """The identity is no tautology."""

    class Other(identities.BetweenGaussians):
        def forward(self, t, y):
            return -super().forward(t, y)

    field = Other().double()
    x = field.draw(64, 0)
    with torch.no_grad():
        found = pathline.CNF(field, 2)().log_prob(x)
    assert float((found - field.data().log_prob(x)).abs().max()) > 0.1


def test_the_closed_velocity_is_the_mean_of_those_of_the_paths():
    """A regression on the paths' velocities, in narrow cells of time and place, finds the formula."""
    truth = identities.BetweenGaussians()
    torch.manual_seed(0)
    model = pathline.FlowMatching(truth, 2)
    t, x, u = model.draw(truth.draw(200_000, 1))
    here = ((t[:, 0] - 0.6).abs() < 0.02) & ((x[:, 0] - 0.5).abs() < 0.1)
    expected = truth(t[here], x[here])[:, 0].mean()
    error = float(u[here, 0].std()) / math.sqrt(int(here.sum()))
    assert float(u[here, 0].mean()) == pytest.approx(float(expected), abs=4 * error)


class Perfect(nn.Module):
    """The target as a model."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = shift

    def forward(self):
        return self

    def log_prob(self, x):
        return TARGET.log_prob(x) - self.shift


def test_the_target_itself_has_its_entropy_for_a_likelihood():
    x = TARGET.sample(7, torch.Generator().manual_seed(0), dtype=torch.float64)
    assert cross_entropy(Perfect(), x, TARGET) == pytest.approx(TARGET.entropy, abs=1e-12)
    assert cross_entropy(Perfect(0.25), x, TARGET) == pytest.approx(TARGET.entropy + 0.25, abs=1e-12)


def test_the_wasserstein_distance_of_a_shift_is_its_length():
    a = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert measures.wasserstein(a, a.flip(0)) == pytest.approx(0.0, abs=1e-12)
    assert measures.wasserstein(a + torch.tensor([0.3, 0.4]), a) == pytest.approx(0.5)


def test_paths_that_are_straight_have_no_bending_and_a_turn_has():
    class Constant(nn.Module):
        def forward(self, t, y):
            return torch.ones_like(y)

    class Turn(nn.Module):
        def forward(self, t, y):
            return math.pi * torch.stack([-y[..., 1], y[..., 0]], -1)

    assert measures.bending(pathline.CNF(Constant(), 2), 50, 0) == pytest.approx(0.0, abs=1e-9)
    # Half a turn: |v| = pi r against a way of 2 r, and E r^2 = 2.
    x0 = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (math.pi**2 - 4) * float(x0.square().sum(1).mean())
    assert measures.bending(pathline.CNF(Turn(), 2), 50, 0) == pytest.approx(expected, rel=1e-3)


def test_the_same_seed_draws_the_same_base_whatever_the_solver():
    torch.manual_seed(0)
    model = pathline.FlowMatching(fields.ConcatSquash(2, (8,)), 2, rtol=1e-6, atol=1e-6)
    exact = measures.samples(model, 16, 3)
    fine = measures.samples(model, 16, 3, method="rk4", dt=0.02)
    torch.testing.assert_close(exact, fine, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(exact, measures.samples(model, 16, 4))


def test_a_shuffled_plan_is_no_better_than_chance():
    torch.manual_seed(0)
    x0, x1 = torch.randn(256, 2), TARGET.sample(256, torch.Generator().manual_seed(0))
    cost = {
        name: float((a - b).square().sum(1).mean())
        for name, (a, b) in {
            "plan": OptimalTransport()(x0, x1),
            "shuffled": Shuffled(OptimalTransport())(x0, x1),
            "independent": (x0, x1),
        }.items()
    }
    assert cost["plan"] < 0.6 * cost["independent"]
    assert cost["shuffled"] == pytest.approx(cost["independent"], rel=0.15)


def test_noise_that_is_redrawn_costs_evaluations():
    torch.manual_seed(0)
    model = pathline.CNF(fields.ConcatSquash(2, (8,)), 2)
    once, anew = measures.redrawn_evaluations(model, TARGET, 1e-3, count=32)
    assert anew >= 3 * once


def test_every_model_can_be_made_and_says_how_long_it_trains():
    for name in NAMES:
        assert make(name, SMALL).loss(TARGET.sample(8)).requires_grad
        assert steps_of(name, SMALL) == 3
    assert make("planar", SMALL).field.time_dependent
    assert not make("constant", SMALL).field.time_dependent


def test_the_baselines_have_the_size_that_is_said():
    def size(model):
        return sum(parameter.numel() for parameter in model.parameters())

    config = Config()
    assert size(make("realnvp", config)) == pytest.approx(size(make("ffjord", config)), rel=0.03)
    assert size(make("flow-matching", config)) == size(make("ffjord", config))
    assert isinstance(make("realnvp", config), RealNVP)
    planar = make("planar-nf", config)
    assert isinstance(planar, PlanarFlow)
    assert planar.depth == 32


def test_the_clock_counts_updates_and_not_what_watches(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.process_time", lambda: now[0])

    class Slow(PlanarFlow):
        def loss(self, batch):
            now[0] += 1.0
            return super().loss(batch)

    def watch(model):
        now[0] += 100.0
        return 0.5

    model, clock = Slow(2, depth=2), Clock(watch)
    for _ in range(3):
        _, extra = clock.loss(model, torch.zeros(4, 2))
        assert clock.evaluate(model) == 0.5
    # The third update begins two seconds after the first.
    assert extra["seconds"] == clock.seconds == 2.0
    again = Clock(watch)
    again.load_state_dict(clock.state_dict())
    again.loss(model, torch.zeros(4, 2))
    assert again.seconds == 2.0
