"""The adjoint state as a curve: against closed forms, across output times, either direction."""

from __future__ import annotations

import pytest
import torch

import pathline
from pathline import Save

MODES = ["backprop", "checkpointed", "adjoint"]
A = torch.tensor([[-0.4, 1.3], [-1.1, -0.2]], dtype=torch.float64)
Y0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def linear(t, y):
    return y @ A.T


def carried(c, span):
    """exp(A^T span) c: the sensitivity now to a reward c after `span`."""
    return torch.linalg.matrix_exp(A.T * span) @ c


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["tsit5", "dopri5", "dopri8"])
@pytest.mark.parametrize("t", [[0.0, 0.4, 1.0, 1.5], [1.5, 1.0, 0.4, 0.0]], ids=["forward", "backward"])
def test_between_and_at_the_output_times(t, method, gradient):
    times = torch.tensor(t, dtype=torch.float64)
    weights = torch.tensor([[0.5, 1.0], [2.0, 0.3], [0.0, 0.0], [1.0, -1.0]], dtype=torch.float64)
    solution = pathline.solve(linear, Y0, times, method=method, gradient=gradient, **TIGHT)
    a = pathline.sensitivity(solution, lambda ys: (weights * ys).sum())
    sign = 1.0 if t[-1] > t[0] else -1.0

    def truth(s, *, counts_own):
        rows = [(ti, w) for ti, w in zip(t, weights, strict=True) if sign * (ti - s) > 0 or (counts_own and ti == s)]
        return sum((carried(w, ti - s) for ti, w in rows), torch.zeros(2, dtype=torch.float64))

    for s in (*t, 0.2, 0.71, 0.9, 1.37):
        torch.testing.assert_close(a(s), truth(s, counts_own=True), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(a(s, after=True), truth(s, counts_own=False), rtol=1e-6, atol=1e-7)
    inside = torch.tensor([[0.1, 0.6], [1.2, 1.4]], dtype=torch.float64)
    assert a(inside).shape == (2, 2, 2)
    torch.testing.assert_close(a(inside)[1, 0], truth(1.2, counts_own=False), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(a.derivative(inside), -a(inside) @ A, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_along_the_dense_output_that_was_kept(method):
    """Where a loss looks at one row alone, the curve is zero behind it; a field that contracts by e^-40 is no trouble."""
    times = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    options = {"method": method, "rtol": 1e-8, "atol": 1e-10}
    solution = pathline.solve(lambda t, y: -20.0 * (y - torch.cos(t)), Y0, times, save=Save(dense=True), **options)
    a = pathline.sensitivity(solution, lambda ys: ys[1].sum())
    for s in (0.0, 0.5, 0.9, 1.0):
        torch.testing.assert_close(
            a(s), torch.exp(torch.full((2,), 20.0 * (s - 1.0), dtype=torch.float64)), rtol=1e-5, atol=1e-9
        )
    assert a(1.5).abs().max() == 0.0


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("kind", ["function", "scalar"])
def test_at_the_start_it_is_the_gradient_to_the_start(kind, gradient):
    y0 = Y0.clone().requires_grad_()
    field = lambda t, y: torch.sin(y) * torch.cos(t) - 0.1 * y  # noqa: E731
    t = torch.linspace(0.0, 2.0, 5, dtype=torch.float64)
    solution = pathline.solve(field, y0, t, gradient=gradient, **TIGHT)
    loss = lambda ys: (ys**2).sum() + ys[2, 0]  # noqa: E731
    (truth,) = torch.autograd.grad(loss(pathline.solve(field, y0, t, **TIGHT).ys), y0)
    a = pathline.sensitivity(solution, loss if kind == "function" else loss(solution.ys))
    torch.testing.assert_close(a(0.0), truth, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(a(2.0), 2 * solution.ys[-1].detach(), rtol=1e-9, atol=1e-10)
    assert not a(0.3).requires_grad


def test_in_the_middle_it_is_the_gradient_of_a_solve_that_starts_there():
    field = lambda t, y: torch.sin(y) * torch.cos(t)  # noqa: E731
    t = torch.tensor([0.0, 0.8, 2.0], dtype=torch.float64)
    solution = pathline.solve(field, Y0, t, save=Save(dense=True), **TIGHT)
    a = pathline.sensitivity(solution, lambda ys: ys[1:].pow(3).sum())
    for s, later in ((0.3, [0.8, 2.0]), (1.1, [2.0])):
        y = solution(s).detach().requires_grad_()
        times = torch.tensor([s, *later], dtype=torch.float64)
        rows = pathline.solve(field, y, times, **TIGHT).ys[1:]
        (truth,) = torch.autograd.grad(rows.pow(3).sum(), y)
        torch.testing.assert_close(a(s), truth, rtol=1e-6, atol=1e-8)


def test_batches_and_structures():
    y0 = {"q": torch.rand(3, 1, dtype=torch.float64), "p": torch.rand(3, 1, dtype=torch.float64)}
    field = lambda t, y: {"q": y["p"], "p": -y["q"]}  # noqa: E731
    solution = pathline.solve(field, y0, (0.0, 1.0), **TIGHT)
    a = pathline.sensitivity(solution, lambda ys: ys["q"][-1].sum())
    s = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    found = a(s)
    assert found["q"].shape == found["p"].shape == (3, 3, 1)
    left = (1.0 - s)[:, None, None].expand(3, 3, 1)
    torch.testing.assert_close(found["q"], torch.cos(left), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found["p"], torch.sin(left), rtol=1e-6, atol=1e-8)


def test_complex_states():
    rate = torch.tensor([-0.3 + 1.1j, 0.2 - 0.7j], dtype=torch.complex128)
    y0 = torch.tensor([1.0 + 0.5j, -0.4j], dtype=torch.complex128, requires_grad=True)
    solution = pathline.solve(lambda t, y: rate * y, y0, (0.0, 1.0), **TIGHT)
    loss = lambda ys: ys[-1].abs().square().sum()  # noqa: E731
    (truth,) = torch.autograd.grad(loss(solution.ys), y0, retain_graph=True)
    torch.testing.assert_close(pathline.sensitivity(solution, loss)(0.0), truth, rtol=1e-6, atol=1e-8)


def test_rows_on_repeated_times_all_count():
    t = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0], dtype=torch.float64)
    a = pathline.sensitivity(pathline.solve(linear, Y0, t, **TIGHT), lambda ys: ys.sum())
    one = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(a(1.0), 2 * one)
    torch.testing.assert_close(a(0.0), 2 * (one + carried(one, 0.5) + carried(one, 1.0)), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(a(0.0, after=True), 2 * (carried(one, 0.5) + carried(one, 1.0)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient", MODES)
def test_it_leaves_the_solution_as_it_was(gradient):
    """Neither counts nor gradients of the field, and the graph can still be used."""
    net = torch.nn.Linear(2, 2, dtype=torch.float64)
    y0 = Y0.clone().requires_grad_()
    solution = pathline.solve(net, y0, (0.0, 1.0), gradient=gradient)
    before = dict(vars(solution.stats))
    loss = solution.ys[-1].sum()
    pathline.sensitivity(solution, loss)
    assert vars(solution.stats) == before
    assert net.weight.grad is None
    assert y0.grad is None
    loss.backward()
    assert net.weight.grad.abs().max() > 0


def test_fixed_steps():
    solution = pathline.solve(linear, Y0, (0.0, 1.0), method="rk4", dt=0.01)
    a = pathline.sensitivity(solution, lambda ys: ys[-1, 0])
    for s in (0.0, 0.333, 1.0):
        torch.testing.assert_close(a(s), carried(torch.tensor([1.0, 0.0]).double(), 1.0 - s), rtol=1e-6, atol=1e-7)


def test_parameters_that_are_not_trained():
    """A loss on data, a field without parameters, a start without gradient."""
    solution = pathline.solve(linear, Y0, (0.0, 1.0), **TIGHT)
    a = pathline.sensitivity(solution, lambda ys: (ys[-1] - 1.0).square().sum())
    c = 2 * (solution.y1 - 1.0)
    torch.testing.assert_close(a(0.0), carried(c, 1.0), rtol=1e-6, atol=1e-8)


def test_knots_run_from_the_end_to_the_start():
    solution = pathline.solve(linear, Y0, (0.0, 1.0))
    a = pathline.sensitivity(solution, lambda ys: ys[-1].sum())
    assert a.ts[0] == 1.0
    assert a.ts[-1] == 0.0
    assert (a.ts.diff() < 0).all()


def test_outside_the_span():
    a = pathline.sensitivity(pathline.solve(linear, Y0, (0.0, 1.0)), lambda ys: ys[-1].sum())
    for s in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"known from t = 1 to 0; it was asked for t = "):
            a(s)


def test_solutions_it_cannot_use():
    whole = "a complete solution of positive length whose rows are the state"
    mapped = pathline.solve(linear, Y0, (0.0, 1.0), save=Save(fn=lambda t, y: y.sum()))
    point = pathline.solve(linear, Y0, (1.0, 1.0))
    failed = pathline.solve(linear, Y0, (0.0, 1.0), max_steps=1, on_failure="return")
    for solution in (mapped, point, failed):
        with pytest.raises(ValueError, match=whole):
            pathline.sensitivity(solution, lambda ys: ys.sum())
