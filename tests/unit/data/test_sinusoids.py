"""Sine waves of unknown frequency."""

from __future__ import annotations

import math

import pytest
import torch

from pathline.data import sine_wave, sinusoids


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_all_series_share_times_that_are_irregular_and_begin_at_zero():
    series = sinusoids(7, 50, 5.0, generator=seeded())
    times = series.times.reshape(7, 50)
    assert series.times.dtype == torch.float64
    assert bool((times == times[0]).all())
    assert float(times[0, 0]) == 0.0
    assert float(times.max()) < 5.0
    gaps = times[0].diff()
    assert bool((gaps > 0).all())
    # Gaps between even draws spread about as widely as they are long; those of a regular grid do not spread.
    assert 0.5 < float(gaps.std() / gaps.mean()) < 2.0


def test_without_noise_a_series_is_the_wave_of_its_label():
    series = sinusoids(5, 30, noise=0.0, generator=seeded())
    frequency, start = series.labels.unbind(1)
    t = series.times[:30]
    for i in range(5):
        expected = start[i] + torch.sin(2 * math.pi * frequency[i] * t).float()
        torch.testing.assert_close(series[i].values[:, 0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(series.values, sine_wave(series.labels, t).flatten(0, 1))


def test_labels_are_spread_as_promised():
    frequency, start = sinusoids(4000, 2, generator=seeded()).labels.unbind(1)
    assert 0.4 <= float(frequency.min()) < 0.41
    assert 0.79 < float(frequency.max()) <= 0.8
    assert float(frequency.mean()) == pytest.approx(0.6, abs=0.01)
    assert float(start.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(start.std()) == pytest.approx(0.1, rel=0.05)


def test_noise_is_what_was_asked_for():
    series = sinusoids(200, 50, noise=0.3, generator=seeded())
    clean = sine_wave(series.labels, series.times[:50]).flatten(0, 1)
    assert float((series.values - clean).std()) == pytest.approx(0.3, rel=0.03)


def test_a_seed_decides_all_of_it():
    first, same, other = (sinusoids(3, 20, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.values, same.values)
    assert torch.equal(first.times, same.times)
    assert not torch.equal(first.times, other.times)


def test_the_type_of_the_values_is_a_choice():
    assert sinusoids(3, 20, dtype=torch.float64).values.dtype == torch.float64


@pytest.mark.parametrize("wrong", [{"count": 0}, {"points": 1}, {"span": 0.0}, {"span": math.inf}, {"noise": -1.0}])
def test_what_is_no_set_of_series_is_refused(wrong):
    with pytest.raises(ValueError, match="`count` is 1 or more"):
        sinusoids(**({"count": 2, "points": 3} | wrong))
