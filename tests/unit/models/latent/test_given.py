"""What is known of each series and reaches the field: its doses, beside what is inferred of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from pathline.data import Series
from pathline.fields import Doses, OneCompartment
from pathline.models import GOKU, Latent, NeuralODE, likelihoods

ABSORPTION, VOLUME = 1.0, 30.0
AMOUNTS = torch.tensor([10.0, 20.0, 40.0, 80.0]).double()


class Certain:
    """A posterior without width: the clearance is what the label of a series says."""

    def __call__(self, series, t0):
        mean = series.labels[:, None].double()
        return Independent(Normal(mean, torch.full_like(mean, 1e-12)), 1)


def begun(draws):
    return torch.zeros(len(draws), 2).double(), {"clearance": draws[:, 0]}


def doses(series):
    times = torch.zeros(len(series), 1).double()
    return {"doses": Doses(times, series.static)}


def patients():
    clearances = torch.tensor([1.5, 3.0, 4.5, 6.0]).double()
    times = torch.linspace(1.0, 9.0, 5).double()
    return Series.from_arrays(times, torch.zeros(4, 5, 1).double(), static=AMOUNTS[:, None], labels=clearances)


def blood(series, times):
    """The closed form, ``(T, n)``."""
    k = series.labels / VOLUME
    t = times[:, None]
    return series.static[:, 0] * ABSORPTION / (ABSORPTION - k) * (torch.exp(-k * t) - torch.exp(-ABSORPTION * t))


def model(clock="shared", likelihood=None, **options):
    body = NeuralODE(
        OneCompartment(ABSORPTION, 9.0, VOLUME).double(), method="dopri5", rtol=1e-9, atol=1e-9, clock=clock
    )
    options = {"given": doses, "start": begun} | options
    likelihood = likelihood or likelihoods.Gaussian(0.5)
    return Latent(Certain(), body, Blood(), likelihood, **options).double()


class Blood(nn.Module):
    def forward(self, y):
        return y[..., 1:]


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("chosen", [slice(None), [3, 1], [2]])
def test_each_draw_of_a_series_has_its_doses(clock, chosen):
    series, times = patients()[chosen], torch.tensor([0.5, 3.0, 12.0]).double()
    found = model(clock).predict(series, times, samples=3)
    expected = blood(series, times)[None, :, :, None].expand(3, -1, -1, -1)
    torch.testing.assert_close(found.samples, expected, rtol=1e-6, atol=1e-7)


def test_likelihoods_count_them():
    series = patients()
    expected = Normal(blood(series, series[0].times), 0.5).log_prob(torch.zeros(5, 4).double()).sum(0).mean()
    found = model(samples=2)
    for value in (
        found.elbo(series, kl_weight=0.0),
        -found.loss(series) + found.divergence(found.posterior(series), torch.zeros(1)).mean(),
    ):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    rates = model(likelihood=likelihoods.Poisson((0.0, 10.0)))
    fine = torch.linspace(0.0, 10.0, 20_001).double()
    integral = torch.trapezoid(blood(series, fine).exp(), fine, dim=0)
    at_rows = blood(series, series[0].times).sum(0)
    torch.testing.assert_close(rates.elbo(series, kl_weight=0.0), (at_rows - integral).mean(), rtol=1e-5, atol=1e-5)


def test_goku_infers_beside_them():
    torch.manual_seed(0)
    series = patients().to(torch.float32)
    found = GOKU(1, OneCompartment(), Blood(), unknown=["clearance"], size=2, latent=(2, 2), hidden=4, given=doses_of)
    found.loss(series).backward()
    assert found.start.constant.layers[0].weight.grad.abs().sum() > 0
    without = GOKU(1, OneCompartment(), Blood(), unknown=["clearance"], size=2, latent=(2, 2), hidden=4)
    without.load_state_dict(found.state_dict())
    t = torch.tensor([2.0])
    assert not torch.allclose(found.predict(series, t, 0).mean, without.predict(series, t, 0).mean)


def doses_of(series):
    return {"doses": Doses(torch.zeros(len(series), 1), series.static)}


def test_what_makes_no_sense_is_refused():
    series, t = patients(), torch.tensor([1.0]).double()
    with pytest.raises(TypeError, match="`given` is a module or a function"):
        model(given={"doses": 1.0})
    with pytest.raises(ValueError, match=r"one entry for each of the 4 series, \(4, ...\), but shape \(1, 1\)"):
        model(given=lambda s: {"doses": Doses(torch.zeros(1, 1), torch.ones(1, 1))}).predict(series, t)
    with pytest.raises(ValueError, match="`given` returns 'clearance', which is inferred already"):
        model(given=lambda s: {"clearance": s.labels}).predict(series, t)
    with pytest.raises(TypeError, match="are mappings from names, where both do, but dict and Tensor came"):
        model(given=lambda s: s.labels).predict(series, t)


def test_a_tensor_alone_reaches_a_field_of_ones_own():
    series, t = patients(), torch.tensor([0.0, 2.0]).double()
    alone = Latent(
        Certain(), Grown(), nn.Identity(), given=lambda s: s.static, start=lambda draws: 0.0 * draws
    ).double()
    found = alone.predict(series, t, samples=2).samples[:, -1, :, 0]
    torch.testing.assert_close(found, (2.0 * AMOUNTS).expand(2, -1))


class Grown(nn.Module):
    def forward(self, t, y, args):
        return args.expand_as(y)
