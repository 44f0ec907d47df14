"""Kicks and drifts: the moves, the times they happen at, the shared kick, and what they are refused for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import pathline
from pathline._structure import Structure
from pathline.solvers.curves import quintic, through
from pathline.solvers.symplectic import SYMPLECTIC, leapfrogs
from pathline.stats import Stats
from pathline.terms import ODE, Bound, Separable, Term

DOUBLE = torch.float64
RESULT = Path(__file__).parents[3] / "docs" / "results" / "energy.json"


def kick(t, q):
    return -torch.sin(q) + 0.3 * torch.cos(2.0 * t) * torch.ones_like(q)


def drift(t, p):
    return (1.0 + 0.3 * torch.sin(t)) * p


FORCED = Separable(kick, drift)
PENDULUM = Separable(lambda t, q: -torch.sin(q), lambda t, p: p)


def bound(term, y0, *, rows=False):
    return Bound(term, Structure(y0, rows=rows), y0, Stats())


# --- the moves ---------------------------------------------------------------------------------------------------


def test_leapfrog_is_kick_drift_kick_at_the_right_times():
    q, p, h = torch.tensor([0.7], dtype=DOUBLE), torch.tensor([-0.2], dtype=DOUBLE), 0.1
    y = torch.cat([q, p])
    for n in range(3):
        t = torch.tensor(n * h, dtype=DOUBLE)
        p = p + h / 2 * kick(t, q)
        q = q + h * drift(t + h / 2, p)
        p = p + h / 2 * kick(t + h, q)
    solution = pathline.solve(FORCED, y, (0.0, 0.3), method="leapfrog", dt=h)
    torch.testing.assert_close(solution.y1, torch.cat([q, p]), rtol=1e-14, atol=1e-14)
    assert solution.stats.evaluations == 2 * 3 + 1  # the last kick of a step is the first of the next


def test_symplectic_euler_kicks_at_the_start_and_drifts_at_the_end():
    q, p, h = torch.tensor(0.7, dtype=DOUBLE), torch.tensor(-0.2, dtype=DOUBLE), 0.1
    p1 = p + h * kick(torch.tensor(0.0, dtype=DOUBLE), q)
    q1 = q + h * drift(torch.tensor(h, dtype=DOUBLE), p1)
    y1 = pathline.solve(FORCED, torch.stack([q, p]), (0.0, h), method="symplectic_euler", dt=h).y1
    torch.testing.assert_close(y1, torch.stack([q1, p1]), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("name", "powers"), [("leapfrog", [1]), ("yoshida4", [1, 3]), ("yoshida6", [1, 3, 5])])
def test_the_lengths_of_the_leapfrogs(name, powers):
    """A composition of symmetric steps: lengths sum to one, their odd powers cancel up to the order."""
    lengths = [move.weight for move in SYMPLECTIC[name].moves if not move.kicks]
    assert lengths == lengths[::-1]
    for power in powers:
        assert sum(w**power for w in lengths) == pytest.approx(float(power == 1), abs=3e-15)
    assert SYMPLECTIC[name].moves == tuple(leapfrogs(lengths))
    assert sum(move.weight for move in SYMPLECTIC[name].moves if move.kicks) == pytest.approx(1.0, abs=1e-15)


def test_a_pair_of_tensors():
    together = pathline.solve(FORCED, torch.tensor([0.7, -0.2]), (0.0, 1.0), method="yoshida4", dt=0.1).y1
    apart = pathline.solve(
        FORCED, {"angle": torch.tensor(0.7), "speed": torch.tensor(-0.2)}, (0.0, 1.0), method="yoshida4", dt=0.1
    ).y1
    torch.testing.assert_close(torch.stack(list(apart.values())), together)


# --- inverses and rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYMPLECTIC)
def test_the_inverse_of_a_step(name):
    solver, y = SYMPLECTIC[name], torch.tensor([[0.7, -0.2], [1.5, 0.9]], dtype=DOUBLE)
    term = bound(FORCED, y)
    carry, states = solver.init(term, 0.0, y, None), []
    for n in range(300):
        states.append((y, carry))
        step = solver.step(term, n * 0.1, (n + 1) * 0.1, y, None, carry)
        y, carry = step.y1, step.carry
    for n in reversed(range(300)):
        y, carry = solver.inverse(term, n * 0.1, (n + 1) * 0.1, y, None, carry)
        torch.testing.assert_close(y, states[n][0], rtol=0.0, atol=1e-12)
        if solver.fsal:
            torch.testing.assert_close(carry, states[n][1], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", SYMPLECTIC)
def test_rows_with_clocks_of_their_own(name):
    solver, y = SYMPLECTIC[name], torch.tensor([[0.7, -0.2], [1.5, 0.9], [0.1, 0.0]], dtype=DOUBLE)
    term, t0, t1 = bound(FORCED, y, rows=True), torch.tensor([0.0, 0.3, 1.0]), torch.tensor([0.1, 0.1, 1.4])
    t0, t1 = t0.double(), t1.double()
    step = solver.step(term, t0, t1, y, None, None)
    index = torch.tensor([2, 0])
    before, some = term.stats.evaluations, step.coefficients(index)
    assert term.stats.evaluations > before  # slopes that only dense output needs
    torch.testing.assert_close(some, step.coefficients()[:, index], rtol=1e-14, atol=1e-14)
    for i in range(3):
        alone = solver.step(bound(FORCED, y[i]), float(t0[i]), float(t1[i]), y[i], None, None)
        torch.testing.assert_close(step.y1[i], alone.y1, rtol=1e-15, atol=1e-15)
        torch.testing.assert_close(step.coefficients()[:, i], alone.coefficients(), rtol=1e-13, atol=1e-14)
    back, _ = solver.inverse(term, t0, t1, step.y1, None, step.carry)
    torch.testing.assert_close(back, y, rtol=0.0, atol=1e-15)


# --- order, and where it fails -----------------------------------------------------------------------------------


class Naive(Term):
    """What a kick-drift method would do to H = (1 + q^2)(1 + p^2) / 2: each half reads the other's latest value."""

    def __init__(self, y):
        self.q, self.p = y.chunk(2, -1)

    def kick(self, t, q, args):
        self.q = q
        return -q * (1.0 + self.p**2)

    def drift(self, t, p, args):
        self.p = p
        return p * (1.0 + self.q**2)

    def rate(self, t, y, args):
        q, p = y.chunk(2, -1)
        return torch.cat([p * (1.0 + q**2), -q * (1.0 + p**2)], -1)


