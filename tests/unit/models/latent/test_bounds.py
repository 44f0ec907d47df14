"""A latent state that moves linearly, seen through noise: there the likelihood is known, and both bounds are measured by it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from pathline.data import Series
from pathline.models import Latent, NeuralODE, likelihoods

LENGTHS = torch.tensor([4, 1, 6])
NOISE = 0.3
DRIFT = torch.tensor([[-0.3, 1.0], [-1.0, -0.1]], dtype=torch.float64)
SEEN = torch.tensor([[1.0, 0.2], [0.0, 0.7]], dtype=torch.float64)


class Linear(nn.Module):
    def forward(self, t, z):
        return z @ DRIFT.T


class Look(nn.Module):
    def forward(self, z):
        return z @ SEEN.T


class Exactly:
    """The posterior of the linear model, widened and moved away from it on demand."""

    def __init__(self, moved=0.0, wider=1.0):
        self.moved, self.wider = moved, wider

    def __call__(self, series, t0):
        means, covariances = zip(*(posterior(one) for one in each(series)), strict=True)
        return MultivariateNormal(torch.stack(means) + self.moved, self.wider * torch.stack(covariances))


class Uncorrelated(Exactly):
    """The same with independent components."""

    def __call__(self, series, t0):
        full = super().__call__(series, t0)
        return Independent(Normal(full.mean, full.stddev), 1)


@pytest.fixture
def series():
    times = torch.cat([torch.rand(n, dtype=torch.float64).cumsum(0) for n in LENGTHS])
    values = torch.randn(len(times), 2, dtype=torch.float64)
    values[torch.rand(values.shape) < 0.3] = float("nan")
    return Series(times, values, LENGTHS)


def each(series):
    return [series[i : i + 1] for i in range(len(series))]


def observation(one):
    """The matrix that takes z0 to the observed numbers of one series, and these numbers."""
    maps = torch.stack([SEEN @ torch.matrix_exp(DRIFT * t) for t in one.times])
    return maps[one.mask], one.values[one.mask]


def posterior(one):
    h, x = observation(one)
    covariance = torch.linalg.inv(torch.eye(2).to(h) + h.T @ h / NOISE**2)
    return covariance @ h.T @ x / NOISE**2, covariance


def marginal(series):
    """The mean over series of the logarithm of the marginal density."""
    total = 0.0
    for one in each(series):
        h, x = observation(one)
        spread = h @ h.T + NOISE**2 * torch.eye(len(x)).to(h)
        total += float(MultivariateNormal(torch.zeros_like(x), spread).log_prob(x)) if len(x) else 0.0
    return total / len(series)


def model(encoder):
    dynamics = NeuralODE(Linear(), method="dopri5", rtol=1e-7, atol=1e-7)
    return Latent(encoder, dynamics, Look(), likelihoods.Gaussian(NOISE)).double()


def test_with_the_exact_posterior_one_weighted_draw_is_the_likelihood(series):
    # p(x, z) / q(z) is then p(x) for every z, so nothing is left to chance.
    assert float(model(Exactly()).iwae(series, 1)) == pytest.approx(marginal(series), abs=1e-6)


def test_with_the_exact_posterior_the_evidence_bound_is_the_likelihood(series):
    # No closed form is known for this pair of distributions: the divergence is taken at the draws, and noise cancels.
    assert float(model(Exactly()).elbo(series, samples=3)) == pytest.approx(marginal(series), abs=1e-6)


@pytest.mark.parametrize(("moved", "wider"), [(0.0, 1.0), (0.1, 1.5)])
def test_the_evidence_bound_lies_below_by_the_divergence_from_the_posterior(series, moved, wider):
    encoder = Uncorrelated(moved, wider)
    q, exact = encoder(series, 0.0), Exactly()(series, 0.0)
    same = MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    gap = float(torch.distributions.kl_divergence(same, exact).mean())
    mean, error = _mean_and_error([float(model(encoder).elbo(series, samples=1000)) for _ in range(20)])
    assert mean == pytest.approx(marginal(series) - gap, abs=4 * error)
    assert gap > 8 * error  # so that the test can tell


def test_the_weighted_bound_rises_with_the_draws_towards_the_likelihood(series):
    wrong, copies = model(Exactly(0.3, 4.0)), Series.cat([series] * 40)
    (one, a), (five, b), (many, c) = (
        _mean_and_error([float(wrong.iwae(copies, k)) for _ in range(8)]) for k in (1, 5, 50)
    )
    assert one + 3 * a < five - 3 * b
    assert five + 3 * b < many - 3 * c
    assert many < marginal(series) + 3 * c


def test_one_weighted_draw_is_the_evidence_bound_of_one_draw(series):
    wrong = model(Exactly(0.1, 2.0))
    copies = Series.cat([series] * 40)
    one, spread = _mean_and_error([float(wrong.iwae(copies, 1)) for _ in range(8)])
    elbo, error = _mean_and_error([float(wrong.elbo(series, samples=100)) for _ in range(10)])
    assert one == pytest.approx(elbo, abs=4 * math.hypot(spread, error))


def test_a_divergence_without_a_closed_form_is_taken_at_the_draws():
    class Folded(Normal):
        """A normal distribution that no closed form is registered for."""

    def encoder(series, t0):
        return Independent(Folded(torch.full((2, 3), 0.4), torch.full((2, 3), 0.7)), 1)

    latent = Latent(encoder, NeuralODE(lambda t, z: -z), nn.Linear(3, 1))
    q = encoder(None, 0.0)
    z0 = q.rsample((40_000,))
    exact = torch.distributions.kl_divergence(
        Independent(Normal(torch.full((2, 3), 0.4), torch.full((2, 3), 0.7)), 1),
        Independent(Normal(torch.zeros(3), torch.ones(3)), 1).expand((2,)),
    )
    assert torch.allclose(latent.divergence(q, z0), exact, atol=0.03)


def _mean_and_error(values):
    values = torch.tensor(values, dtype=torch.float64)
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))
