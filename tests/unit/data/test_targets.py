"""The densities in the plane: samples and log-density are of one distribution, and the integrals are right."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from pathline.data import TARGETS, targets


@pytest.fixture(scope="module", params=TARGETS)
def target(request):
    return TARGETS[request.param]()


def test_a_density_integrates_to_one(target):
    assert target.mass == pytest.approx(1.0, abs=1e-6)


def test_the_entropy_is_that_of_samples(target):
    n = 20_000
    log_p = target.log_prob(target.sample(n, torch.Generator().manual_seed(0), dtype=torch.float64))
    assert torch.isfinite(log_p).all()
    error = max(float(log_p.std()) / math.sqrt(n), 1e-9)
    assert -float(log_p.mean()) == pytest.approx(target.entropy, abs=4 * error)


def test_samples_fall_where_the_density_says(target):
    """Shares of a coarse grid of cells against integrals of the density, by a chi-square statistic."""
    n, groups = 40_000, 12
    points, _, weights = target._integral
    low, high = target.limits
    side = round(len(points) ** 0.5)

    def cell(x):
        """The cell of a point, made of whole cells of the integral's grid."""
        place = ((x - low) / (high - low) * side).floor().clamp(0, side - 1).long() // (side // groups)
        return place[:, 0] * 2 * groups + place[:, 1]

    expected = torch.zeros(4 * groups**2, dtype=torch.float64).index_add(0, cell(points), n * weights)
    x = target.sample(n, torch.Generator().manual_seed(1), dtype=torch.float64)
    found = cell(x).bincount(minlength=len(expected)).double()
    seen = expected > 10
    assert int(seen.sum()) > 30
    statistic = float(((found - expected)[seen].square() / expected[seen]).sum())
    freedom = int(seen.sum())
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


def test_a_seed_gives_the_same_points_and_another_gives_others(target):
    draws = [target.sample(8, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (8, 2)
    assert target.log_prob(draws[0].reshape(2, 4, 2)).shape == (2, 4)


def test_the_best_gaussian_is_worse_than_the_target_itself(target):
    x = target.sample(20_000, torch.Generator().manual_seed(2), dtype=torch.float64)
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    assert -float(gaussian.log_prob(x).mean()) == pytest.approx(target.gaussian_cross_entropy, abs=0.02)
    assert target.gaussian_cross_entropy > target.entropy


def test_gaussians_that_are_far_apart_have_a_closed_entropy():
    far = targets.EightGaussians(radius=30.0, sd=1.0)
    # Only near the means is there anything to integrate: the grid is fine enough for this.
    assert far.entropy == pytest.approx(math.log(8 * 2 * math.pi * math.e), abs=1e-9)
    near = targets.EightGaussians()
    without_overlap = math.log(8 * 2 * math.pi * math.e * near.sd**2)
    assert near.entropy < without_overlap
    assert without_overlap == pytest.approx(2.838, abs=5e-4)


def test_the_board_has_the_logarithm_of_its_area():
    board = targets.Checkerboard()
    assert board.entropy == pytest.approx(math.log(32), abs=1e-6)
    inside, outside = torch.tensor([-3.0, -3.0]), torch.tensor([-1.0, -3.0])
    assert float(board.log_prob(inside)) == pytest.approx(-math.log(32))
    assert float(board.log_prob(outside)) == float(board.log_prob(torch.tensor([5.0, 5.0]))) == -math.inf


def test_the_density_of_a_ring_is_that_of_its_radius():
    """Near a single ring it is that of the distance, over the circumference."""
    ring = targets.Rings(sd=0.05, radii=(3.0,))
    ring.nodes = 600
    r = torch.tensor([2.93, 3.0, 3.08], dtype=torch.float64)
    found = ring.log_prob(torch.stack([r, torch.zeros_like(r)], 1)).exp()
    expected = Normal(3.0, 0.05).log_prob(r).exp() / (2 * math.pi * 3.0)
    # The circle is no straight line: the density is off by a part of sd / radius.
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_the_pinwheel_is_found_by_a_histogram():
    """Its density needs roots of an equation; a count of samples in small cells needs none."""
    wheel = targets.Pinwheel()
    x = wheel.sample(400_000, torch.Generator().manual_seed(3), dtype=torch.float64)
    centres = wheel.sample(50, torch.Generator().manual_seed(4), dtype=torch.float64)
    half = 0.04
    share = torch.stack([((x - c).abs() < half).all(1).double().mean() for c in centres])
    line = half * torch.tensor([-2 / 3, 0.0, 2 / 3], dtype=torch.float64)
    around = centres.unsqueeze(1) + torch.cartesian_prod(line, line)
    expected = wheel.log_prob(around).exp().mean(1) * (2 * half) ** 2
    error = (expected / len(x)).sqrt()
    assert float(((share - expected) / error).square().mean()) < 1.8


def test_whole_numbers_are_points(target):
    whole = torch.tensor([[1, 0], [-3, 2]])
    assert torch.equal(target.log_prob(whole), target.log_prob(whole.float()))


def test_a_point_with_a_nan_has_the_log_density_nan(target):
    x = torch.tensor([[math.nan, 0.0], [0.0, math.nan], [math.nan, math.inf], [-math.inf, 0.0], [1.0, 0.5]])
    log_p = target.log_prob(x)
    assert log_p.isnan().tolist() == [True, True, True, False, False]
    assert float(log_p[3]) == -math.inf
    torch.testing.assert_close(log_p[4], target.log_prob(x[4]))


def test_what_is_no_point_of_the_plane_is_refused(target):
    for shape in ((4, 3), (4, 1), (), (2, 0)):
        with pytest.raises(ValueError, match=r"points in the plane"):
            target.log_prob(torch.zeros(shape))
    with pytest.raises(TypeError, match="list"):
        target.log_prob([[0.0, 0.0]])
    with pytest.raises(TypeError, match="complex"):
        target.log_prob(torch.zeros(4, 2, dtype=torch.complex64))
    assert target.log_prob(torch.zeros(0, 2)).shape == (0,)


def test_parts_are_put_together_in_order(target, monkeypatch):
    x = target.sample(50, torch.Generator().manual_seed(5), dtype=torch.float64)
    whole = target.log_prob(x)
    monkeypatch.setattr(targets, "PART", 7)
    torch.testing.assert_close(target.log_prob(x), whole, rtol=1e-12, atol=1e-12)


def test_the_pinwheel_has_a_finite_logarithm_far_out():
    angle = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    around = torch.stack([angle.cos(), angle.sin()], 1)
    log_p = torch.stack([targets.Pinwheel().log_prob(r * around) for r in (6.0, 8.0, 12.0, 20.0)])
    assert torch.isfinite(log_p).all()
    assert (log_p.mean(1).diff() < 0).all()
