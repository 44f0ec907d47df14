"""Events whose rate is known: their counts, their times, their likelihood."""

from __future__ import annotations

import math

import pytest
import torch

from pathline.data import sinusoidal_events


def drawn(n=2000, seed=0, **options):
    return sinusoidal_events(n, generator=torch.Generator().manual_seed(seed), **options)


def test_counts_have_the_mean_and_the_variance_of_a_poisson_process():
    found = drawn(end=10.0, period=5.0, level=8.0)  # two whole periods, so that the phase cancels
    counts = found.events.lengths.double()
    assert float(counts.mean()) == pytest.approx(80, rel=0.02)
    assert float(counts.var()) == pytest.approx(80, rel=0.12)


def test_events_come_at_the_rate_that_is_told():
    found = drawn(4000)
    edges = torch.linspace(0, 10, 21, dtype=torch.float64)
    own = (2 * math.pi * found.events.times / 5 + found.phases[found.events.rows]).sin()
    # Where the wave is high there are (1 + a / 2) / ... more: E[sin] under the rate is a / 2.
    assert float(own.mean()) == pytest.approx(0.4, abs=0.005)
    counts = torch.histogram(found.events.times, edges).hist / 4000
    assert torch.allclose(counts, torch.full((20,), 4.0, dtype=torch.float64), rtol=0.06)
    assert torch.equal(found.events.values, torch.ones(len(found.events.times), 1))


def test_the_likelihood_is_that_of_the_rate():
    found = drawn(3, end=7.0)
    t = torch.linspace(0, 7, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(found.rate(t), t, dim=0)
    for i in range(3):
        at_events = found.rate(found.events[i].times)[:, i].log().sum()
        assert float(found.log_likelihood()[i]) == pytest.approx(float(at_events - integral[i]), abs=1e-6)


def test_the_true_rate_explains_events_better_than_another():
    found = drawn(500)
    turned = found._replace(phases=found.phases + 0.3)
    assert float((found.log_likelihood() - turned.log_likelihood()).mean()) > 0.5


@pytest.mark.parametrize("options", [{"depth": 1.1}, {"level": 0.0}, {"period": -1.0}, {"end": 0.0}])
def test_impossible_wishes_are_refused_in_words(options):
    with pytest.raises(ValueError, match="`level`, `period` and `end` are positive and `depth` lies between 0 and 1"):
        sinusoidal_events(3, **options)
