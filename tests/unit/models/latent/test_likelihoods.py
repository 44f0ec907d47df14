"""Densities of what is observed: closed forms, and what is missing has no say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, Normal

from pathline.data import Series
from pathline.models import Latent, LatentODE, NeuralODE, likelihoods

A, B = 0.4, -0.7
NAN = float("nan")


class Certain:
    """A posterior without width around given states."""

    def __init__(self, z0):
        self.z0 = z0

    def __call__(self, series, t0):
        return Independent(Normal(self.z0, torch.full_like(self.z0, 1e-12)), 1)


class Clock(nn.Module):
    def forward(self, t, z):
        return torch.ones_like(z)


class Slope(nn.Module):
    def forward(self, z):
        return A + B * z


Z0 = torch.tensor([[0.5], [-0.2], [1.0]], dtype=torch.float64)
EVENTS = Series(
    torch.tensor([0.1, 0.4, 1.5, 0.3, 2.0], dtype=torch.float64),
    torch.ones(5, 1, dtype=torch.float64),
    torch.tensor([3, 2, 0]),
)


def process(likelihood, **options):
    dynamics = NeuralODE(Clock(), method="dopri5", rtol=1e-9, atol=1e-9, **options)
    return Latent(Certain(Z0), dynamics, Slope(), likelihood)


def closed_form(spans):
    """With log-intensity a + b (z0 + t): the sum over events, minus the integral of an exponential."""
    out = []
    for z0, (start, end), one in zip(Z0[:, 0], spans, (EVENTS[i : i + 1] for i in range(3)), strict=True):
        level = torch.exp(A + B * z0)
        integral = level * (math.exp(B * end) - math.exp(B * start)) / B
        out.append((A + B * (z0 + one.times)).sum() - integral)
    return torch.stack(out)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_poisson_process_has_its_closed_form(clock):
    model = process(likelihoods.Poisson(window=(0.05, 2.5)), clock=clock)
    found = model.log_likelihood(Z0.expand(4, 3, 1), EVENTS)
    assert found.shape == (4, 3)
    assert torch.allclose(found[2], closed_form([(0.05, 2.5)] * 3), atol=1e-6)


def windows(series):
    return torch.tensor([[0.0, 2.0], [0.1, 3.0], [0.0, 1.0]], dtype=torch.float64)


def test_each_series_may_have_a_window_of_its_own():
    model = process(likelihoods.Poisson(window=windows))
    assert torch.allclose(model.log_likelihood(Z0[None], EVENTS)[0], closed_form(windows(None).tolist()), atol=1e-6)


def test_without_a_window_it_ends_with_the_last_event():
    model = process(likelihoods.Poisson())
    spans = [(0.0, 1.5), (0.0, 2.0), (0.0, 0.0)]
    assert torch.allclose(model.log_likelihood(Z0[None], EVENTS)[0], closed_form(spans), atol=1e-6)


@pytest.mark.parametrize("both", [False, True])
def test_events_lie_within_their_window(both):
    events = likelihoods.Poisson(window=(0.2, 2.5))
    density = likelihoods.Both(likelihoods.Gaussian(), events) if both else events
    with pytest.raises(ValueError, match=r"series 0 has one at 0.1 \(row 0\), outside of \(0.2, 2.5\); 1 such"):
        density.spans(EVENTS, 0.0)


@pytest.mark.parametrize("both", [False, True])
def test_zeros_and_ones_are_learned_whatever_the_number_of_draws(both):
    values = torch.tensor([[1.0], [0.0], [NAN], [0.25], [1.0]])
    density = likelihoods.Bernoulli()
    density = likelihoods.Both(density, likelihoods.Poisson()) if both else density
    model = LatentODE(1, 2, likelihood=density, samples=3)
    series = Series(EVENTS.times, values, EVENTS.lengths)
    model.loss(series).backward()
    z0 = torch.randn(3, 3, 2)
    with torch.no_grad():
        together = model.log_likelihood(z0, series)
        assert torch.allclose(together, torch.cat([model.log_likelihood(z, series) for z in z0.split(1)]), atol=1e-3)
    with pytest.raises(ValueError, match="0 or 1, or probabilities, but 3 came; 1 such"):
        model.loss(Series(EVENTS.times, values.index_fill(0, torch.tensor([1]), 3.0), EVENTS.lengths))


def test_the_integral_has_a_gradient():
    z0 = Z0.clone().requires_grad_()
    model = process(likelihoods.Poisson(window=(0.0, 2.0)))
    model.log_likelihood(z0[None], EVENTS).sum().backward()
    counts, integral = EVENTS.lengths[:, None], torch.exp(A + B * Z0) * (math.exp(2 * B) - 1) / B
    assert torch.allclose(z0.grad, B * counts - B * integral, atol=1e-6)


def test_values_and_their_times_can_be_told_together():
    both = likelihoods.Both(likelihoods.Gaussian(0.5), likelihoods.Poisson(window=(0.0, 2.0)))
    assert both.outputs(3) == 6

    class Heads(nn.Module):
        def forward(self, z):
            return torch.cat([2.0 * z, A + B * z], -1)

    dynamics = NeuralODE(Clock(), method="dopri5", rtol=1e-9, atol=1e-9)
    model = Latent(Certain(Z0), dynamics, Heads(), both)
    values = torch.stack(
        [stats_of(2 * (z + one.times)) for z, one in zip(Z0[:, 0], map(one_of, range(3)), strict=True)]
    )
    expected = values + closed_form([(0.0, 2.0)] * 3)
    assert torch.allclose(model.log_likelihood(Z0[None], EVENTS)[0], expected, atol=1e-6)


def one_of(i):
    return EVENTS[i : i + 1]


def stats_of(means):
    return Normal(means, torch.tensor(0.5, dtype=torch.float64)).log_prob(torch.ones_like(means)).sum()


def test_gaussian_and_bernoulli_agree_with_scipy():
    decoded, values = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    density = likelihoods.Gaussian((0.3, 2.0)).double()
    scales = torch.tensor([0.3, 2.0]).numpy()
    expected = torch.tensor(stats.norm.logpdf(values.numpy(), decoded.numpy(), scales))
    assert torch.allclose(density.log_prob(decoded, values), expected, rtol=1e-6)
    ones = (values > 0).double()
    expected = torch.tensor(stats.bernoulli.logpmf(ones.numpy(), decoded.sigmoid().numpy()))
    assert torch.allclose(likelihoods.Bernoulli().log_prob(decoded, ones), expected)


def test_draws_have_the_mean_and_spread_of_the_density():
    decoded = torch.tensor([[1.0, -2.0]]).expand(40_000, 2)
    drawn = likelihoods.Gaussian(0.5).sample(decoded)
    assert torch.allclose(drawn.mean(0), decoded[0], atol=0.02)
    assert torch.allclose(drawn.std(0), torch.tensor([0.5, 0.5]), atol=0.02)
    drawn = likelihoods.Bernoulli().sample(decoded)
    assert torch.allclose(drawn.mean(0), likelihoods.Bernoulli().mean(decoded)[0], atol=0.02)


def test_a_learned_scale_finds_the_spread_of_the_noise():
    density = likelihoods.Gaussian(1.0, learn=True, channels=2)
    values = torch.randn(4000, 2) * torch.tensor([0.2, 3.0])
    optimizer = torch.optim.Adam(density.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        (-density.log_prob(torch.zeros_like(values), values).mean()).backward()
        optimizer.step()
    assert torch.allclose(density.log_scale.exp(), values.square().mean(0).sqrt(), rtol=0.02)


@pytest.mark.parametrize("scale", [0.0, -1.0, (0.1, 0.0)])
def test_a_scale_is_positive(scale):
    with pytest.raises(ValueError, match="`scale` is a positive number"):
        likelihoods.Gaussian(scale)


def test_a_window_ends_after_it_starts():
    with pytest.raises(ValueError, match="`window` is a start and a later end"):
        likelihoods.Poisson(window=(1.0, 1.0))
