"""The shipped checks find what they are for."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn

import pathline
from pathline.solvers import RungeKutta
from pathline.testing import (
    check_dense_order,
    check_field,
    check_gradient,
    check_order,
    check_solver,
    finite_difference,
    relative_error,
)
from pathline.testing.gradients import _compare
from pathline.testing.problems import LINEAR, NONLINEAR
from pathline.testing.solvers import SOLVER_CHECKS


class Claims(RungeKutta):
    """A method that says it is better than it is."""

    order = 5


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry that a test may spoil."""
    methods = dict(pathline.METHODS)

    def register(name, solver):
        monkeypatch.setitem(pathline.METHODS, name, solver)
        return name

    yield register
    assert set(methods) <= set(pathline.METHODS)


def test_a_method_below_its_order_is_found(registry):
    name = registry("liar", Claims(pathline.METHODS["bosh3"].tableau))
    with pytest.raises(AssertionError, match="Expected liar to converge"):
        check_order(name, NONLINEAR)
    with pytest.raises(AssertionError, match="dense output of liar"):
        check_dense_order(name, NONLINEAR)
    with pytest.raises(AssertionError):
        check_solver(name)


def test_a_method_above_its_order_is_found(registry):
    class Modest(RungeKutta):
        order = 2

    name = registry("modest", Modest(pathline.METHODS["rk4"].tableau))
    with pytest.raises(AssertionError, match="Expected modest to converge"):
        check_order(name, NONLINEAR)
    check_order(name, LINEAR)  # a linear problem may flatter: no upper bound there


def test_an_uncounted_evaluation_is_found(registry):
    class Wasteful(RungeKutta):
        def step(self, term, t0, t1, y, args, carry):
            term.rate(t0, y, args)
            return super().step(term, t0, t1, y, args, carry)

    name = registry("wasteful", Wasteful(pathline.METHODS["heun"].tableau))
    with pytest.raises(AssertionError, match="Expected 16 evaluations"):
        SOLVER_CHECKS["evaluations"](name)


def test_a_step_that_detaches_is_found(registry):
    class Detached(RungeKutta):
        def step(self, term, t0, t1, y, args, carry):
            return super().step(term, t0, t1, y.detach() * 0.5 + y * 0.5, args, None)

    name = registry("detached", Detached(pathline.METHODS["rk4"].tableau))
    with pytest.raises(AssertionError, match="dL/dy0, backprop through detached"):
        check_gradient(name)


def test_a_new_method_passes_whole(registry):
    """Kutta's third-order method, typed in here: what a contributor does."""
    half = Fraction(1, 2)
    kutta3 = pathline.Tableau(
        name="kutta3",
        a=((), (half,), (Fraction(-1), Fraction(2))),
        b=(Fraction(1, 6), Fraction(2, 3), Fraction(1, 6)),
        c=(Fraction(0), half, Fraction(1)),
        source="Kutta (1901)",
    )
    check_solver(registry("kutta3", RungeKutta(kutta3)))


def test_finite_differences_and_their_comparison():
    x = torch.tensor([[0.3, 1.0], [2.0, -1.0]], dtype=torch.float64)
    assert relative_error(finite_difference(lambda x: x.sin().sum(), x), x.cos()) < 1e-10
    with pytest.raises(AssertionError, match="something: expected a relative error within 1e-07"):
        _compare("something", torch.tensor([1.0]), torch.tensor([1.001]), 1e-7)


# --- fields -----------------------------------------------------------------------------------------------------------


def mlp():
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))


class Gradient(nn.Module):
    """A field that differentiates inside."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, t, y):
        with torch.enable_grad():
            y = y if y.requires_grad else y.requires_grad_()
            return -torch.autograd.grad(self.energy(y).sum(), y, create_graph=True)[0]


GOOD = {
    "autonomous": (lambda y: -y, torch.ones(3, dtype=torch.float64)),
    "module": (mlp(), torch.randn(5, 2)),
    "differentiates inside": (Gradient(), torch.randn(4, 2)),
    "dropout, evaluating": (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval(), torch.ones(3, 2)),
    "structure": (lambda t, y: {"q": y["p"], "p": -y["q"] * t}, {"q": torch.ones(2), "p": torch.zeros(2)}),
    "complex": (lambda t, y: 1j * y, torch.ones(2, dtype=torch.complex128)),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_fields_pass(name):
    check_field(*GOOD[name], t=0.3)


def test_args_reach_the_field():
    check_field(lambda t, y, a: a["k"] * y, torch.ones(2, dtype=torch.float64), args={"k": torch.tensor(2.0)})


class Detaching(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, t, y):
        return self.net(y.detach()) * y


class Asking(nn.Module):
    def forward(self, t, y):
        return y if torch.is_grad_enabled() else -y


def in_place(t, y):
    y += 1.0
    return -y


def noisy(t, y):
    return torch.randn_like(y)


BAD = {
    "structure": (lambda t, y: (y,), torch.ones(2), "structure of y"),
    "shape": (lambda t, y: y[:1], torch.ones(2), "shape of y"),
    "dtype": (lambda t, y: y.double(), torch.ones(2), "dtype of y"),
    "not finite": (lambda t, y: y / 0.0, torch.ones(2), "is finite"),
    "in place": (in_place, torch.ones(2), "changed `y` in place"),
    "noise": (noisy, torch.ones(2), "two rates for one state"),
    "dropout, training": (nn.Sequential(nn.Linear(2, 64), nn.Dropout(0.5), nn.Linear(64, 2)), torch.ones(3, 2), "eval"),
    "detached": (Detaching(), torch.ones(3, 2), "Look for `.detach\\(\\)`"),
    "asks for the mode": (Asking(), torch.ones(3, 2), "no_grad"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_fields_fail(name):
    field, y, message = BAD[name]
    with pytest.raises(AssertionError, match=message):
        check_field(field, y.clone())


def test_checking_leaves_a_field_as_it_was():
    field, y = mlp(), torch.randn(3, 2)
    before, start = copy.deepcopy(field.state_dict()), y.clone()
    check_field(field, y)
    assert torch.equal(y, start)
    assert all(torch.equal(a, b) for a, b in zip(field.state_dict().values(), before.values(), strict=True))
    assert all(p.grad is None and p.dtype == torch.float32 for p in field.parameters())
