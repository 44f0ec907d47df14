"""The pieces of the digits' density: units, the split, the maps, and the base."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("sklearn")

from pathline.data import digits
from pathline.experiments.digits_density import _at_rest, bits
from pathline.experiments.digits_density.config import Config
from pathline.experiments.digits_density.figures import tiled
from pathline.experiments.digits_density.pixels import LEVELS, SIZE, Gaussian, Pixels
from pathline.fields import ConcatSquash
from pathline.models import RealNVP, dequantize


@pytest.fixture(scope="module")
def pixels():
    return Pixels.load(0.05)


def test_a_uniform_density_costs_the_logarithm_of_the_levels():
    assert bits(0.0) == pytest.approx(math.log2(17))
    # One nat a digit less is 1 / (64 log 2) bits a pixel less.
    assert bits(0.0) - bits(-1.0) == pytest.approx(1 / (64 * math.log(2)))


def test_no_digit_is_in_two_shares(pixels):
    shares = [pixels.train, pixels.valid, pixels.test]
    assert [len(share) for share in shares] == [1257, 180, 360]
    together = torch.cat(shares)
    images = digits()[0].flatten(1)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, images.tolist()))
    assert torch.equal(Pixels.load(0.05).test, pixels.test)


def test_pixels_go_to_the_flow_and_back(pixels):
    x = dequantize(pixels.test.double(), LEVELS, torch.Generator().manual_seed(0))
    z = pixels.standardize(pixels.logit(x))
    torch.testing.assert_close(pixels.to_pixels(z), x, rtol=0, atol=1e-10)
    whole = (pixels.to_pixels(pixels.to_flow(pixels.test.double())) * LEVELS).floor()
    assert torch.equal(whole, pixels.test.double())


def test_the_training_digits_are_standardised(pixels):
    z = pixels.many()
    # Other draws of the noise than those of the standardisation.
    assert float(z.mean(0).abs().max()) < 0.05
    torch.testing.assert_close(z.std(0), torch.ones(SIZE), rtol=0.05, atol=0)


def test_the_density_of_pixels_has_the_determinant_of_the_maps(pixels):
    base = Gaussian(pixels.many().double())()
    x = dequantize(pixels.test[:4].double(), LEVELS, torch.Generator().manual_seed(1))

    def to_flow(x):
        return pixels.standardize(pixels.logit(x))

    jacobian = torch.func.vmap(torch.func.jacrev(to_flow))(x)
    expected = base.log_prob(to_flow(x)) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(pixels.density(base).log_prob(x), expected)


def test_the_full_gaussian_is_better_than_the_diagonal_one(pixels):
    test = pixels.test.double()
    full, diagonal = Gaussian(pixels.many().double())(), pixels.diagonal()
    assert pixels.nll(full, test, 1) < pixels.nll(diagonal, test, 1) - 10


def test_both_flows_start_as_their_base(pixels):
    base = Gaussian(pixels.many())
    z = pixels.to_flow(pixels.test[:8], torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    field = _at_rest(ConcatSquash(SIZE, (16,)))
    assert float(field(torch.tensor(0.7), z).detach().abs().max()) == 0.0
    flow = RealNVP(SIZE, 4, (16,), base=base)
    torch.testing.assert_close(flow().log_prob(z), base().log_prob(z), rtol=1e-5, atol=1e-4)


def test_the_realnvp_has_the_size_of_ffjord():
    config = Config()
    ffjord = sum(p.numel() for p in ConcatSquash(SIZE, config.hidden).parameters())
    realnvp = sum(p.numel() for p in RealNVP(SIZE, config.couplings, config.coupling_hidden).parameters())
    assert realnvp == pytest.approx(ffjord, rel=0.03)


def test_a_sheet_keeps_the_images_in_order():
    images = torch.arange(4.0).repeat_interleave(64).reshape(4, 64)
    sheet = tiled(images, 2)
    assert sheet.shape == (20, 20)
    assert [float(sheet[i, j]) for i, j in ((5, 5), (5, 15), (15, 5), (15, 15))] == [0.0, 1.0, 2.0, 3.0]