def _order(term, method):
    y0, errors = torch.tensor([0.4, 0.6], dtype=DOUBLE), []
    field = Naive(y0)
    exact = pathline.solve(field, y0, (0.0, 1.0), method="dopri8", rtol=1e-13, atol=1e-14).y1
    for n in (20, 40, 80):
        y1 = pathline.solve(term(y0), y0, (0.0, 1.0), method=method, dt=1.0 / n).y1
        errors.append(float((y1 - exact).abs().max()))
    return math.log2(errors[1] / errors[2])


@pytest.mark.parametrize("method", ["leapfrog", "yoshida4"])
def test_a_field_that_cannot_be_split_would_lose_the_order(method):
    assert _order(Naive, method) < 1.3


def test_the_method_to_take_instead_keeps_it():
    assert _order(Naive, "implicit_midpoint") == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("name", SYMPLECTIC)
def test_a_field_without_a_split_is_refused_with_what_to_use(name):
    with pytest.raises(TypeError, match='needs a field that is split.*Use method="implicit_midpoint"'):
        pathline.solve(lambda t, y: -y, torch.ones(2), (0.0, 1.0), method=name, dt=0.1)
    with pytest.raises(TypeError, match="implicit_midpoint"):
        pathline.solve(
            pathline.fields.Hamiltonian(lambda y: y.square().sum(-1)), torch.ones(2), (0.0, 1.0), method=name
        )


# --- energy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "step", "order"), [("leapfrog", 0.2, 2), ("yoshida4", 0.2, 4), ("yoshida6", 0.4, 6)])
def test_the_energy_of_a_pendulum_swings_and_does_not_drift(name, step, order):
    """Two sizes of step at once, as two samples; the error of the last fifth is that of the first, and of the order."""
    solver, y = SYMPLECTIC[name], torch.tensor([[1.0, 0.3]] * 2, dtype=DOUBLE)
    term, h = bound(PENDULUM, y, rows=True), torch.tensor([step, step / 2], dtype=DOUBLE)
    carry, energies = solver.init(term, torch.zeros_like(h), y, None), []
    with torch.no_grad():
        for _ in range(1000):
            made = solver.step(term, torch.zeros_like(h), h, y, None, carry)
            y, carry = made.y1, made.carry
            energies.append(y[:, 1] ** 2 / 2 - torch.cos(y[:, 0]))
    errors = (torch.stack(energies) - (0.3**2 / 2 - math.cos(1.0))).abs()
    first, last = errors[:200].amax(0), errors[-200:].amax(0)
    assert bool((last <= 1.05 * first).all())
    assert math.log2(float(errors[:, 0].max() / errors[:, 1].max())) == pytest.approx(order, abs=0.25)


def test_the_energies_on_record():
    """100 000 steps of Kepler's problem and of the pendulum."""
    record = json.loads(RESULT.read_text())
    rows = [row for row in record["energy"] if row["method"] != "rk4"]
    assert {row["system"] for row in rows} == {"kepler", "pendulum"}
    assert all(row["steps"] == 100_000 and row["last"] <= 1.5 * row["first"] for row in rows)
    drifting = [row for row in record["energy"] if row["method"] == "rk4"]
    assert drifting
    assert all(row["last"] > 5 * row["first"] for row in drifting)
    for name in SYMPLECTIC:
        for system in ("kepler", "pendulum"):
            assert record["orders"][f"{system} {name}"] == pytest.approx(SYMPLECTIC[name].order, abs=0.25)


