"""Wrong arguments of what goes beside a solve are refused in words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pathline


def decay(t, y):
    return -y


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: pathline.Adjoint(rtol="a"), ValueError, r"`rtol` is a number >= 0"),
        (lambda: pathline.Adjoint(verify="no"), TypeError, r"`verify` is True or False"),
        (lambda: pathline.JacobianNorm("cauchy"), TypeError, r"`noise` is a tensor like `y0`"),
        (lambda: pathline.ControlEffort(3), TypeError, r"`control` is a function u\(t, y, args\); it is 3"),
        (
            lambda: pathline.solve(decay, torch.ones(2), (0.0, 1.0), compile={"max_autotun": True}),
            ValueError,
            r'`compile` holds \'max_autotun\'.*Did you mean "max_autotune',
        ),
        (lambda: pathline.EndTimeJitter("a"), ValueError, r"`b` is a finite number"),
        (lambda: pathline.advise(decay, torch.ones(0, 2), (0.0, 1.0)), ValueError, r"`y0` holds no numbers"),
    ],
    ids=["rtol", "verify", "noise", "control", "option", "jitter", "advise"],
)
def test_wrong_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_a_cost_is_an_object_and_not_its_class():
    with pytest.raises(TypeError, match=r"Pass KineticEnergy\(\)"):
        pathline.solve(decay, torch.ones(2), (0.0, 1.0), integrals={"a": pathline.KineticEnergy})


def test_a_module_that_torch_compile_wraps_takes_what_it_wraps():
    torch.manual_seed(0)
    plain = nn.Linear(2, 2)
    wrapped = torch.compile(plain, backend="eager")
    y0, t = torch.ones(2), torch.tensor([0.0, 1.0])
    with torch.no_grad():
        torch.testing.assert_close(pathline.solve(wrapped, y0, t).y1, pathline.solve(plain, y0, t).y1)
