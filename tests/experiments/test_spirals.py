"""Pieces of the experiment on spirals: what the ablation takes away, and what the identity rests on."""

from __future__ import annotations

import pytest
import torch

from pathline.data import Series, spirals
from pathline.experiments.spirals import Task, extended, identities, rolled_out, shuffled_gaps
from pathline.models import Forecaster, GRUdt


def test_shuffled_gaps_keep_the_observations_and_the_span():
    observed = spirals(12, 30, generator=torch.Generator().manual_seed(0)).observed
    shuffled = shuffled_gaps(observed, torch.Generator().manual_seed(1))
    assert torch.equal(shuffled.values, observed.values)
    assert torch.equal(shuffled.lengths, observed.lengths)
    assert torch.equal(shuffled.starts, observed.starts)
    assert torch.allclose(shuffled.ends, observed.ends)
    for one, other in zip(shuffled, observed, strict=True):
        assert torch.allclose(one.times.diff().sort().values, other.times.diff().sort().values)
        assert not torch.allclose(one.times, other.times, atol=1e-3)


def test_shuffled_gaps_stay_within_their_series():
    times = torch.tensor([0.0, 1.0, 2.0, 5.0, 15.0, 25.0], dtype=torch.float64)
    series = Series(times, torch.zeros(6, 1), torch.tensor([3, 0, 3]))
    assert torch.allclose(shuffled_gaps(series).times, times)


def test_errors_are_told_apart_by_the_window():
    clean = torch.zeros(4, 3, 2)
    task = Task(None, None, None, clean, 3)
    predicted = clean.clone()
    predicted[3] = 2.0
    assert task.errors(predicted) == (0.0, 2.0)
    predicted[:3] = -1.0
    assert task.errors(predicted) == (1.0, 2.0)


def test_the_identity_compares_with_the_joint_density():
    # log p(x) = log p(x | z) + log p(z) - log p(z | x), at any z.
    field = identities.Linear(torch.device("cpu"))
    exact = identities.Posterior(field)
    series = Series(torch.tensor([0.2, 1.1, 2.0]), torch.randn(3, 2, dtype=torch.float64), torch.tensor([3]))
    z = torch.randn(1, 2, dtype=torch.float64)
    means = exact.maps(series)[0] @ z[0]
    seen = torch.distributions.Normal(means, identities.NOISE).log_prob(series.values.flatten()).sum()
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
    posterior = exact(series, 0.0).log_prob(z)[0]
    assert float(exact.marginal(series)[0]) == pytest.approx(float(seen + prior - posterior), abs=1e-9)


def test_the_identity_sees_a_wrong_model(monkeypatch):
    assert identities.bound_error(0, torch.device("cpu")) < 1e-5
    monkeypatch.setattr(identities.Linear, "forward", lambda self, t, z: 1.01 * z @ self.matrix.T)
    assert identities.bound_error(0, torch.device("cpu")) > 1e-2


def test_rows_are_put_behind_each_series():
    series = Series(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 1]))
    more = extended(series, torch.tensor([2.0, 3.0]), torch.tensor([[[4.0], [6.0]], [[5.0], [7.0]]]))
    assert more.times.tolist() == [0.0, 1.0, 2.0, 3.0, 0.5, 2.0, 3.0]
    assert more.values.flatten().tolist() == [1.0, 2.0, 4.0, 5.0, 3.0, 6.0, 7.0]
    assert more.lengths.tolist() == [4, 3]


def test_a_rollout_of_stride_one_is_the_forecaster_s_own():
    test = spirals(3, 20, window=20, future=10, generator=torch.Generator().manual_seed(0))
    task = Task(None, test.observed, test.times, test.clean.transpose(0, 1), 20)
    rnn = Forecaster(GRUdt(2, 8), feedback=True)
    assert torch.allclose(rolled_out(rnn, task, 1)[20:], rnn.predict(test.observed, test.times)[20:], atol=1e-5)
    sparse = rolled_out(rnn, task, 5)
    assert torch.allclose(sparse[24::5], rnn.predict(test.observed, test.times[24::5]), atol=1e-5)
    assert not torch.allclose(sparse[20:], rolled_out(rnn, task, 1)[20:], atol=1e-4)
