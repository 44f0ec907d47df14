"""Implicit in one part of a sum, explicit in the other."""

from __future__ import annotations

import math

import pytest
import torch

import pathline
from pathline.testing import finite_difference

DOUBLE = torch.float64


def pulled(t, y):
    return -1e5 * (y - torch.cos(t))


def pushed(t, y):
    return -torch.sin(t) + 0.1 * torch.sin(3 * y) - 0.1 * torch.sin(3 * torch.cos(t))


def test_long_steps_where_one_part_is_stiff():
    """The smooth solution is cos t; an explicit method is bound to steps of 1e-5."""
    with torch.no_grad():
        solution = pathline.solve(
            pathline.Sum(pulled, pushed),
            torch.tensor([2.0], dtype=DOUBLE),
            (0.0, 10.0),
            method="kencarp4",
            rtol=1e-4,
            atol=1e-6,
        )
    assert abs(solution.y1.item() - math.cos(10.0)) < 1e-3
    assert solution.stats.steps < 400


def test_the_nonstiff_part_is_evaluated_once_a_stage():
    calls = {"stiff": 0, "nonstiff": 0}

    def counted(name, f):
        def call(t, y):
            calls[name] += 1
            return f(t, y)

        return call

    term = pathline.Sum(counted("stiff", lambda t, y: -3 * y), counted("nonstiff", lambda t, y: torch.cos(t) * y))
    with torch.no_grad():
        stats = pathline.solve(
            term, torch.ones(2, dtype=DOUBLE), (0.0, 1.0), method="kencarp4", controller=pathline.FixedStep(0.1)
        ).stats
    assert calls["nonstiff"] == 10 * 6
    assert calls["stiff"] + calls["nonstiff"] == stats.evaluations
    assert stats.jacobians == 1


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_gradients_to_parameters_of_both_parts(gradient):
    start = torch.tensor([0.8, -0.3], dtype=DOUBLE)
    rates = torch.tensor([4.0, 1.5], dtype=DOUBLE)

    def loss(y0, w):
        term = pathline.Sum(lambda t, y, w: -w[0] * y**3, lambda t, y, w: torch.sin(w[1] * y.flip(-1)) * torch.cos(t))
        y1 = pathline.solve(
            term, y0, (0.0, 1.0), args=w, method="kencarp4", gradient=gradient, controller=pathline.FixedStep(0.2)
        ).y1
        return (y1**2).sum()

    y0, w = start.clone().requires_grad_(), rates.clone().requires_grad_()
    found = torch.autograd.grad(loss(y0, w), (y0, w))
    truth = finite_difference(lambda x: loss(x, rates), start), finite_difference(lambda x: loss(start, x), rates)
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_a_field_that_is_no_sum_is_refused():
    with pytest.raises(TypeError, match="stiff"):
        pathline.solve(lambda t, y: -y, torch.ones(2), (0.0, 1.0), method="kencarp4")
