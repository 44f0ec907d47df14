"""Diagonally implicit methods: their tableaus, their gradients, stiff problems."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pathline
from pathline.solvers.dirk import DIRKS
from pathline.solvers.implicit_tableaus import COLLOCATION, DIAGONAL, KENCARP4, printed
from pathline.testing import finite_difference

DOUBLE = torch.float64
ORDERS = {
    "implicit_euler": (1, None),
    "implicit_midpoint": (2, None),
    "trapezoid": (2, None),
    "sdirk2": (2, 2),
    "trbdf2": (2, 2),
    "kvaerno3": (3, 2),
    "kvaerno4": (4, 3),
    "kvaerno5": (5, 4),
    "radauIIA3": (3, None),
    "radauIIA5": (5, None),
    "gl4": (4, None),
    "gl6": (6, None),
}
TABLEAUS = {**DIAGONAL, **COLLOCATION}


def stability(tableau, z):
    """R(z), the factor of a step on y' = z y."""
    inner = np.linalg.solve(np.eye(tableau.stages) - z * tableau.a, np.ones(tableau.stages))
    return 1 + z * (tableau.b @ inner)


@pytest.mark.parametrize("name", ORDERS)
def test_orders_follow_from_the_printed_numbers(name):
    assert (TABLEAUS[name].order, TABLEAUS[name].embedded_order) == ORDERS[name]


@pytest.mark.parametrize("name", ORDERS)
def test_no_method_grows_on_the_imaginary_axis_or_left_of_it(name):
    along = [complex(0.0, y) for y in np.logspace(-2, 6, 200)] + [-(10.0**k) for k in range(-2, 9)]
    assert max(abs(stability(TABLEAUS[name], z)) for z in along) <= 1 + 1e-7


@pytest.mark.parametrize(
    "name", ["implicit_euler", "sdirk2", "trbdf2", "kvaerno3", "kvaerno4", "kvaerno5", "radauIIA5"]
)
def test_stiffly_accurate_methods_forget_fast_components(name):
    assert pathline.METHODS[name].stiffly_accurate
    assert abs(stability(TABLEAUS[name], -1e9)) < 1e-6


def test_the_estimate_of_sdirk2_is_its_error_on_the_linear_problem():
    tableau = DIAGONAL["sdirk2"]
    z = 1e-3
    inner = np.linalg.solve(np.eye(3) - z * tableau.a, np.ones(3))
    estimate = z * ((tableau.b - tableau.embedded) @ inner)
    assert abs(estimate / (stability(tableau, z) - np.exp(z)) - 1) < 0.01


def test_dense_weights_of_kvaerno5_join_smoothly_at_both_ends():
    dense = DIAGONAL["kvaerno5"].dense
    powers = np.arange(1, dense.shape[1] + 1)
    np.testing.assert_allclose(dense.sum(1), DIAGONAL["kvaerno5"].b, atol=1e-12)
    np.testing.assert_allclose(dense @ powers, np.eye(7)[-1], atol=1e-11)
    np.testing.assert_allclose(dense[:, 0], np.eye(7)[0], atol=1e-12)


def test_a_wrong_number_is_refused():
    with pytest.raises(ValueError, match="'wrong': stage 2 sums to 0.75, its node is 1"):
        printed("wrong", "0 | 0\n1 | 1/4 1/2\n| 1/2 1/2")
    with pytest.raises(ValueError, match="weights sums to 0.75"):
        printed("wrong", "0 | 0\n1 | 1/2 1/2\n| 1/4 1/2")


def test_the_pair_of_kencarp4_has_its_order_with_all_coupling_conditions():
    assert (KENCARP4.order, KENCARP4.embedded_order) == (4, 3)
    wrong = KENCARP4.explicit.copy()
    wrong[4, :2] += (1e-3, -1e-3)  # the node stays, a condition of order 3 breaks
    assert type(KENCARP4)(KENCARP4.implicit, wrong).order == 2


# --- gradients


def field(t, y, w):
    return torch.tanh(y @ w) * torch.cos(t) - 0.3 * y * y


