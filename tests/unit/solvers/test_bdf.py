"""Backward differentiation: formulas, changes of the step, orders row by row, exact gradients."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import pathline
from pathline._structure import Structure
from pathline.solvers.bdf import BDF, KEPT, History, _regrid, _Table
from pathline.stats import Stats
from pathline.terms import ODE, Bound
from pathline.testing import finite_difference, relative_error


def backward_differences(power, end, h):
    """Of t^power at end, end - h, ..."""
    values = [(end - i * h) ** power for i in range(KEPT)]
    out = []
    while values:
        out.append(values[0])
        values = [a - b for a, b in pairwise(values)]
    return torch.tensor(out, dtype=torch.float64).reshape(1, KEPT, 1)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_a_step_of_order_k_is_exact_for_polynomials_of_degree_k(order):
    h = 0.1
    y0 = torch.ones(1, dtype=torch.float64)
    term = Bound(ODE(lambda t, y: order * t ** (order - 1) * torch.ones_like(y)), Structure(y0), y0, Stats())
    history = History(backward_differences(order, 1.0, h), h, order, 1, None)
    step = BDF().step(term, 1.0, 1.0 + h, y0, None, history)
    assert float(step.y1) == pytest.approx(1.1**order, abs=1e-12)
    inside = [1.0, 1.03, 1.08]
    np.testing.assert_allclose(step.rows(inside)[:, 0], [t**order for t in inside], atol=1e-12)
    np.testing.assert_allclose(step.after[0, : order + 1, 0], backward_differences(order, 1.1, h)[0, : order + 1, 0])


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_without_kappa_the_formula_is_the_printed_one(order, monkeypatch):
    """BDF: sum_j (1/j) nabla^j y = h f; order 2 reads 3/2 y_1 - 2 y_0 + 1/2 y_-1."""
    monkeypatch.setattr("pathline.solvers.bdf.KAPPA", (0.0,) * 6)
    known = torch.linspace(1.0, 2.0, order, dtype=torch.float64).flip(0)
    differences, values = [], known.tolist()
    while values:
        differences.append(values[0])
        values = [a - b for a, b in pairwise(values)]
    found = torch.zeros(1, KEPT, 1, dtype=torch.float64)
    found[0, :order, 0] = torch.tensor(differences, dtype=torch.float64)
    rules = _Table(torch.device("cpu"), torch.float64).of(order)
    printed = {
        1: [1, -1],
        2: [3 / 2, -2, 1 / 2],
        3: [11 / 6, -3, 3 / 2, -1 / 3],
        4: [25 / 12, -4, 3, -4 / 3, 1 / 4],
        5: [137 / 60, -5, 5, -10 / 3, 5 / 4, -1 / 5],
    }[order]
    base = float((rules.start[0, 0] @ found[0])[0])
    assert base * printed[0] + sum(c * float(y) for c, y in zip(printed[1:], known, strict=True)) == pytest.approx(
        0.0, abs=1e-12
    )
    assert float(rules.scale) == pytest.approx(1.0 / printed[0], abs=1e-15)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_a_new_length_moves_the_differences_exactly(order):
    moved = _regrid(
        torch.tensor([0.3], dtype=torch.float64), torch.tensor([order]), torch.tensor(False)
    ) @ backward_differences(order, 1.0, 0.1)
    wanted = backward_differences(order, 1.0, 0.03)
    torch.testing.assert_close(moved[:, : order + 1], wanted[:, : order + 1], rtol=0.0, atol=1e-12)


def record(**options):
    orders = []
    hooks = pathline.Hooks(on_accept=lambda t0, t1, y, step: orders.append(step.moved.order))
    return pathline.solve(hooks=hooks, **options), orders


def test_the_order_rises_and_stays_within_its_limit():
    problem = {
        "f": lambda t, y: -y + t.cos(),
        "y0": torch.ones(1).double(),
        "t": (0.0, 5.0),
        "rtol": 1e-7,
        "atol": 1e-8,
    }
    solution, orders = record(method="bdf", **problem)
    assert orders[0] == 1
    assert max(orders) == 5
    exact = 0.5 * (np.cos(5.0) + np.sin(5.0)) + 0.5 * np.exp(-5.0)
    assert float((solution.y1 - exact).abs()) < 1e-5
    assert max(record(method=BDF(2), **problem)[1]) == 2
    with pytest.raises(ValueError, match="`max_order` lies between 1 and 5; it is 6"):
        BDF(6)


def test_long_steps_on_a_stiff_field_keep_their_jacobian():
    """Prothero and Robinson's equation: the stiff part is linear, one Jacobian serves for ever."""
    solution = pathline.solve(
        lambda t, y: -1e6 * (y - t.cos()), torch.ones(1).double(), (0.0, 10.0), method="bdf", rtol=1e-5, atol=1e-8
    )
    stats = solution.stats
    assert float((solution.y1 - np.cos(10.0)).abs()) < 1e-4
    assert stats.steps < 200
    assert stats.jacobians <= 2
    assert stats.factorizations < 0.5 * stats.steps


