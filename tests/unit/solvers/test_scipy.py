"""scipy as a method: the same answers, the gradient by the adjoint, and what it refuses."""

from __future__ import annotations

import sys

import pytest
import torch

import pathline
from pathline._structure import Structure
from pathline.stats import Stats
from pathline.terms import ODE, Bound

DOUBLE = torch.float64
METHODS = ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"]
WEIGHT = torch.tensor([1.3, 0.7], dtype=DOUBLE)
START = torch.tensor([[1.0, 0.3], [0.5, -0.2]], dtype=DOUBLE)
TIMES = torch.linspace(0.0, 2.0, 4, dtype=DOUBLE)


def field(t, y, w):
    return torch.stack([w[1] * y[..., 1], -w[0] * torch.sin(y[..., 0]) + 0.2 * torch.cos(t)], -1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backward", [False, True])
def test_the_rows_of_a_solve(method, backward):
    times = TIMES.flip(0) if backward else TIMES
    exact = pathline.solve(field, START, times, args=WEIGHT, method="dopri8", rtol=1e-12, atol=1e-13).ys
    with torch.no_grad():
        solution = pathline.solve(
            field, START, times, args=WEIGHT, method=pathline.Scipy(method), rtol=1e-8, atol=1e-10
        )
    torch.testing.assert_close(solution.ys, exact, rtol=0.0, atol=2e-6)
    assert torch.equal(solution.ys[-1], solution.y1)
    assert (solution.stats.steps, solution.stats.accepted) == (1, 1)
    assert (solution.stats.factorizations > 0) == (method in ("Radau", "BDF"))


def test_evaluations_are_counted():
    calls = 0

    def counted(t, y):
        nonlocal calls
        calls += 1
        return -y

    with torch.no_grad():
        stats = pathline.solve(counted, START, TIMES, method="scipy").stats
    assert stats.evaluations == calls > 10


def test_structures_precisions_and_complex_states():
    def nested(t, y):
        return {"u": -y["u"], "v": (y["u"].sum().expand(3),)}

    with torch.no_grad():
        y1 = pathline.solve(nested, {"u": torch.ones(2), "v": (torch.zeros(3),)}, (0.0, 1.0), method="scipy").y1
        turned = pathline.solve(
            lambda t, y: 1j * y, torch.ones(2, dtype=torch.complex64), (0.0, 1.0), method="scipy"
        ).y1
    assert y1["u"].dtype == torch.float32
    torch.testing.assert_close(
        y1["v"][0], torch.full((3,), 2.0 * (1.0 - torch.tensor(-1.0).exp())), rtol=1e-3, atol=0.0
    )
    assert turned.dtype == torch.complex64
    torch.testing.assert_close(turned[0], torch.exp(torch.tensor(1j)), rtol=1e-3, atol=1e-4)


def test_a_tolerance_for_each_element():
    rtol, atol = torch.tensor(1e-7), torch.tensor([1e-9, 1e-3], dtype=DOUBLE)
    with torch.no_grad():
        solution = pathline.solve(field, START, TIMES, args=WEIGHT, method="scipy", rtol=rtol, atol=atol)
        tight = pathline.solve(field, START, TIMES, args=WEIGHT, method="scipy", rtol=1e-10, atol=1e-12)
    errors = (solution.ys - tight.ys).abs().amax((0, 1))
    assert 0.0 < errors.max() < 1e-2
    assert solution.stats.evaluations < tight.stats.evaluations


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_by_the_adjoint(method):
    """Parameters are quadratures over scipy's own steps, not over the one step that the loop sees."""

    def gradients(**options):
        inputs = [x.clone().requires_grad_() for x in (START, WEIGHT, TIMES)]
        ys = pathline.solve(field, inputs[0], inputs[2], args=inputs[1], **options).ys
        return torch.autograd.grad(ys.square().sum(), inputs)

    exact = gradients(method="dopri8", rtol=1e-11, atol=1e-12)
    found = gradients(method=pathline.Scipy(method), gradient="adjoint", rtol=1e-8, atol=1e-9)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=3e-6 * float(b.abs().max()))


