"""Steps that can be undone, and what that costs on a field that forgets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import pathline
from pathline._structure import Structure
from pathline.solvers.reversible import REVERSIBLE, AsynchronousLeapfrog, Reversible, ReversibleHeun
from pathline.stats import Stats
from pathline.terms import ODE, Bound

DOUBLE = torch.float64
RESULT = Path(__file__).parents[3] / "docs" / "results" / "energy.json"
BASES = ["euler", "rk4", "bosh3", "tsit5", "vern7", "dopri8"]


def pendulum(t, y):
    return torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)


def damped(t, y, rate=0.1):
    return torch.stack([y[..., 1], -torch.sin(y[..., 0]) - rate * y[..., 1]], -1)


def forced(t, y):
    return pendulum(t, y) + 0.3 * torch.cos(2.0 * t)


def kepler(t, y):
    q, p = y.chunk(2, -1)
    return torch.cat([p, -q / q.square().sum(-1, keepdim=True) ** 1.5], -1)


def bound(field, y0, *, rows=False):
    return Bound(ODE(field), Structure(y0, rows=rows), y0, Stats())


def forth(solver, field, y, h, steps):
    term = bound(field, y)
    carry = solver.init(term, 0.0, y, None)
    with torch.no_grad():
        for n in range(steps):
            step = solver.step(term, n * h, (n + 1) * h, y, None, carry)
            y, carry = step.y1, step.carry
    return y, carry


def back(solver, field, y, carry, h, steps):
    term = bound(field, y)
    with torch.no_grad():
        for n in reversed(range(steps)):
            y, carry = solver.inverse(term, n * h, (n + 1) * h, y, None, carry)
    return y, carry


ORBIT = torch.tensor([0.5, 0.0, 0.0, 3**0.5], dtype=DOUBLE)
SWING = torch.tensor([1.0, 0.3], dtype=DOUBLE)


# --- the formulas ------------------------------------------------------------------------------------------------


def test_two_steps_of_the_reversible_heun_method():
    h, y, z = 0.1, SWING, SWING
    for n in range(2):
        t = torch.tensor(n * h, dtype=DOUBLE)
        z1 = 2 * y - z + h * forced(t, z)
        y = y + h * (forced(t, z) + forced(t + h, z1)) / 2
        z = z1
    solution = pathline.solve(
        forced, SWING, (0.0, 0.2), method="reversible_heun", controller=pathline.FixedStep(h), save=pathline.Save()
    )
    torch.testing.assert_close(solution.y1, y, rtol=1e-14, atol=1e-14)
    assert solution.stats.evaluations == 3


def test_two_steps_of_the_asynchronous_leapfrog():
    h, y = 0.1, SWING
    v = forced(torch.tensor(0.0, dtype=DOUBLE), y)
    for n in range(2):
        u = forced(torch.tensor((n + 0.5) * h, dtype=DOUBLE), y + h / 2 * v)
        y, v = y + h * u, 2 * u - v
    solution = pathline.solve(forced, SWING, (0.0, 0.2), method="alf", controller=pathline.FixedStep(h))
    torch.testing.assert_close(solution.y1, y, rtol=1e-14, atol=1e-14)
    assert solution.stats.evaluations == 3


@pytest.mark.parametrize("solver", [ReversibleHeun(), AsynchronousLeapfrog()])
def test_the_estimate_is_the_distance_from_eulers_method(solver):
    term = bound(forced, SWING)
    step = solver.step(term, 0.0, 0.1, SWING, None, None)
    euler = SWING + 0.1 * forced(torch.tensor(0.0, dtype=DOUBLE), SWING)
    torch.testing.assert_close(step.error, step.y1 - euler, rtol=1e-12, atol=1e-16)
    assert not step.error.requires_grad


@pytest.mark.parametrize("base", BASES)
def test_a_step_of_the_coupled_form(base):
    """y1 = c y0 + (1 - c) z0 + Psi_h(z0), z1 = z0 - Psi_(-h)(y1), with Psi from a solve of one step."""
    solver, h, c = Reversible(base, coupling=0.9), 0.1, 0.9
    y0, z0 = SWING, SWING + 0.01

    def psi(t0, t1, y):
        step = {"controller": pathline.FixedStep(h)} if pathline.METHODS[base].adaptive else {"dt": h}
        return pathline.solve(forced, y, (t0, t1), method=base, **step).y1 - y

    y1 = c * y0 + (1 - c) * z0 + psi(0.2, 0.3, z0)
    z1 = z0 - psi(0.3, 0.2, y1)
    term = bound(forced, SWING)
    step = solver.step(term, 0.2, 0.3, y0, None, z0)
    torch.testing.assert_close(step.y1, y1, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(step.carry, z1, rtol=1e-13, atol=1e-14)
    assert term.stats.evaluations == solver.stages
    for end, state in ((0.2, y0), (0.3, y1)):
        torch.testing.assert_close(step.rows([end])[0], state, rtol=1e-13, atol=1e-13)
    curve = step.coefficients()
    torch.testing.assert_close(curve.sum(0), y1, rtol=1e-12, atol=1e-12)
    theta = 0.37
    inside = sum(x * theta**k for k, x in enumerate(curve))
    torch.testing.assert_close(step.rows([0.2 + theta * h])[0], inside, rtol=1e-12, atol=1e-12)


def test_the_order_and_the_stages_are_those_of_the_base():
    solver = Reversible("tsit5")
    assert (solver.order, solver.embedded_order, solver.dense_order, solver.coupling) == (5, 4, 4, 0.99)
    assert solver.stages == 7 + 6  # the way back needs neither the estimate nor the slope behind the step
    assert repr(solver) == 'Reversible("tsit5", coupling=0.99)'
    assert Reversible(pathline.METHODS["rk4"]).stages == 8


@pytest.mark.parametrize("base", ["rk4", "bosh3", "tsit5"])
def test_the_measured_order(base):
    exact = pathline.solve(forced, SWING, (0.0, 2.0), method="dopri8", rtol=1e-13, atol=1e-14).y1
    errors = [float((forth(Reversible(base), forced, SWING, 2.0 / n, n)[0] - exact).abs().max()) for n in (32, 64)]
    assert math.log2(errors[0] / errors[1]) > Reversible(base).order - 0.25


def test_what_is_no_base():
    with pytest.raises(ValueError, match='No explicit Runge-Kutta method is called "tsit6". Did you mean "tsit5"'):
        Reversible("tsit6")
    with pytest.raises(TypeError, match="`base` is an explicit Runge-Kutta method or its name"):
        Reversible(pathline.METHODS["alf"])
    for coupling in (0.0, 1.1, -1.0):
        with pytest.raises(ValueError, match=r"`coupling` lies in \(0, 1\]"):
            Reversible("tsit5", coupling=coupling)


# --- there and back ----------------------------------------------------------------------------------------------

SOLVERS = [*REVERSIBLE.values(), *(Reversible(base) for base in BASES)]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)
def test_the_inverse_gives_state_and_carry_of_every_step(solver):
    y, term, states = SWING, bound(forced, SWING), []
    carry = solver.init(term, 0.0, y, None)
    for n in range(50):
        states.append((y, carry))
        step = solver.step(term, n * 0.1, (n + 1) * 0.1, y, None, carry)
        y, carry = step.y1, step.carry
    for n in reversed(range(50)):
        y, carry = solver.inverse(term, n * 0.1, (n + 1) * 0.1, y, None, carry)
        torch.testing.assert_close(y, states[n][0], rtol=0.0, atol=1e-13)
        torch.testing.assert_close(carry, states[n][1], rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("solver", SOLVERS[:4], ids=lambda solver: solver.name)
def test_rows_with_clocks_of_their_own(solver):
    y, field = torch.tensor([[1.0, 0.3], [0.2, -0.7], [-0.5, 0.1]], dtype=DOUBLE), pendulum
    term = bound(field, y, rows=True)
    t0, t1 = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE), torch.tensor([0.1, 0.3, 1.4], dtype=DOUBLE)
    step = solver.step(term, t0, t1, y, None, None)
    index = torch.tensor([2, 0])
    torch.testing.assert_close(step.coefficients(index), step.coefficients()[:, index], rtol=1e-14, atol=1e-14)
    for i in range(3):
        alone = solver.step(bound(field, y[i]), float(t0[i]), float(t1[i]), y[i], None, None)
        torch.testing.assert_close(step.y1[i], alone.y1, rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(step.coefficients()[:, i], alone.coefficients(), rtol=1e-13, atol=1e-14)
    before, carry = solver.inverse(term, t0, t1, step.y1, None, step.carry)
    torch.testing.assert_close(before, y, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(carry, solver.init(term, t0, y, None), rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("name", REVERSIBLE)
@pytest.mark.parametrize(("field", "start", "h"), [(pendulum, SWING, 0.05), (kepler, ORBIT, 0.01)])
def test_two_thousand_steps_and_back(name, field, start, h):
    solver = REVERSIBLE[name]
    y, carry = forth(solver, field, start, h, 2000)
    assert (y - start).abs().max() > 0.1
    y, _ = back(solver, field, y, carry, h, 2000)
    assert (y - start).abs().max() < 1e-11


def test_the_coupled_form_comes_back_through_damping():
    solver = Reversible("bosh3", coupling=0.99)
    y, carry = forth(solver, damped, SWING, 0.1, 1500)
    assert y.abs().max() < 1e-2
    y, _ = back(solver, damped, y, carry, 0.1, 1500)
    assert (y - SWING).abs().max() < 1e-9


def test_the_ways_back_on_record():
    """10 000 steps there and back: the bars of the pendulum, of Kepler's problem, and of the damped pendulum."""
    record = json.loads(RESULT.read_text())
    bars = {"pendulum": 1e-10, "kepler": 1e-10, "damped pendulum": 1e-8}
    held = [row for row in record["returns"] if row["bar"] is not None]
    assert {(row["system"], row["bar"]) for row in held} == set(bars.items())
    assert all(row["steps"] == 10_000 and row["missed"] <= bars[row["system"]] for row in held)
    assert {row["method"] for row in held if row["system"] == "kepler"} >= {"reversible_heun", "alf"}
    assert [row["diverges"] for row in record["damping"]] == [True, True, False]