W = torch.tensor([[0.6, -1.2], [0.9, 0.3]], dtype=DOUBLE)
START = torch.tensor([[0.4, -0.7], [1.1, 0.2]], dtype=DOUBLE)
ADAPTIVE = [name for name in DIRKS if DIRKS[name].adaptive] + ["radau5"]


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
@pytest.mark.parametrize("method", ["trbdf2", "kvaerno5", "radau5"])
def test_the_gradient_of_an_adaptive_solve_is_that_of_its_steps(method, gradient):
    """To 1e-7 of finite differences of a solve that repeats them, at a tolerance of 1e-3."""
    y0, w = START.clone().requires_grad_(), W.clone().requires_grad_()
    options = {"method": method, "args": w, "rtol": 1e-3, "atol": 1e-3}
    solution = pathline.solve(field, y0, (0.1, 1.3), gradient=gradient, save=pathline.Save(steps=True), **options)
    found = torch.autograd.grad((solution.y1**3).sum(), (y0, w))
    grid = pathline.Grid(solution.ts.detach())

    def loss(y0, w):
        return (pathline.solve(field, y0, (0.1, 1.3), args=w, method=method, controller=grid).y1 ** 3).sum()

    truth = finite_difference(lambda x: loss(x, W), START), finite_difference(lambda x: loss(START, x), W)
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-7 * float(b.abs().max()))


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
@pytest.mark.parametrize("method", ["implicit_euler", "kvaerno3", "radauIIA3"])
def test_second_derivatives_are_those_of_finite_differences_of_the_first(method, gradient):
    steps = {"controller": pathline.FixedStep(0.3)} if pathline.METHODS[method].adaptive else {"dt": 0.3}

    def first(y0, w):
        with torch.enable_grad():
            y0, w = (x if x.requires_grad else x.clone().requires_grad_() for x in (y0, w))
            y1 = pathline.solve(field, y0, (0.1, 0.7), args=w, method=method, gradient=gradient, **steps).y1
            g, h = torch.autograd.grad((y1**3).sum(), (y0, w), create_graph=True)
            return g.sin().sum() + h.cos().sum()

    y0, w = START.clone().requires_grad_(), W.clone().requires_grad_()
    found = torch.autograd.grad(first(y0, w), (y0, w))
    truth = (
        finite_difference(lambda x: first(x, W), START, step=1e-3),
        finite_difference(lambda x: first(START, x), W, step=1e-3),
    )
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_torch_func_gives_the_gradient_of_autograd(gradient):
    def loss(y0, w):
        return pathline.solve(
            field, y0, (0.1, 0.7), args=w, method="kvaerno3", gradient=gradient, controller=pathline.FixedStep(0.3)
        ).y1.sum()

    transformed = torch.func.grad(loss, argnums=(0, 1))(START, W)
    y0, w = START.clone().requires_grad_(), W.clone().requires_grad_()
    for a, b in zip(transformed, torch.autograd.grad(loss(y0, w), (y0, w)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_parameter_first_read_late_and_a_closure_get_their_gradient():
    late = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def f(t, y):
        return -y + (late if float(t) > 0.5 else 0.0)

    y0 = torch.ones(1, dtype=DOUBLE)
    y1 = pathline.solve(f, y0, (0.0, 1.0), method="implicit_euler", dt=0.1).y1
    (found,) = torch.autograd.grad(y1.sum(), late)

    def value(x):
        g = lambda t, y: -y + (x if float(t) > 0.5 else 0.0)  # noqa: E731
        return pathline.solve(g, y0, (0.0, 1.0), method="implicit_euler", dt=0.1).y1.sum()

    torch.testing.assert_close(found, finite_difference(value, late.detach()), rtol=1e-9, atol=1e-9)


# --- stiff problems


def robertson(t, y, k):
    a, b, c = y.unbind(-1)
    slow, swap, fast = 0.04 * k * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack((swap - slow, slow - swap - fast, fast), -1)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_batch_of_stiff_reactions_on_their_own_clocks(method):
    k = torch.logspace(-1, 1, 5, dtype=DOUBLE)
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=DOUBLE).expand(5, 3)
    options = {"method": method, "rtol": 1e-3, "atol": 1e-8}
    with torch.no_grad():
        batch = pathline.solve(robertson, y0, (0.0, 40.0), args=pathline.PerSample(k), clock="per-sample", **options)
        exact = pathline.solve(robertson, y0[2], (0.0, 40.0), args=k[2], method="radau5", rtol=1e-8, atol=1e-12)
        alone = pathline.solve(robertson, y0[2], (0.0, 40.0), args=k[2], **options)
    torch.testing.assert_close(batch.y1.sum(-1), torch.ones(5, dtype=DOUBLE), rtol=0.0, atol=1e-10)
    torch.testing.assert_close(exact.y1[0], torch.tensor(0.7158270688, dtype=DOUBLE), rtol=1e-6, atol=0.0)
    for y1 in (batch.y1[2], alone.y1):
        torch.testing.assert_close(y1, exact.y1, rtol=3e-2, atol=1e-3)
    assert batch.stats.rows.accepted.max() < 200


@pytest.mark.parametrize("method", ["trbdf2", "kvaerno5", "radau5"])
def test_single_precision_on_a_stiff_problem(method):
    with torch.no_grad():
        y1 = pathline.solve(
            robertson, torch.tensor([1.0, 0.0, 0.0]), (0.0, 40.0), args=1.0, method=method, rtol=1e-3, atol=1e-7
        ).y1
    torch.testing.assert_close(y1[0], torch.tensor(0.71583), rtol=5e-3, atol=0.0)


def test_structures_and_fields_that_differentiate_inside():
    def energy(y):
        return (y["q"] ** 4).sum() + (y["q"] * y["p"]).sum() + (y["p"] ** 2).sum()

    def flow(t, y):
        with torch.enable_grad():
            q, p = (x if x.requires_grad else x.detach().requires_grad_() for x in (y["q"], y["p"]))
            dq, dp = torch.autograd.grad(energy({"q": q, "p": p}), (q, p), create_graph=True)
        return {"q": dp, "p": -dq}

    y0 = {"q": torch.tensor([0.5, -0.2], dtype=DOUBLE), "p": torch.tensor([0.1, 0.3], dtype=DOUBLE)}
    with torch.no_grad():
        y1 = pathline.solve(flow, y0, (0.0, 1.0), method="kvaerno4", rtol=1e-8, atol=1e-10).y1
        exact = pathline.solve(flow, y0, (0.0, 1.0), method="dopri8", rtol=1e-11, atol=1e-12).y1
    for key in y0:
        torch.testing.assert_close(y1[key], exact[key], rtol=1e-6, atol=1e-7)
    assert torch.is_tensor(y1["q"])