@pytest.mark.parametrize(("forward", "backward"), [("tsit5", "scipy"), ("scipy", "tsit5")])
def test_one_way_by_scipy_and_the_other_by_ours(forward, backward):
    found = []
    for method, gradient in ((forward, pathline.Adjoint(method=backward)), ("tsit5", "backprop")):
        weight = WEIGHT.clone().requires_grad_()
        options = {"method": method, "gradient": gradient, "rtol": 1e-8, "atol": 1e-9}
        y1 = pathline.solve(field, START, (0.0, 2.0), args=weight, **options).y1
        found += torch.autograd.grad(y1.square().sum(), weight)
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=0.0)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_what_needs_a_graph_is_refused(gradient):
    weight = WEIGHT.clone().requires_grad_()
    with pytest.raises(ValueError, match="adjoint"):
        pathline.solve(field, START, TIMES, args=weight, method="scipy", gradient=gradient)


def test_a_step_that_autograd_would_record_is_refused():
    solver = pathline.Scipy()
    for field, y in ((lambda t, y: -y, START.clone().requires_grad_()), (torch.nn.Linear(2, 2).double(), START)):
        term = Bound(ODE(field), Structure(y), y, Stats())
        with pytest.raises(ValueError, match='"scipy" leaves no graph to differentiate. Use gradient="adjoint"'):
            solver.step(term, 0.0, 1.0, y, None, None)


def test_dense_output_steps_and_clocks_that_scipy_does_not_know():
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"Save\(dense=True\) keeps one polynomial a step"):
            pathline.solve(field, START, TIMES, args=WEIGHT, method="scipy", save=pathline.Save(dense=True))
        with pytest.raises(ValueError, match="`dt`"):
            pathline.solve(field, START, TIMES, args=WEIGHT, method="scipy", dt=0.1)
        with pytest.raises(ValueError, match="clock"):
            pathline.solve(field, START, TIMES, args=WEIGHT, method="scipy", clock="per-sample")


def test_what_is_no_method():
    with pytest.raises(ValueError, match="`method` is one of RK23, .*; it is \"?'?lsoda"):
        pathline.Scipy("lsoda")
    with pytest.raises(ValueError, match='`min_step` is an option of "LSODA" alone'):
        pathline.Scipy("RK45", min_step=0.1)
    assert repr(pathline.Scipy("BDF")) == 'Scipy("BDF")'


def test_the_longest_step():
    with torch.no_grad():
        free = pathline.solve(lambda t, y: -y, START, (0.0, 5.0), method=pathline.Scipy("RK45"))
        bound = pathline.solve(lambda t, y: -y, START, (0.0, 5.0), method=pathline.Scipy("RK45", max_step=0.02))
    assert bound.stats.evaluations > 6 * 250 > free.stats.evaluations


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    with torch.no_grad(), pytest.raises(ImportError, match="pip install"):
        pathline.solve(lambda t, y: -y, START, (0.0, 1.0), method="scipy")


@pytest.mark.parametrize("method", ["LSODA", "RK45", "BDF"])
def test_a_solution_that_ends_before_the_span_does(method):
    """y' = y^2 has a pole at t = 1; scipy's LSODA would go on for ever."""
    y0 = torch.ones(1, dtype=DOUBLE)
    with torch.no_grad(), pytest.raises(pathline.SolveError, match=r"[Ss]cipy|finite"):
        pathline.solve(lambda t, y: y * y, y0, (0.0, 2.0), method=pathline.Scipy(method))


def test_a_rate_that_is_not_finite():
    y0 = torch.ones(1, dtype=DOUBLE)
    with torch.no_grad(), pytest.raises(pathline.SolveError, match="finite"):
        pathline.solve(lambda t, y: torch.log(0.5 - t) * y, y0, (0.0, 1.0), method="scipy")
