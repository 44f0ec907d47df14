"""Collocation methods, and the adaptive one beside scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import pathline
from pathline.solvers.collocation import COLLOCATION
from tests.problems import STIFF

DOUBLE = torch.float64


def test_the_error_weights_of_radau5_are_the_published_ones():
    radau = COLLOCATION["radau5"]
    root = 6**0.5
    published = np.array([-13 - 7 * root, -13 + 7 * root, -1]) / 3
    np.testing.assert_allclose(radau._errors, published, rtol=1e-11)
    np.testing.assert_allclose(radau.spectrum.values[0], 3 + 3 ** (2 / 3) - 3 ** (1 / 3), rtol=1e-13)


@pytest.mark.parametrize("name", COLLOCATION)
def test_polynomials_are_integrated_exactly_up_to_the_order(name):
    solver = COLLOCATION[name]
    steps = {"controller": pathline.FixedStep(1.0)} if solver.adaptive else {"dt": 1.0}
    for degree in range(solver.order):
        y1 = pathline.solve(
            lambda t, y, d=degree: (d + 1) * t**d * torch.ones_like(y),
            torch.zeros(1, dtype=DOUBLE),
            (0.0, 1.0),
            method=name,
            **steps,
        ).y1
        torch.testing.assert_close(y1, torch.ones(1, dtype=DOUBLE), rtol=1e-12, atol=1e-12)


def test_gauss_methods_keep_quadratic_invariants():
    spin = torch.tensor([0.3, 0.5, 0.9], dtype=DOUBLE)

    def body(t, y):
        return torch.linalg.cross(y, y * spin)

    with torch.no_grad():
        for method in ("gl4", "gl6", "implicit_midpoint"):
            y = pathline.solve(
                body, torch.tensor([1.0, 0.4, -0.6], dtype=DOUBLE), (0.0, 50.0), method=method, dt=0.5
            ).y1
            assert abs(float((y * y).sum()) - 1.52) < 1e-11
            assert abs(float((y * y * spin).sum()) - (0.3 + 0.5 * 0.16 + 0.9 * 0.36)) < 1e-11


@pytest.mark.parametrize("name", ["Robertson", "HIRES", "Oregonator", "van der Pol, mu=1e6"])
def test_radau5_works_no_more_than_twice_as_much_as_scipy(name):
    problem = {p.name: p for p in STIFF}[name]
    rtol, atol = 1e-4, 1e-4 * problem.atol
    with torch.no_grad():
        solution = pathline.solve(problem.field, problem.start(), problem.span, method="radau5", rtol=rtol, atol=atol)

    def rate(t, y):
        return problem.field(torch.tensor(t, dtype=DOUBLE), torch.from_numpy(y)).numpy()

    other = solve_ivp(rate, problem.span, problem.start().numpy(), method="Radau", rtol=rtol, atol=atol)
    stats = solution.stats
    size = problem.start().numel()
    assert stats.evaluations <= 2 * other.nfev
    assert stats.jacobians <= 2 * other.njev
    assert stats.factorizations <= 2 * other.nlu
    error = (solution.y1 - problem.end()).abs() / (rtol * (1 + problem.end().abs()))
    assert float(error.max()) <= 3.0, (size, error)


def test_the_step_that_was_drawn_out_serves_as_the_next_guess():
    """The polynomial of a step goes on through the next one: fewer evaluations than from a constant."""
    field = lambda t, y: torch.stack((y[1], -torch.sin(y[0])))  # noqa: E731
    y0 = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    with torch.no_grad():
        long = pathline.solve(field, y0, (0.0, 4.0), method="radauIIA5", dt=0.1).stats
        short = pathline.solve(field, y0, (0.0, 0.1), method="radauIIA5", dt=0.1).stats
    assert long.evaluations < 40 * short.evaluations


def test_rows_of_a_batch_step_as_they_do_alone():
    field = lambda t, y: -50.0 * (y - torch.cos(t)) ** 3 - y  # noqa: E731
    y0 = torch.tensor([[2.0], [0.3], [-1.0]], dtype=DOUBLE)
    options = {"method": "radau5", "rtol": 1e-5, "atol": 1e-7, "clock": "per-sample"}
    with torch.no_grad():
        batch = pathline.solve(field, y0, (0.0, 3.0), **options)
        for i in range(3):
            alone = pathline.solve(field, y0[i : i + 1], (0.0, 3.0), **options)
            assert int(batch.stats.rows.accepted[i]) == alone.stats.accepted
            torch.testing.assert_close(batch.y1[i], alone.y1[0], rtol=1e-11, atol=1e-12)


def test_a_field_that_holds_something_of_the_size_of_the_batch():
    """Stages that are stacked as rows would not fit; on the shared clock they are then evaluated one by one."""
    rates = torch.tensor([[1.0], [2.0], [3.0]], dtype=DOUBLE)
    field, y0 = lambda t, y: -rates * y, torch.ones(3, 1, dtype=DOUBLE)
    given = lambda t, y, rates: -rates * y  # noqa: E731
    options = {"method": "radauIIA5", "dt": 0.1}
    with torch.no_grad():
        shared = pathline.solve(field, y0, (0.0, 1.0), **options).y1
        own = pathline.solve(given, y0, (0.0, 1.0), args=pathline.PerSample(rates), clock="per-sample", **options).y1
    torch.testing.assert_close(own, shared, rtol=1e-12, atol=0.0)


def test_dense_output_is_the_collocation_polynomial():
    times = torch.linspace(0.0, 2.0, 41, dtype=DOUBLE)
    with torch.no_grad():
        ys = pathline.solve(
            lambda t, y: -1e3 * (y - torch.cos(t)) - torch.sin(t),
            torch.ones(1, dtype=DOUBLE),
            times,
            method="radau5",
            rtol=1e-6,
            atol=1e-8,
        ).ys
    torch.testing.assert_close(ys[:, 0], torch.cos(times), rtol=0.0, atol=1e-4)
