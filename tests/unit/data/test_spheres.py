"""A ball inside a shell."""

from __future__ import annotations

import math

import pytest
import torch

from pathline.data import concentric_spheres

WEDGE = (0.0, math.pi / 5)


def angles(points):
    return torch.atan2(points[:, 1], points[:, 0]).remainder(2 * math.pi)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_the_ball_is_0_and_the_shell_is_1(size):
    points, labels = concentric_spheres(50, 70, size, generator=torch.Generator().manual_seed(0))
    radii = points.norm(dim=1)
    assert points.shape == (120, size)
    assert labels.tolist() == [0] * 50 + [1] * 70
    assert float(radii[labels == 0].max()) <= 0.5 + 1e-6
    assert 1.0 - 1e-6 <= float(radii[labels == 1].min()) <= float(radii.max()) <= 1.5 + 1e-6


@pytest.mark.parametrize("size", [2, 5])
def test_the_points_fill_both_evenly(size):
    points, labels = concentric_spheres(4000, 4000, size, generator=torch.Generator().manual_seed(0))
    radii = points.norm(dim=1)
    # The share of the volume inside a radius; a mean of 4000 draws is within 0.02 at about two and a half deviations.
    inside = float((radii[labels == 0] < 0.5 * 0.5 ** (1 / size)).float().mean())
    shell = float((radii[labels == 1] < ((1 + 1.5**size) / 2) ** (1 / size)).float().mean())
    assert inside == pytest.approx(0.5, abs=0.02)
    assert shell == pytest.approx(0.5, abs=0.02)
    assert float(points.mean(0).abs().max()) < 0.05


def test_a_wedge_is_left_out_or_all_there_is():
    generator = torch.Generator().manual_seed(0)
    outside, labels = concentric_spheres(100, 200, without=WEDGE, generator=generator)
    inside, inner_labels = concentric_spheres(100, 200, 3, within=WEDGE, generator=generator)
    assert labels.sum() == inner_labels.sum() == 200
    assert bool((angles(outside) > WEDGE[1]).all())
    assert bool((angles(inside) <= WEDGE[1]).all())
    assert len(outside) == len(inside) == 300
    # A wedge across the direction of zero.
    across, _ = concentric_spheres(50, 50, within=(-0.3, 0.3), generator=generator)
    assert bool((across[:, 0] > 0).all())
    assert bool((across[:, 1] > 0).any())
    assert bool((across[:, 1] < 0).any())


def test_the_generator_decides():
    first, second = (concentric_spheres(generator=torch.Generator().manual_seed(4))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (1500, 2)
    assert concentric_spheres(3, 3, dtype=torch.float64)[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"inner": -1}, "`inner`"),
        ({"size": 0}, "`size`"),
        ({"without": (1.0, 1.0)}, "`without`"),
        ({"within": (0.0, 7.0)}, "`within`"),
        ({"size": 1, "without": WEDGE}, "`without`"),
        ({"within": WEDGE, "without": WEDGE}, "Either"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        concentric_spheres(**arguments)
