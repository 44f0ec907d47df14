from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline, make_smoothing_spline

from pathline import data


def test_the_series_of_the_hudson_bay():
    years, pelts = data.hudson_bay()
    assert years.tolist() == list(range(1900, 1921))
    assert pelts.shape == (21, 2)
    # Sums of both columns of the same table in the package pints 0.6.1 (pints.toy.LotkaVolterraModel).
    assert float(pelts[:, 0].sum()) == pytest.approx(715.7)
    assert float(pelts[:, 1].sum()) == pytest.approx(423.0)
    assert pelts[4].tolist() == [36.3, 59.4]
    assert data.hudson_bay(torch.float32)[1].dtype == torch.float32


def test_the_ten_points():
    x, y = data.cubic()
    assert x.shape == y.shape == (10, 1)
    torch.testing.assert_close(y, x**3 + 0.1 * x)
    assert float(y.var(unbiased=False)) == pytest.approx(17.0, abs=0.1)


def test_crossing_is_minus_the_identity():
    x, y = data.crossing()
    assert torch.equal(y, -x)


def test_two_moons():
    generator = torch.Generator().manual_seed(0)
    points, labels = data.two_moons(101, 0.0, generator)
    assert points.shape == (101, 2)
    assert labels.bincount().tolist() == [50, 51]
    upper = points[labels == 0] + torch.tensor([0.5, 0.25])
    torch.testing.assert_close(upper.norm(dim=1), torch.ones(50))
    noisy = [data.two_moons(64, 0.1, torch.Generator().manual_seed(s))[0] for s in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])


T = np.cumsum(np.linspace(0.3, 1.2, 24))
Y = np.stack([np.sin(T), np.cos(0.7 * T)], 1) + 0.1 * np.random.default_rng(0).standard_normal((24, 2))
FINE = np.linspace(T[0], T[-1], 301)


@pytest.mark.parametrize("smoothing", [1e-3, 0.1, 10.0])
def test_the_smoothing_spline_is_scipys(smoothing):
    ours = data.SmoothingSpline(torch.tensor(T), torch.tensor(Y), smoothing)
    theirs = make_smoothing_spline(T, Y, lam=smoothing)
    np.testing.assert_allclose(ours(torch.tensor(FINE)), theirs(FINE), atol=1e-8)
    np.testing.assert_allclose(ours.derivative(torch.tensor(FINE)), theirs.derivative()(FINE), atol=1e-7)


def test_cross_validation_finds_scipys_optimum():
    y = torch.tensor(Y[:, 0])
    ours = data.SmoothingSpline(torch.tensor(T), y)
    np.testing.assert_allclose(ours(torch.tensor(FINE)), make_smoothing_spline(T, Y[:, 0])(FINE), atol=5e-3)


def test_without_smoothing_it_interpolates():
    ours = data.SmoothingSpline(torch.tensor(T), torch.tensor(Y), 0.0)
    natural = CubicSpline(T, Y, bc_type="natural")
    np.testing.assert_allclose(ours(torch.tensor(FINE)), natural(FINE), atol=1e-10)
    np.testing.assert_allclose(ours.derivative(torch.tensor(FINE)), natural(FINE, 1), atol=1e-9)


def test_a_straight_line_is_kept_at_any_smoothing_and_any_shape():
    t = torch.tensor(T, dtype=torch.float32)
    y = torch.stack([2 * t, 1 - t], 1).reshape(-1, 2, 1)
    spline = data.SmoothingSpline(t, y, 1e6)
    torch.testing.assert_close(spline(t), y, rtol=1e-4, atol=1e-4)
    assert spline.derivative(t).shape == (24, 2, 1)
    assert spline(t).dtype == torch.float32


def test_spline_errors():
    with pytest.raises(ValueError, match=r"three or more increasing times .* `t` of shape \(2,\)"):
        data.SmoothingSpline(torch.tensor([0.0, 1.0]), torch.zeros(2))
    with pytest.raises(ValueError, match="sort by time first"):
        data.SmoothingSpline(torch.tensor([0.0, 2.0, 1.0]), torch.zeros(3))
