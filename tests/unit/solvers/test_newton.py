"""Systems, Jacobians, linear solves and Newton's iteration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pathline
from pathline._structure import Structure
from pathline.solvers.collocation import Collocation
from pathline.solvers.dirk import DIRK
from pathline.solvers.implicit_tableaus import COLLOCATION, DIAGONAL
from pathline.solvers.iteration import Judge
from pathline.solvers.jacobians import Systems, linearize, split
from pathline.solvers.krylov import gmres
from pathline.solvers.linear import factor, solve
from pathline.solvers.newton import Newton, Spectrum
from pathline.stats import Stats
from pathline.terms import ODE, Bound
from pathline.testing import finite_difference

DOUBLE = torch.float64


def bound(f, y, *, jacobian=None):
    return Bound(ODE(f, jacobian=jacobian), Structure(y), y, Stats())


def matrix(n, seed=0):
    return torch.randn(n, n, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


# --- systems


@pytest.mark.parametrize(
    ("name", "f", "apart"),
    [
        ("rows", lambda t, y: torch.tanh(y @ matrix(3)), True),
        ("mean", lambda t, y: y - y.mean(0), False),
        ("neighbour", lambda t, y: y.roll(1, 0), False),
        ("far pair", lambda t, y: y + torch.eye(6, dtype=DOUBLE)[:, [0, 1, 2, 3, 4, 1]] @ y, False),
        ("quadratic, at zero", lambda t, y: y.flip(0) ** 2, False),
        ("constant", lambda t, y: torch.ones_like(y), True),
    ],
)
def test_rows_of_the_shared_clock_are_systems_where_they_do_not_mix(name, f, apart):
    y = torch.zeros(6, 3, dtype=DOUBLE) if "zero" in name else matrix(6)[:, :3]
    systems = split(bound(f, y), 0.0, y, None)
    assert systems.by_rows is apart
    if not apart and "zero" not in name:
        assert systems.size == 18


def test_a_vector_is_one_system_and_complex_numbers_are_pairs():
    y = torch.complex(matrix(4), matrix(4, 1))
    systems = split(bound(lambda t, y: 1j * y, y), 0.0, y, None)
    assert (systems.by_rows, systems.size) == (True, 8)
    assert torch.equal(systems.state(systems.flat(y)), y)
    assert split(bound(lambda t, y: y, y[0]), 0.0, y[0], None).size == 8


# --- Jacobians


def coupled(t, y):
    return torch.stack((y[..., 0] * y[..., 1] * t, torch.sin(y[..., 1]) - y[..., 2], y[..., 0] ** 3), -1)


def differentiating(t, y):
    with torch.enable_grad():
        x = y if y.requires_grad else y.detach().requires_grad_()
        (force,) = torch.autograd.grad((x**4).sum() + (x[..., 0] * x[..., 1]).sum(), x, create_graph=True)
    return -force


@pytest.mark.parametrize("f", [coupled, differentiating])
@pytest.mark.parametrize("batch", [(), (1,), (5,)])
def test_jacobians_are_those_of_finite_differences(f, batch):
    y = torch.randn(*batch, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    term = bound(f, y)
    systems = split(term, 0.7, y, None)
    rate, jacobian = linearize(term, 0.7, systems.flat(y), None, systems)
    torch.testing.assert_close(systems.state(rate), f(torch.tensor(0.7, dtype=DOUBLE), y).detach())
    for row in range(len(rate)):
        for i in range(3):
            slope = finite_difference(
                lambda x, row=row, i=i: f(torch.tensor(0.7, dtype=DOUBLE), x).reshape(-1, 3)[row, i], y
            )
            torch.testing.assert_close(jacobian[row, i], slope.reshape(-1, 3)[row], rtol=1e-8, atol=1e-9)
    assert term.stats.jacobians == 1


def test_a_jacobian_with_a_graph_can_be_differentiated():
    y = torch.randn(2, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)).requires_grad_()
    term, systems = bound(coupled, y), Systems(True, torch.Size([3]), False)
    _, jacobian = linearize(term, 0.7, y, None, systems, graph=True)
    (slope,) = torch.autograd.grad(jacobian[:, 2, 0].sum(), y)  # d(3 y0^2)/dy0
    torch.testing.assert_close(slope[:, 0], 6 * y[:, 0].detach())
    rate, jacobian = linearize(term, 0.7, y, None, systems, graph="value")
    assert rate.requires_grad
    assert not jacobian.requires_grad


def test_a_given_jacobian_is_used_and_checked():
    calls = []

    def jacobian(t, y, args):
        calls.append(1)
        return torch.diag_embed(-2 * y)

    options = {"method": "trbdf2", "dt": None}
    y0 = torch.rand(4, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    del options["dt"]
    with torch.no_grad():
        given = pathline.solve(ODE(lambda t, y: -(y**2), jacobian=jacobian), y0, (0.0, 2.0), **options)
        found = pathline.solve(lambda t, y: -(y**2), y0, (0.0, 2.0), **options)
    assert calls
    torch.testing.assert_close(given.y1, found.y1, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"`jacobian` returned shape \(4, 2\).*expected \(4, 2, 2\)"):
        pathline.solve(ODE(lambda t, y: -y, jacobian=lambda t, y, args: y), y0, (0.0, 1.0), **options)


def test_a_given_complex_jacobian_becomes_a_real_one():
    a = torch.complex(matrix(3), matrix(3, 1))
    y = torch.complex(matrix(3, 2), matrix(3, 3))[0]
    f = lambda t, y: a @ y  # noqa: E731
    given, found = bound(f, y, jacobian=lambda t, y, args: a), bound(f, y)
    systems = split(found, 0.0, y, None)
    pairs = [linearize(term, 0.0, systems.flat(y), None, systems)[1] for term in (given, found)]
    torch.testing.assert_close(*pairs)


# --- linear systems


def test_gmres_solves_each_row():
    a = torch.stack([matrix(12, seed) + 6 * torch.eye(12, dtype=DOUBLE) for seed in range(3)])
    b = matrix(12, 7)[:3]
    found = gmres(lambda v: (a @ v.unsqueeze(-1)).squeeze(-1), b, rtol=1e-12)
    torch.testing.assert_close(found, torch.linalg.solve(a, b), rtol=1e-10, atol=1e-10)


def test_a_singular_matrix_is_seen_in_its_solution():
    x = solve(factor(torch.zeros(2, 3, 3, dtype=DOUBLE)), torch.ones(2, 3, dtype=DOUBLE))
    assert not torch.isfinite(x).any()


@pytest.mark.parametrize("name", COLLOCATION)
def test_the_spectrum_takes_a_matrix_apart(name):
    spectrum = Spectrum(COLLOCATION[name].a)
    np.testing.assert_allclose(spectrum.back @ spectrum.forth, np.eye(len(spectrum.a)), atol=1e-12)
    assert sum(2 if isinstance(v, complex) else 1 for v in spectrum.values) == len(spectrum.a)


# --- the iteration


def test_verdicts_on_corrections():
    judge = Judge(np.ones(4), kappa=1e-3, most=4, rounded=0.0)
    good, bad = judge(np.array([1e-4, 1.0, 1.0, np.nan]))
    assert good.tolist() == [True, False, False, False]
    assert bad.tolist() == [False, False, False, True]
    good, bad = judge(np.array([0.0, 1e-2, 2.0, 1.0]))
    assert good.tolist() == [True, True, False, False]  # 1e-2 with a ratio of 1e-2 leaves 1e-4
    assert bad.tolist() == [False, False, True, False]  # that does not shrink


def stiff(t, y):
    return torch.stack((-1e4 * (y[..., 0] - y[..., 1] ** 2), y[..., 0] - y[..., 1] ** 3 + torch.cos(t)), -1)


@pytest.mark.parametrize("solver", ["implicit_midpoint", "gl4", "radauIIA5"])
def test_without_jacobians_the_solution_and_its_gradients_are_the_same(solver):
    tableau = DIAGONAL.get(solver) or COLLOCATION[solver]
    make = DIRK if solver in DIAGONAL else Collocation
    found = []
    for newton in (Newton(), Newton(krylov=0)):
        y0 = torch.tensor([[1.0, 0.5], [0.2, -0.4]], dtype=DOUBLE, requires_grad=True)
        w = torch.tensor([1.0, 2.0], dtype=DOUBLE, requires_grad=True)
        y1 = pathline.solve(
            lambda t, y, w: torch.tanh(y * w).flip(-1) - y**2 * torch.cos(t),
            y0,
            (0.0, 0.6),
            args=w,
            method=make(tableau, newton=newton),
            dt=0.2,
        ).y1
        first = torch.autograd.grad(y1.sin().sum(), (y0, w), create_graph=True)
        second = torch.autograd.grad(first[0].cos().sum() + first[1].sum(), (y0, w))
        found.append((y1.detach(), *(g.detach() for g in first), *second))
    for dense, free in zip(*found, strict=True):
        torch.testing.assert_close(free, dense, rtol=1e-9, atol=1e-9)


def test_a_large_heat_equation_without_jacobians():
    n = 300
    x = torch.linspace(0.0, 1.0, n + 2, dtype=DOUBLE)[1:-1]

    def heat(t, u):
        inside = torch.nn.functional.pad(u, (1, 1))
        return (inside[2:] - 2 * u + inside[:-2]) * (n + 1) ** 2

    with torch.no_grad():
        free = DIRK(DIAGONAL["trbdf2"], Newton(krylov=100))
        solution = pathline.solve(heat, torch.sin(math.pi * x), (0.0, 0.1), method=free, rtol=1e-4, atol=1e-6)
    mode = (2 * (n + 1) * math.sin(math.pi / 2 / (n + 1))) ** 2
    torch.testing.assert_close(solution.y1, torch.sin(math.pi * x) * math.exp(-mode * 0.1), rtol=0.0, atol=1e-3)
    assert solution.stats.factorizations == 0


def test_jacobian_and_factors_are_kept_over_steps():
    with torch.no_grad():
        y0 = torch.tensor([1.0, 0.5], dtype=DOUBLE)
        solution = pathline.solve(stiff, y0, (0.0, 5.0), method="radau5", rtol=1e-5, atol=1e-8)
        stats = solution.stats
        assert stats.jacobians < 0.7 * stats.accepted
        linear = pathline.solve(lambda t, y: y @ matrix(2).mT, y0, (0.0, 1.0), method="gl4", dt=0.01).stats
    assert linear.jacobians == 1
    assert linear.factorizations == 1


def test_an_iteration_that_does_not_converge_shortens_the_step_or_fails():
    """y' = y^2 with backward Euler has no solution beyond h y0 = 1/4."""
    y0 = torch.tensor([1.0], dtype=DOUBLE)
    short = pathline.solve(lambda t, y: y**2, y0, (0.0, 0.2), method="implicit_euler", dt=0.2).y1
    torch.testing.assert_close(short, torch.tensor([(1 - math.sqrt(0.2)) / 0.4], dtype=DOUBLE))
    with pytest.raises(pathline.SolveError, match="Newton"):
        pathline.solve(lambda t, y: y**2, y0, (0.0, 0.5), method="implicit_euler", dt=0.5)
    controller = pathline.PID(first_step=0.9)
    with torch.no_grad():
        solution = pathline.solve(
            lambda t, y: y**2, y0, (0.0, 0.9), method="kvaerno3", rtol=1e-4, atol=1e-6, controller=controller
        )
    assert solution.stats.rejected > 0
    torch.testing.assert_close(solution.y1, torch.tensor([10.0], dtype=DOUBLE), rtol=1e-2, atol=0.0)


