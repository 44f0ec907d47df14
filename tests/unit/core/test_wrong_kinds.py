"""Objects of another kind: refused at the door, with what came and what to pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pathline
from pathline import fields, train

Y0, TIMES = torch.ones(2), torch.linspace(0.0, 1.0, 3)


def decay(t, y):
    return -y


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"save": True}, r"`save` is a Save object; it is True\. Pass pathline\.Save"),
        ({"progress": True}, r"`progress` is a function of the fraction done; it is True\. Pass"),
        ({"hooks": 3}, r"`hooks` is a Hooks object; it is 3\. Pass pathline\.Hooks"),
    ],
)
def test_options_of_solve(option, message):
    with pytest.raises(TypeError, match=message):
        pathline.solve(decay, Y0, TIMES, **option)


@pytest.mark.parametrize("t", ["01", [], 3.0])
def test_times(t):
    with pytest.raises(TypeError, match=r"`t` is a tensor of times, or \(t0, t1\); it is .*\. Pass torch\.linspace"):
        pathline.solve(decay, Y0, t)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (3, TypeError, r"`loss` is a function of ys, or a scalar .*; it is 3"),
        (lambda ys: ys, ValueError, r"`loss` is one number .* shape \(3, 2\)\. Return a scalar"),
        (lambda ys: torch.tensor(1.0), ValueError, r"`loss` is one number in the graph of ys"),
        (lambda ys: 1.0, ValueError, r"`loss` is one number .* it is 1\.0\. Return a scalar"),
    ],
)
def test_losses_of_a_sensitivity(loss, error, message):
    with pytest.raises(error, match=message):
        pathline.sensitivity(pathline.solve(decay, Y0, TIMES), loss)


@pytest.mark.parametrize("values", [torch.ones(5), torch.tensor(1.0)])
def test_rows_of_a_masked_mean(values):
    with pytest.raises(ValueError, match=r"`values` begins with the shape of `valid`, \(3,\); its shape is"):
        pathline.solve(decay, Y0, TIMES).masked_mean(values)


def test_others():
    with pytest.raises(TypeError, match="`t` is the tensor that the field received; it is 0.3"):
        pathline.time_like(0.3, Y0)
    with pytest.raises(ValueError, match="`rtol` is a number >= 0, or None"):
        pathline.Adjoint(rtol=-1.0)
    with pytest.raises(ValueError, match='No solver is called "x"'):
        pathline.Adjoint(method="x")
    with pytest.raises(TypeError, match="`net` is a module, but int came"):
        fields.with_time(3)
    with pytest.raises(ValueError, match=r"`augment_dim` = 5 is no dimension of a state of shape \(4, 2\)"):
        pathline.NeuralODE(nn.Linear(3, 3), augment=1, augment_dim=5)(torch.ones(4, 2))
    with pytest.raises(TypeError, match=r"`model` is a torch\.nn\.Module, but int came"):
        train.fit(3, lambda model, batch: torch.zeros(()), steps=1)
