"""Rosenbrock methods: their coefficients are those of a method, and the field's time enters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pathline
from pathline.solvers.rosenbrock import ROSENBROCK


def classical(name):
    """``alpha``, ``Gamma`` and ``b`` of the form with products ``J k``."""
    k = ROSENBROCK[name].coefficients
    n = len(k.c)
    a, products = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        a[i, : len(k.a[i])], products[i, : len(k.b[i])] = k.a[i], k.b[i]
    gamma = np.linalg.inv(np.eye(n) / k.gamma - products)
    return k, a @ gamma, gamma, np.array(k.weights) @ gamma, np.array(k.errors) @ gamma


@pytest.mark.parametrize("name", ROSENBROCK)
def test_row_sums(name):
    k, alpha, gamma, b, e = classical(name)
    np.testing.assert_allclose(alpha.sum(1), k.c, atol=1e-11)
    np.testing.assert_allclose(gamma.sum(1), k.d, atol=1e-11)
    assert b.sum() == pytest.approx(1.0, abs=1e-11)
    assert e.sum() == pytest.approx(0.0, abs=1e-11)


@pytest.mark.parametrize("name", ROSENBROCK)
def test_order_conditions(name):
    """Hairer and Wanner, IV.7, table 7.1, to the order of the method (the bushy ones to 5)."""
    k, alpha, gamma, b, e = classical(name)
    beta = alpha + gamma
    one, c, rows = np.ones(len(b)), alpha.sum(1), beta.sum(1)
    conditions = {
        2: [(b @ rows, 1 / 2)],
        3: [(b @ c**2, 1 / 3), (b @ beta @ rows, 1 / 6)],
        4: [
            (b @ c**3, 1 / 4),
            (b @ (c * (alpha @ rows)), 1 / 8),
            (b @ beta @ c**2, 1 / 12),
            (b @ beta @ beta @ rows, 1 / 24),
        ],
        5: [(b @ c**4, 1 / 5), (b @ beta @ beta @ beta @ beta @ one, 1 / 120)],
    }
    for order in range(2, k.order + 1):
        for found, wanted in conditions[order]:
            assert found == pytest.approx(wanted, abs=1e-9)
    assert (b - e) @ rows == pytest.approx(1 / 2, abs=1e-9)


@pytest.mark.parametrize("name", ROSENBROCK)
def test_infinitely_stiff_components_vanish(name):
    _, alpha, gamma, b, _ = classical(name)
    one = np.ones(len(b))
    assert 1.0 - b @ np.linalg.solve(alpha + gamma, one) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ROSENBROCK)
def test_a_curve_ends_where_the_step_does(name):
    k = ROSENBROCK[name].coefficients
    np.testing.assert_allclose(k.dense.sum(0), k.weights, atol=1e-11)


def test_the_own_jacobian_of_a_field_is_used():
    rate = torch.tensor([[-1000.0, 1.0], [0.0, -2.0]], dtype=torch.float64)
    asked = []

    def jacobian(t, y, args):
        asked.append(float(t))
        return rate.expand(*y.shape, 2)

    term = pathline.ODE(lambda t, y: y @ rate.T + t.sin(), jacobian=jacobian)
    y0 = torch.ones(2, dtype=torch.float64)
    given = pathline.solve(term, y0, (0.0, 1.0), method="rodas4", rtol=1e-6, atol=1e-8)
    found = pathline.solve(term.f, y0, (0.0, 1.0), method="rodas4", rtol=1e-6, atol=1e-8)
    assert len(asked) >= given.stats.jacobians > 10
    torch.testing.assert_close(given.y1, found.y1, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ROSENBROCK)
def test_the_fields_time_enters_the_stages(name, monkeypatch):
    """A stiff relaxation to a moving target."""

    def field(t, y):
        return -1e3 * (y - torch.sin(t)) + torch.cos(t)

    def error():
        options = {"method": name, "controller": pathline.FixedStep(0.1)}
        return float((pathline.solve(field, torch.zeros(1).double(), (0.0, 1.0), **options).y1 - np.sin(1.0)).abs())

    right = error()
    monkeypatch.setattr("pathline.solvers.rosenbrock._drift", lambda *_, **__: None)
    assert right < 1e-3
    assert error() > 5.0 * right


@pytest.mark.parametrize("name", ROSENBROCK)
def test_nothing_is_recorded_that_nobody_differentiates(name):
    """Jacobians take derivatives; they leave no graph behind unless something requires grad."""
    w = torch.tensor([[-1.0, 2.0], [0.5, -3.0]], dtype=torch.float64)

    def end(w):
        options = {"method": name, "controller": pathline.FixedStep(0.2)}
        return pathline.solve(lambda t, y: torch.tanh(y @ w) + t, torch.ones(2).double(), (0.0, 1.0), **options).y1

    assert not end(w).requires_grad
    assert torch.autograd.gradcheck(end, w.clone().requires_grad_())


def test_second_derivatives_through_a_step():
    """The gradient of a step contains second derivatives of the field; so does its own derivative."""

    def end(y0, k):
        field = lambda t, y, k: -k * y**3 + t  # noqa: E731
        options = {"method": "rodas4", "controller": pathline.FixedStep(0.25)}
        return pathline.solve(field, y0, (0.0, 0.5), args=k, **options).y1.sum()

    y0 = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(end, (y0, k))
    assert torch.autograd.gradgradcheck(end, (y0, k))


def test_a_shorter_step_from_the_same_start_keeps_the_jacobian():
    """And its gradient: that of the steps made again, which know nothing of the rejected ones."""
    found = []
    for gradient in ("backprop", "checkpointed"):
        mu = torch.tensor(50.0, dtype=torch.float64, requires_grad=True)

        def field(t, y, mu):
            u, v = y.unbind(-1)
            return torch.stack((v, mu * (1.0 - u * u) * v - u), -1)

        y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
        options = {"args": mu, "method": "rodas4", "rtol": 1e-4, "atol": 1e-6, "gradient": gradient}
        solution = pathline.solve(field, y0, (0.0, 60.0), **options)
        assert solution.stats.rejected > 10
        assert solution.stats.jacobians <= solution.stats.accepted + 1
        found.append(torch.autograd.grad(solution.y1.sum(), mu)[0])
    torch.testing.assert_close(*found, rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["rosenbrock23", "rodas4", "rodas5p"])
def test_short_dtypes(method, dtype):
    """The stages are worked on in single precision: their weights would magnify the rounding of shorter numbers."""
    solution = pathline.solve(lambda t, y: -y, torch.ones(2, dtype=dtype), (0.0, 1.0), method=method)
    assert solution.y1.dtype == dtype
    assert float(solution.y1[0]) == pytest.approx(math.exp(-1.0), rel=0.02)
    assert solution.stats.steps < 10