def robertson(t, y, k):
    k = k[..., 0]
    a, b, c = 0.04 * k * y[..., 0], 1e4 * k * y[..., 1] * y[..., 2], 3e7 * k * y[..., 1] ** 2
    return torch.stack((b - a, a - b - c, c), -1)


def test_a_row_among_others_steps_as_it_does_alone():
    """Order, length and Newton's memory are each row's own, also where another row changes its step."""
    k = torch.tensor([[0.1], [1.0], [10.0]], dtype=torch.float64)
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(3, 1)
    options = {"t": (0.0, 40.0), "method": "bdf", "rtol": 1e-4, "atol": 1e-10, "clock": "per-sample"}
    together = pathline.solve(robertson, y0, args=pathline.PerSample(k), **options)
    for row in range(3):
        alone = pathline.solve(robertson, y0[row : row + 1], args=pathline.PerSample(k[row : row + 1]), **options)
        assert int(together.stats.rows.accepted[row]) == int(alone.stats.rows.accepted[0])
        torch.testing.assert_close(together.y1[row], alone.y1[0], rtol=1e-9, atol=1e-13)


# --- gradients --------------------------------------------------------------------------------------------------------


def field(t, y, w):
    return torch.tanh(y @ w) * torch.cos(t) - torch.tensor([50.0, 0.5], dtype=y.dtype) * (y - y**3 / 9.0)


class Scripted(BDF):
    """The orders of another solve."""

    def __init__(self, orders):
        super().__init__()
        self.orders = orders

    def step(self, term, t0, t1, y, args, carry):
        first = carry is None or carry.length == 1.0  # the history that `init` makes
        self.at = 0 if first else self.at + 1
        return super().step(term, t0, t1, y, args, carry)

    def _choice(self, term, y, step):
        following = self.orders[min(self.at + 1, len(self.orders) - 1)]
        return following, 1.0


def gradients(gradient, **options):
    y0 = torch.tensor([[0.4, -0.7], [1.1, 0.2]], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([[0.6, -1.2], [0.9, 0.3]], dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0.0, 2.0, 4, dtype=torch.float64)
    steps, orders = [0.0], []

    def accepted(t0, t1, y, step):
        steps.append(float(t1))
        orders.append(step.moved.order)

    hooks = pathline.Hooks(on_accept=accepted) if "clock" not in options else None
    solution = pathline.solve(
        field, y0, t, args=w, method="bdf", rtol=1e-3, atol=1e-4, gradient=gradient, hooks=hooks, **options
    )
    found = torch.autograd.grad(solution.ys.sin().sum(), (y0, w))
    return found, (y0.detach(), w.detach(), t), steps, orders


def test_the_gradient_is_that_of_the_discrete_solution():
    found, (y0, w, t), steps, orders = gradients("backprop")
    assert max(orders) >= 3

    def loss(y0, w):
        method, grid = Scripted(orders), pathline.Grid(steps)
        return pathline.solve(field, y0, t, args=w, method=method, controller=grid).ys.sin().sum()

    directions = (torch.tensor([[1.0, -0.5], [0.3, 2.0]]).double(), torch.tensor([[0.7, 0.2], [-1.0, 0.4]]).double())

    def moved(s):
        return loss(*(x + s * d for x, d in zip((y0, w), directions, strict=True)))

    along = sum((g * d).sum() for g, d in zip(found, directions, strict=True))
    torch.testing.assert_close(
        along, finite_difference(moved, torch.zeros((), dtype=torch.float64)), rtol=1e-8, atol=0.0
    )


@pytest.mark.parametrize("clock", [{}, {"clock": "per-sample"}], ids=["shared", "per-sample"])
def test_recomputed_steps_have_the_same_gradient(clock):
    kept, remade = (gradients(mode, **clock)[0] for mode in ("backprop", "checkpointed"))
    for a, b in zip(kept, remade, strict=True):
        assert relative_error(b, a) < 1e-8


def test_the_gradient_to_the_times_of_equal_steps():
    """The grid of requested times: each step's length is the difference of two of them, equal as they may be."""
    times = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    y0 = torch.tensor([0.4, -0.7], dtype=torch.float64)
    w = torch.tensor([[0.6, -1.2], [0.9, 0.3]], dtype=torch.float64)

    def loss(t):
        return pathline.solve(field, y0, t, args=w, method="bdf", controller=pathline.Grid()).ys.sin().sum()

    moving = times.clone().requires_grad_()
    found = torch.autograd.grad(loss(moving), moving)[0]
    assert relative_error(found, finite_difference(loss, times, step=1e-5)) < 1e-6
