"""The recursion in one operation, against the same recursion under autograd."""

from __future__ import annotations

import pytest
import torch

from pathline.models.recurrent import recurrent as module
from pathline.models.recurrent.fused import fused
from tests.unit.models.recurrent.examples import MODELS, made, ragged

FUSED = [name for name in MODELS if name not in ("midpoint", "of time")]


def losses(states):
    everything = (states.before.sin().sum() + states.after.square().sum() + states.final.prod(-1).sum()) / 3
    return everything, states.final.square().sum(), states.after.cos().sum(), states.before.square().sum()


@pytest.fixture
def plainly(monkeypatch):
    def switch(on):
        monkeypatch.setattr(module, "fused", (lambda *parts: None) if on else fused)

    return switch


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_first_and_second_derivatives_are_those_of_autograd(name, complete, reverse, plainly):
    model, series = made(name), ragged(complete=complete)
    initial = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    wanted, found = [initial, *model.parameters()], []
    for on in (False, True):
        plainly(on)
        states = model(series, reverse=reverse, initial=initial)
        for loss in losses(states):
            first = torch.autograd.grad(loss, wanted, retain_graph=True, materialize_grads=True)
            again = torch.autograd.grad(loss, wanted, create_graph=True, materialize_grads=True)
            total = sum(g.square().sum() for g in again)
            second = torch.autograd.grad(total, wanted, retain_graph=True, materialize_grads=True)
            found.append((loss, *first, *again, *second))
    half = len(found) // 2
    for mine, theirs in zip(found[:half], found[half:], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_only_what_requires_a_gradient_gets_one():
    model, series = made("ode_rnn"), ragged()
    model.between.requires_grad_(False)
    model(series).final.sum().backward()
    assert all(p.grad is None for p in model.between.parameters())
    assert all(p.grad is not None for p in model.cell.parameters())


@pytest.mark.parametrize("name", ["ode_rnn", "gru_d"])
def test_transforms_see_single_operations(name):
    model, series = made(name), ragged()
    parameters = dict(model.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (series,)).final.square().sum()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for key, parameter in parameters.items():
        torch.testing.assert_close(found[key], parameter.grad, rtol=1e-10, atol=1e-12)


def test_hooks_on_a_field_are_called():
    model, calls = made("ode_rnn"), []
    model.between.field.register_forward_hook(lambda *parts: calls.append(parts))
    model(ragged())
    assert len(calls) == 5
