"""The deliberate differences that no other test here shows; each is a row of the table in the documentation."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
import torchdiffeq as original

import pathline
from pathline.compat import torchdiffeq as ours

D = torch.float64


def clocked(t, y):
    """y' = cos(t) y, y(0) = 1: exp(sin t)."""
    return torch.cos(t) * y


def order(errors):
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


def test_tsit5_is_of_order_five():
    t, y0, errors = torch.tensor([0.0, 2.0], dtype=D), torch.ones(1, dtype=D), []
    for steps in (10, 20, 40):
        options = {"first_step": 2.0 / steps, "max_step": 2.0 / steps}
        ys = ours.odeint(clocked, y0, t, method="tsit5", rtol=1e3, atol=1e3, options=options)
        errors.append(abs(ys[-1].item() - math.exp(math.sin(2.0))))
    assert min(order(errors)) > 4.7


def test_gl4_is_of_order_four_on_a_field_that_depends_on_time():
    t, y0, errors = torch.tensor([0.0, 2.0], dtype=D), torch.ones(1, dtype=D), []
    for steps in (5, 10, 20):
        ys = ours.odeint(clocked, y0, t, method="gl4", options={"step_size": 2.0 / steps})
        errors.append(abs(ys[-1].item() - math.exp(math.sin(2.0))))
    assert min(order(errors)) > 3.7


def test_explicit_adams_follows_an_uneven_grid():
    """With coefficients of equal steps it would converge with order one."""
    t = torch.cat([torch.linspace(0.0, 1.0, 61, dtype=D), 1.0 + torch.linspace(0.0, 1.0, 31, dtype=D)[1:]])
    truth = torch.exp(torch.sin(t[-1]))
    errors = [
        (
            lib.odeint(clocked, torch.ones(1, dtype=D), t, method="explicit_adams", options={"max_order": 5})[-1]
            - truth
        ).abs()
        for lib in (ours, original)
    ]
    assert errors[0] < 1e-6
    assert errors[1] > 1e-5


def test_a_wide_miss_of_the_backward_solve_is_told():
    field = torch.nn.Linear(1, 1, dtype=D)
    with torch.no_grad():
        field.weight.fill_(-12.0)

    class Decay(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = field

        def forward(self, t, y):
            return self.net(y)

    t = torch.tensor([0.0, 2.0], dtype=D)
    ys = ours.odeint_adjoint(Decay(), torch.full((1, 1), 3.0, dtype=D), t, rtol=1e-4, atol=1e-4)
    with pytest.warns(UserWarning, match="Use odeint, which is exact"):
        ys[-1].sum().backward()


def test_the_scale_of_a_loss_changes_nothing():
    field = torch.nn.Linear(2, 2, dtype=D)
    y0, t = torch.ones(3, 2, dtype=D), torch.tensor([0.0, 1.0], dtype=D)

    def slope(scale):
        ys = ours.odeint_adjoint(
            lambda t, y: torch.tanh(field(y)), y0, t, adjoint_params=tuple(field.parameters()), rtol=1e-4, atol=1e-4
        )
        return torch.autograd.grad(scale * ys[-1].square().sum(), field.weight)[0] / scale

    torch.testing.assert_close(slope(2.0**-40), slope(1.0), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (
            lambda: ours.odeint(lambda t, y: y * y, torch.ones(1, dtype=D), 2.0 * torch.arange(2, dtype=D)),
            "StepSizeUnderflow",
        ),
        (
            lambda: ours.odeint(clocked, torch.ones(1), torch.tensor([0.0, 9.0]), options={"max_num_steps": 2}),
            "MaxStepsError",
        ),
        (lambda: ours.odeint(lambda t, y: y.log(), torch.full((1,), -1.0), torch.tensor([0.0, 1.0])), "NonFiniteError"),
    ],
)
def test_typed_errors_that_are_assertions_too(call, kind):
    with pytest.raises(AssertionError) as caught:
        call()
    error = caught.value
    assert isinstance(error, getattr(pathline, kind))
    assert isinstance(error, RuntimeError)
    assert error.solution.valid[0]
    again = pickle.loads(pickle.dumps(type(error)("text", None, error.status)))
    assert type(again) is type(error)
    assert again.status is error.status


def test_no_step_of_the_length_of_a_rounding_error():
    t = torch.tensor([0.0, 0.3], dtype=torch.float32)
    field = torch.nn.Module()
    field.forward, lengths = (lambda t, y: -y), []
    field.callback_step = lambda t0, y0, dt: lengths.append(dt.item())
    ours.odeint(field, torch.ones(1), t, method="euler", options={"step_size": 0.1})
    assert len(lengths) == 3
    assert min(lengths) > 0.09


def test_under_a_transform():
    """torch.func over a solve, which the original's in-place writes do not survive."""
    y0, t = torch.ones(2, dtype=D), torch.tensor([0.0, 1.0], dtype=D)
    weight = torch.tensor(0.7, dtype=D)
    found = torch.func.grad(lambda w: ours.odeint(lambda t, y: -w * y, y0, t)[-1].sum())(weight)
    assert found.item() == pytest.approx(-2.0 * math.exp(-0.7), rel=1e-6)


def test_a_slope_of_another_size_is_refused_not_spread():
    t = torch.tensor([0.0, 1.0])
    for library in (ours, original):
        with pytest.raises(RuntimeError, match="shape"):
            library.odeint(lambda t, y: y[:1], torch.tensor([1.0, 2.0]), t)
