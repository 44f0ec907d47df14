"""Distributions keep the parameters of the call that made them, and otherwise follow their model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.func import functional_call, grad

from pathline import CNF, FlowMatching, fields
from pathline.models import PlanarFlow, RealNVP
from pathline.models.densities.captured import Captured


class Learned(nn.Module):
    """A base with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.ones(2))

    def forward(self) -> Independent:
        return Independent(Normal(self.mean, torch.ones_like(self.mean)), 1)


def squash(**options) -> CNF:
    return CNF(fields.ConcatSquash(2, (8,)), 2, **options)


MODELS = {
    "cnf": squash,
    "per sample": lambda: squash(clock="per-sample"),
    "adjoint": lambda: squash(gradient="adjoint"),
    "learned base and end": lambda: squash(base=Learned(), learn_end=True),
    "a flow as base": lambda: squash(base=squash()),
    "flow matching": lambda: FlowMatching(fields.MLP(2, 8, time=True), 2),
    "realnvp": lambda: RealNVP(2, 4, 8, base=Learned()),
    "planar": lambda: PlanarFlow(2, 4),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().double()


def moved(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach() + 0.1 * torch.randn_like(x) for name, x in model.named_parameters()}


def test_a_functional_call_has_the_density_and_the_gradient_of_its_parameters(model):
    x, parameters = torch.randn(3, 2, dtype=torch.float64), moved(model)

    def total(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(model, parameters, ()).expand((3,)).log_prob(x).sum()

    before, found, slopes = model().log_prob(x).sum().detach(), total(parameters), grad(total)(parameters)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])
    wanted = model().log_prob(x).sum()
    torch.testing.assert_close(found, wanted.detach())
    assert not torch.allclose(found, before)
    for slope, own in zip(slopes.values(), torch.autograd.grad(wanted, list(model.parameters())), strict=True):
        torch.testing.assert_close(slope, own)


def test_draws_of_a_functional_call_are_those_of_its_parameters(model):
    parameters, changed = moved(model), copy.deepcopy(model)
    changed.load_state_dict(parameters, strict=False)
    density = functional_call(model, parameters, ())
    for how in ("sample", "rsample"):
        torch.manual_seed(1)
        found = getattr(density, how)((4,))
        torch.manual_seed(1)
        torch.testing.assert_close(found, getattr(changed(), how)((4,)))


def test_a_distribution_follows_a_model_that_trains_and_moves(model):
    density, x = model(), torch.randn(3, 2, dtype=torch.float64)
    before = density.log_prob(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    assert not torch.allclose(density.log_prob(x), before)
    torch.testing.assert_close(density.log_prob(x), model().log_prob(x))
    model.float()
    torch.testing.assert_close(density.log_prob(x.float()), model().log_prob(x.float()))
    torch.testing.assert_close(copy.deepcopy(density).log_prob(x.float()), density.log_prob(x.float()))


def test_buffers_are_kept_and_shared_modules_stay_shared():
    norm = nn.BatchNorm1d(2).eval()
    model = nn.Sequential(norm, nn.Linear(2, 2), norm)
    x, mean = torch.randn(4, 2), torch.full((2,), 3.0)
    wanted = functional_call(model, {"0.running_mean": mean}, (x,), tie_weights=False)
    asked = []

    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self) -> None:
            asked.append(Captured(self.inner))

    functional_call(Asking(), {"inner.0.running_mean": mean}, (), tie_weights=False)
    torch.testing.assert_close(asked[0](lambda module: module(x)), wanted)
    assert not torch.allclose(model(x), wanted)


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
            self.last.weight = self.first.weight

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(y)))

    torch.manual_seed(0)
    model, x = CNF(Tied(), 2).double(), torch.randn(3, 2, dtype=torch.float64)
    parameters, own = moved(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    found = functional_call(model, parameters, ()).log_prob(x)
    assert all(torch.equal(p, own[name]) for name, p in model.named_parameters())
    model.load_state_dict(parameters, strict=False)
    torch.testing.assert_close(found, model().log_prob(x))
