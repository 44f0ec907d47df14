"""Spirals as they are defined, and what may be seen of them."""

from __future__ import annotations

import math

import pytest
import torch

from pathline.data import spirals


def drawn(*args, seed=0, **options):
    return spirals(*args, generator=torch.Generator().manual_seed(seed), **options)


def test_half_of_them_turn_clockwise_and_the_others_not():
    observed, _, clean = drawn(9, 30)
    assert observed.labels.tolist() == [1] * 4 + [0] * 5
    centre = torch.where(observed.labels == 1, -5.0, 5.0)
    x, y = clean[..., 0] - centre[:, None], clean[..., 1]
    turn = x[:, :-1] * y[:, 1:] - y[:, :-1] * x[:, 1:]
    assert bool((turn[:4] < 0).all())
    assert bool((turn[4:] > 0).all())


def test_radii_and_angles_follow_the_equations():
    observed, times, clean = drawn(6, 30, dtype=torch.float64)
    assert times[0] == 0
    assert torch.allclose(times.diff(), torch.full((199,), 6 * math.pi / 499, dtype=torch.float64))
    for label, spiral in zip(observed.labels, clean, strict=True):
        x, y = spiral[:, 0] - (-5.0 if label else 5.0), spiral[:, 1]
        radius = torch.hypot(x, y)
        s = 6 * math.pi + 1 - 15 / radius if label else radius / 0.3
        assert torch.allclose(s - s[0], times, atol=1e-9)
        angle = 6 * math.pi + 1 - s if label else s
        assert torch.allclose(torch.stack([x, y]), radius * torch.stack([angle.cos(), angle.sin()]), atol=1e-9)
        assert 6 * math.pi * 100 / 499 - 1e-9 <= float(s[0])
        assert float(s[-1]) <= 6 * math.pi * 399 / 499 + 1e-9


def test_every_series_is_seen_at_times_of_its_own_within_the_window():
    observed, times, _ = drawn(40, 30)
    seen = observed.times.reshape(40, 30)
    assert bool((seen.diff(dim=1) > 0).all())
    assert float(seen.max()) <= float(times[99])
    assert len({tuple(row.tolist()) for row in seen}) == 40
    assert bool(torch.isin(seen, times[:100]).all())


def test_only_what_is_seen_is_noisy():
    observed, times, clean = drawn(200, 50)
    column = torch.searchsorted(times, observed.times - 1e-9)
    error = observed.values - clean[observed.rows, column]
    assert float(error.std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float(error.mean())) < 0.01


def test_without_a_future_windows_reach_as_far_as_futures_do():
    length = 6 * math.pi / 499
    last = drawn(2000, 1, future=0, dtype=torch.float64).clean[1500:, -1]
    reached = torch.hypot(last[:, 0] - 5, last[:, 1]).max() / 0.3
    ends = drawn(2000, 1, dtype=torch.float64).clean[1500:, -1]
    wanted = torch.hypot(ends[:, 0] - 5, ends[:, 1]).max() / 0.3
    assert float(reached) == pytest.approx(399 * length, abs=2 * length)
    assert float(wanted) == pytest.approx(399 * length, abs=2 * length)


def test_the_generator_decides_everything():
    one, same, other = drawn(5, 30), drawn(5, 30), drawn(5, 30, seed=1)
    assert torch.equal(one.observed.values, same.observed.values)
    assert torch.equal(one.observed.times, same.observed.times)
    assert not torch.equal(one.clean, other.clean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observations": 101}, "`observations` lies between 1 and the 100 times"),
        ({"observations": 0}, "`observations` lies between 1"),
        ({"future": 300}, "do not fit into a spiral of 500 points"),
    ],
)
def test_impossible_wishes_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        spirals(4, **options)


def test_no_spiral_is_refused():
    with pytest.raises(ValueError, match="`n` is a number of spirals, at least 1; 0 came"):
        spirals(0)