# --- damping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REVERSIBLE)
def test_the_first_two_diverge_on_a_damped_pendulum(name):
    y, _ = forth(REVERSIBLE[name], lambda t, y: damped(t, y, 0.3), SWING, 0.1, 2500)
    assert y.abs().max() > 1e6


def test_the_coupled_form_comes_to_rest():
    y, _ = forth(Reversible("bosh3", coupling=0.97), lambda t, y: damped(t, y, 0.3), SWING, 0.1, 2500)
    assert y.abs().max() < 1e-12


def test_a_step_that_contracts_by_more_than_the_coupling_is_unstable():
    """y' = -y: stable while exp(-h) >= c, as the docstring says."""
    for h, stable in ((0.08, True), (0.15, False)):
        y, _ = forth(Reversible("tsit5", coupling=0.9), lambda t, y: -y, torch.ones(1, dtype=DOUBLE), h, 1500)
        assert bool(y.abs().max() < 1e-6) == stable


def test_adaptive_steps_see_the_copies_part():
    """The base's estimate at z alone would let them: it takes steps that contract by more than the coupling."""

    def field(t, y):
        return -y + torch.cos(t)

    y0, t = torch.tensor([1.0], dtype=DOUBLE), (0.0, 40.0)
    exact = 0.5 * (math.cos(40.0) + math.sin(40.0)) + 0.5 * math.exp(-40.0)
    base = pathline.solve(field, y0, t, rtol=1e-6, atol=1e-8)
    coupled = pathline.solve(field, y0, t, method=Reversible("tsit5", coupling=0.9), rtol=1e-6, atol=1e-8)
    stable = 40.0 / -math.log(0.9)  # so many steps contract by the coupling each
    assert base.stats.accepted < 0.5 * stable
    assert coupled.stats.accepted > 0.8 * stable
    assert float((coupled.y1 - exact).abs()) < 1e-5


def test_every_gradient():
    """Through the copies and their coupling; the adjoint as near as the tolerance."""
    weight, found = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True), {}
    for gradient in ("backprop", "checkpointed", "adjoint"):
        for method in ("reversible_heun", "alf", Reversible("bosh3")):
            solution = pathline.solve(
                lambda t, y, w: -w * y + torch.sin(t),
                torch.ones(3, dtype=DOUBLE),
                (0.0, 1.0),
                method=method,
                gradient=gradient,
                args=weight,
                rtol=1e-5,
                atol=1e-6,
            )
            name = getattr(method, "name", method)
            (found[gradient, name],) = torch.autograd.grad(solution.y1.sum(), weight)
    for name in ("reversible_heun", "alf", "reversible(bosh3, 0.99)"):
        torch.testing.assert_close(found["checkpointed", name], found["backprop", name], rtol=1e-11, atol=0.0)
        torch.testing.assert_close(found["adjoint", name], found["backprop", name], rtol=1e-3, atol=0.0)
