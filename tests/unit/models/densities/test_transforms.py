"""Maps between data and flow: inverses, Jacobians, and what a discrete value weighs."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution, Uniform

from pathline import CNF
from pathline.models import Logit, Standardize, bits_per_dim, dequantize

X = torch.tensor([[0.001, 0.3], [0.5, 0.9999]], dtype=torch.float64)
MAPS = [Logit(), Logit(0.0), Logit(0.05), Standardize(0.3, 2.0), Standardize([0.1, 0.2], torch.tensor([0.5, 3.0]))]


@pytest.mark.parametrize("to_flow", MAPS, ids=lambda t: type(t).__name__)
def test_inverse_and_jacobian(to_flow):
    x = X.clone().requires_grad_()
    y = to_flow(x)
    torch.testing.assert_close(to_flow.inv(y), x)
    (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.testing.assert_close(to_flow.log_abs_det_jacobian(x, y), slope.log())
    torch.testing.assert_close(to_flow.inv.log_abs_det_jacobian(y, x), -slope.log())
    assert to_flow.with_cache() == to_flow
    assert to_flow != Logit(0.2)
    assert to_flow != Standardize(9.0, 1.0)


def test_the_ends_of_the_interval_stay_finite():
    assert torch.isfinite(Logit(1e-6)(torch.tensor([0.0, 1.0]))).all()
    # Far out the Jacobian is that of an exponential, where the product of s and 1 - s would have vanished.
    y = torch.tensor([200.0])
    assert Logit(0.0).log_abs_det_jacobian(torch.sigmoid(y), y).item() == pytest.approx(200.0)


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.05, 0.3])
def test_the_inverse_says_where_it_maps_to(alpha):
    y = torch.tensor([-200.0, -20.0, -3.0, 0.0, 3.0, 20.0, 200.0])
    for dtype in (torch.float32, torch.float64):
        x = Logit(alpha).inv(y.to(dtype))
        assert bool(Logit(alpha).inv.codomain.check(x).all())
        assert bool((x < 0).any()) == bool((x > 1).any()) == (alpha > 0)
    assert not bool(Logit(alpha).domain.check(torch.tensor([-1.0, 2.0])).any())


def test_draws_beyond_the_unit_interval_have_a_density():
    base = Independent(Normal(torch.zeros(2), 4.0), 1)
    density = TransformedDistribution(base, [Logit(0.1).inv], validate_args=True)
    x = density.sample((200,))
    assert bool(((x < 0) | (x > 1)).any())
    y = Logit(0.1)(x)
    slope = Logit(0.1).log_abs_det_jacobian(x, y).sum(1)
    torch.testing.assert_close(density.log_prob(x), base.log_prob(y) + slope)
    with pytest.raises(ValueError, match="support"):
        density.log_prob(torch.tensor([[0.5, 1.2]]))


def test_dequantised_data_stay_in_their_cells():
    x = torch.arange(17).repeat(5000, 1)
    y = dequantize(x, 17, torch.Generator().manual_seed(0))
    assert torch.equal((y * 17).floor().long(), x)
    assert y.dtype == torch.float32
    inside = y * 17 - x
    assert inside.mean().item() == pytest.approx(0.5, abs=0.01)
    assert dequantize(x.double(), 17).dtype == torch.float64
    assert torch.equal((dequantize(torch.full((100_000,), 255), 256) * 256).floor(), torch.full((100_000,), 255.0))


def test_bits_of_a_uniform_density_are_those_of_its_levels():
    density = Independent(Uniform(torch.zeros(4), torch.ones(4)), 1)
    x = dequantize(torch.randint(16, (10, 4)), 16)
    assert torch.allclose(bits_per_dim(density.log_prob(x), 4, 16), torch.tensor(4.0))
    # Another scale of the data is another density, and the same number of bits.
    spread = TransformedDistribution(density, [Logit(0.1), Logit(0.1).inv])
    assert torch.allclose(bits_per_dim(spread.log_prob(x), 4, 16), torch.tensor(4.0), atol=1e-5)
    assert bits_per_dim(torch.tensor(-math.log(2.0) * 3), 3).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Logit(0.5), "alpha"),
        (lambda: Standardize(0.0, torch.tensor([1.0, 0.0])), "Leave columns out"),
        (lambda: dequantize(torch.tensor([0.5]), 2), "whole numbers"),
        (lambda: dequantize(torch.tensor([3]), 3), "0 to 2"),
        (lambda: dequantize(torch.tensor([0]), 0), "levels"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(("size", "levels"), [(0, 17), ((), 17), ((1, 0), 17), (4, 0), (True, 2)])
def test_bits_of_nothing_are_refused(size, levels):
    with pytest.raises(ValueError, match="1 or more"):
        bits_per_dim(torch.zeros(1), size, levels)


def test_bits_of_images():
    """A flow of images that stands still behind a logit, in bits a pixel by the shape of an image."""
    flow = CNF(lambda t, y: torch.zeros_like(y), (1, 2, 3))
    density = TransformedDistribution(flow(), [Logit(0.05).inv])
    x = dequantize(torch.randint(17, (5, 1, 2, 3)), 17)
    y = Logit(0.05)(x)
    nats = torch.distributions.Normal(0.0, 1.0).log_prob(y) + Logit(0.05).log_abs_det_jacobian(x, y)
    wanted = (math.log(17) - nats.flatten(1).mean(1)) / math.log(2)
    torch.testing.assert_close(bits_per_dim(density.log_prob(x), (1, 2, 3), 17), wanted)