def test_damped_newton_finds_what_simplified_newton_misses():
    """A step from far off: the simplified iteration with the Jacobian of the start diverges."""
    y0 = torch.tensor([3.0], dtype=DOUBLE)
    y1 = pathline.solve(lambda t, y: -torch.atan(20 * y), y0, (0.0, 4.0), method="implicit_euler", dt=4.0).y1
    torch.testing.assert_close(y1 + 4.0 * torch.atan(20 * y1), y0, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_second_try_of_one_row_leaves_the_others_at_their_solution(clock):
    """The Jacobian that the first steps leave serves the slow row, and fails the one that moves."""
    rates = torch.tensor([[1.0], [60.0]], dtype=DOUBLE)
    field = lambda t, y, k: -torch.atan(k * (y - torch.sin(3 * t)) ** 3)  # noqa: E731
    y0 = torch.tensor([[0.5], [2.0]], dtype=DOUBLE)

    def run(rows):
        options = {"method": "implicit_euler", "dt": 0.5, "clock": clock}
        return pathline.solve(field, y0[rows], (0.0, 6.0), args=pathline.PerSample(rates[rows]), **options)

    together = run([0, 1])
    assert together.stats.jacobians > 2
    for row in (0, 1):
        torch.testing.assert_close(together.y1[row], run([row]).y1[0], rtol=1e-11, atol=1e-12)


def test_rows_that_have_converged_are_not_disturbed_by_others():
    """Easy rows of a batch on the shared clock: the same numbers whether a hard row is among them or not."""
    hard = torch.tensor([[3.0]], dtype=DOUBLE)
    easy = torch.tensor([[0.01], [-0.02]], dtype=DOUBLE)
    field = lambda t, y: -torch.atan(20 * y)  # noqa: E731
    together = pathline.solve(field, torch.cat([easy, hard]), (0.0, 4.0), method="implicit_euler", dt=4.0).y1
    alone = pathline.solve(field, easy, (0.0, 4.0), method="implicit_euler", dt=4.0).y1
    torch.testing.assert_close(together[:2], alone, rtol=1e-13, atol=1e-15)
