"""Flows travel: copies, pickles, folders, and two processes that train as one."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch.distributions import MultivariateNormal

import pathline
from pathline import CNF, FlowMatching, fields
from pathline.models import load, save
from pathline.operators import Hutchinson
from tests.unit.models.two_processes import gradients, needs_processes

X = torch.linspace(-1, 1, 12).reshape(6, 2)


def made(**options) -> CNF:
    torch.manual_seed(1)
    return CNF(fields.ConcatSquash(2, (8, 8)), 2, **options)


def through_torch_save(model: CNF) -> CNF:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "torch.save": through_torch_save}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("used", [False, True])
def test_it_arrives_whole(way, used):
    model = made(
        learn_end=True, regularizers={"kinetic": 0.1, "steer": 0.2}, base=MultivariateNormal(X[0], torch.eye(2))
    )
    if used:
        model.loss(X).backward()
    other = WAYS[way](model).eval()
    assert torch.equal(other().log_prob(X), model().log_prob(X))
    other.loss(X).backward()
    assert other.evaluations > 0
    assert all(p.data_ptr() != q.data_ptr() for p, q in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trace": Hutchinson("gaussian", probes=2), "clock": "per-sample", "compile": True, "t": (0.0, 2.0)},
        {"learn_end": True, "regularizers": {"kinetic": 0.1, "steer": 0.2, "own": (pathline.KineticEnergy(), 0.5)}},
    ],
)
@pytest.mark.parametrize("field", [fields.ConcatSquash, fields.Planar, fields.MLP])
def test_a_folder_holds_it(tmp_path, field, options):
    model = CNF(field(2, 8), 2, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    other = load(save(model, tmp_path / "model"))
    assert isinstance(other, CNF)
    assert (other.t, other.trace, other.clock, other.compile_steps) == (
        model.t,
        model.trace,
        model.clock,
        model.compile_steps,
    )
    assert other.regularizers.keys() == model.regularizers.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    other.compile_steps = model.compile_steps = False
    assert torch.equal(other(trace="exact").log_prob(X), model(trace="exact").log_prob(X))


# --- two processes -----------------------------------------------------------------------------------------------


def flows() -> list[torch.nn.Module]:
    """The same in every process; the last one draws."""
    exact = [made(method="rk4", dt=0.25, gradient=gradient) for gradient in ("backprop", "checkpointed")]
    return [*exact, FlowMatching(made().field, 2)]


def halves(rank: int) -> list[tuple[torch.nn.Module, torch.Tensor]]:
    return [(model, X[rank::2]) for model in flows()]


@needs_processes
@pytest.mark.timeout(180)  # two more processes import torch, beside other workers
def test_two_processes_have_the_gradients_of_one(tmp_path):
    found = gradients(halves, tmp_path)
    *exact, matching = flows()
    for model in exact:
        model.loss(X).backward()
    for rank in range(2):  # each process draws times and starts of its own
        torch.manual_seed(10 + rank)
        (matching.loss(X[rank::2]) / 2).backward()
    for model, shared in zip((*exact, matching), found, strict=True):
        for mine, parameter in zip(shared, model.parameters(), strict=True):
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-5, atol=1e-7)