# --- curves ------------------------------------------------------------------------------------------------------


def test_a_polynomial_through_values_and_slopes():
    """Degree d is met exactly by d - 1 slopes and both ends."""
    coefficients = torch.tensor([[1.0], [-2.0], [0.5], [3.0], [-1.0]], dtype=DOUBLE)
    powers = np.arange(5)

    def value(theta):
        return sum(c * theta**k for c, k in zip(coefficients, powers, strict=True))

    def slope(theta):
        return sum(k * c * theta ** (k - 1) for c, k in zip(coefficients[1:], powers[1:], strict=True))

    h = 0.25
    nodes = (0.0, 0.25, 1.0)
    found = through(h, value(0.0), value(1.0), nodes, [slope(node) / h for node in nodes])
    torch.testing.assert_close(found, coefficients, rtol=0.0, atol=1e-12)


def test_a_curve_of_order_five_from_the_ends():
    """y' = -2 t y^2, y = 1 / (1 + t^2): the local error falls as h^6."""

    def exact(t):
        return torch.tensor([1.0 / (1.0 + t * t)], dtype=DOUBLE)

    def rate(t, y):
        return -2.0 * t * y * y

    errors = []
    for h in (0.2, 0.1, 0.05):
        y0, y1 = exact(0.3), exact(0.3 + h)
        curve = quintic(h, y0, y1, rate(0.3, y0), rate(0.3 + h, y1), lambda s, y, h=h: rate(0.3 + s * h, y))
        thetas = torch.linspace(0.0, 1.0, 21, dtype=DOUBLE)
        values = sum(c * thetas**k for k, c in enumerate(curve))
        errors.append(float((values - torch.stack([exact(0.3 + float(s) * h)[0] for s in thetas])).abs().max()))
    assert math.log2(errors[0] / errors[1]) > 5.5
    assert math.log2(errors[1] / errors[2]) > 5.7


# --- gradients ---------------------------------------------------------------------------------------------------


def test_every_gradient_of_a_rollout_reaches_the_networks():
    torch.manual_seed(0)
    field = pathline.fields.Hamiltonian(kinetic=pathline.nets.MLP(1, 1, 8), potential=pathline.nets.MLP(1, 1, 8))
    field = field.double()
    y0 = torch.tensor([[0.5, 0.1], [-0.3, 0.8]], dtype=DOUBLE)
    found = {}
    for gradient in ("backprop", "checkpointed", "adjoint"):
        y1 = pathline.solve(field, y0, (0.0, 1.0), method="yoshida6", dt=0.1, gradient=gradient).y1
        found[gradient] = torch.autograd.grad(y1.square().sum(), list(field.parameters()), allow_unused=True)
    for exact, again, adjoint in zip(*found.values(), strict=True):
        if exact is None or not exact.abs().max():  # the last bias shifts the energy, which no rate sees
            continue
        torch.testing.assert_close(again, exact, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(adjoint, exact, rtol=1e-6, atol=1e-8)
    assert sum(g is not None and bool(g.abs().max() > 1e-3) for g in found["adjoint"]) >= 6


def test_the_adjoint_asks_for_what_it_can_split():
    y0 = torch.ones(2, dtype=DOUBLE, requires_grad=True)
    plain = ODE(lambda t, y: -y)
    y1 = pathline.solve(plain, y0, (0.0, 1.0), gradient=pathline.Adjoint(method="leapfrog")).y1
    with pytest.raises(ValueError, match="kicks and drifts, and the field isn't split"):
        y1.sum().backward()


@pytest.mark.parametrize("method", ["yoshida6", "scipy"])
def test_the_sensitivity_along_a_solution(method):
    found, y0, t = [], torch.tensor([1.0, 0.3], dtype=DOUBLE), torch.linspace(0.0, 2.0, 5, dtype=DOUBLE)
    for name, options in (("tsit5", {"rtol": 1e-9, "atol": 1e-10}), (method, {})):
        options = options or ({"dt": 0.05} if method == "yoshida6" else {"rtol": 1e-9, "atol": 1e-10})
        with torch.no_grad():
            solution = pathline.solve(PENDULUM, y0, t, method=name, **options)
        curve = pathline.sensitivity(solution, lambda ys: ys.pow(3).sum())
        found.append(torch.stack([curve(s) for s in (0.0, 0.3, 1.1, 1.9)]))
    torch.testing.assert_close(found[1], found[0], rtol=0.0, atol=1e-7)


def test_a_tensor_of_an_odd_length_has_no_halves():
    pendulum = pathline.Separable(kick=lambda t, q: -torch.sin(q), drift=lambda t, p: p)
    with pytest.raises(ValueError, match=r"of equal length in its last dimension; `y0` has 3 entries"):
        pathline.solve(pendulum, torch.ones(3), (0.0, 1.0), method="leapfrog", dt=0.1)
