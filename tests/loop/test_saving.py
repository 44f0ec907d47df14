"""What is kept: rows, every step, a curve, a function of the state; in every gradient mode."""

from __future__ import annotations

import math

import pytest
import torch

import pathline
from pathline import PID, Save

MODES = ["backprop", "checkpointed", "adjoint"]
TIGHT = {"rtol": 1e-9, "atol": 1e-11}
T = torch.linspace(0.0, 1.0, 4, dtype=torch.float64)


def oscillator(t, y):
    return torch.stack((y[..., 1], -y[..., 0]), -1)


def cosine(t):
    return torch.stack((torch.cos(t), -torch.sin(t)), -1)


def start():
    return torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)


def options(method):
    return TIGHT if pathline.METHODS[method].adaptive else {"dt": 1e-2}


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4"])
@pytest.mark.parametrize("t", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward"])
def test_every_step(t, method, gradient):
    y0 = start()
    ends = [t[0]]
    hooks = pathline.Hooks(on_accept=lambda t0, t1, y, step: ends.append(float(t1)))
    times = torch.tensor([t[0], 0.5, t[1]], dtype=torch.float64)
    solution = pathline.solve(
        oscillator, y0, times, method=method, gradient=gradient, save=Save(steps=True), hooks=hooks, **options(method)
    )
    assert solution.ts.tolist() == pytest.approx(ends[: len(solution.ts)])
    assert len(solution.ts) == solution.stats.accepted + 1 == len(solution.ys) == len(solution.valid)
    assert solution.ts[-1].item() == t[1]
    assert solution.valid.all()
    torch.testing.assert_close(solution.ys, cosine(solution.ts - t[0]), rtol=0.0, atol=1e-6)
    weights = torch.linspace(-1.0, 2.0, len(solution.ts), dtype=torch.float64)
    (g,) = torch.autograd.grad((weights * solution.ys[:, 0]).sum(), y0)
    truth = torch.stack(
        ((weights * torch.cos(solution.ts - t[0])).sum(), (weights * torch.sin(solution.ts - t[0])).sum())
    )
    torch.testing.assert_close(g, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["tsit5", "dopri5", "dopri8", "bosh3", "rk4"])
@pytest.mark.parametrize("t", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward"])
def test_dense_output(t, method, gradient):
    solution = pathline.solve(
        oscillator, start(), t, method=method, gradient=gradient, save=Save(dense=True), **options(method)
    )
    at = torch.rand(3, 5, dtype=torch.float64)
    values, slopes = solution(at), solution.derivative(at)
    assert values.shape == slopes.shape == (3, 5, 2)
    torch.testing.assert_close(values, cosine(at - t[0]), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(slopes, oscillator(None, cosine(at - t[0])), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(solution(t[0]), solution.ys[0])
    torch.testing.assert_close(solution(t[1]), solution.y1)
    assert solution.curve.knots.tolist()[0] == t[0]
    assert solution.curve.knots.tolist()[-1] == t[1]
    assert len(solution.curve.knots) == solution.stats.accepted + 1


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4"])
def test_rows_lie_on_the_curve(method):
    t = torch.linspace(0.0, 1.0, 17, dtype=torch.float64)
    controller = None if method != "rk4" else pathline.Grid([0.0, 0.3, 1.0])
    solution = pathline.solve(oscillator, start(), t, method=method, controller=controller, save=Save(dense=True))
    torch.testing.assert_close(solution(t), solution.ys, rtol=0.0, atol=1e-13)
    assert solution.stats.steps < 16


@pytest.mark.parametrize("gradient", MODES)
def test_the_curve_differentiates_or_says_why_not(gradient):
    y0 = start()
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    at = torch.tensor([0.2, 0.77], dtype=torch.float64, requires_grad=True)
    field = lambda t, y: rate * oscillator(t, y)  # noqa: E731
    solution = pathline.solve(field, y0, (0.0, 1.0), gradient=gradient, save=Save(dense=True), **TIGHT)
    loss = solution(at)[:, 0].sum()
    if gradient == "adjoint":
        with pytest.raises(
            RuntimeError, match=r"dense output of a solve with gradient=\"adjoint\" carries no gradient"
        ):
            loss.backward()
        assert solution(at.detach()).detach().shape == (2, 2)
        return
    g_y, g_rate, g_at = torch.autograd.grad(loss, (y0, rate, at))
    s = at.detach()
    torch.testing.assert_close(g_y, torch.stack((torch.cos(s).sum(), torch.sin(s).sum())), rtol=1e-6, atol=1e-7)
    assert g_rate.item() == pytest.approx((-s * torch.sin(s)).sum().item(), rel=1e-6)
    torch.testing.assert_close(g_at, -torch.sin(s), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_a_function_of_the_state(method, gradient):
    y0 = start()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    save = Save(fn=lambda t, y: {"energy": scale * y.square().sum(), "both": (t, y[0])})
    t = torch.tensor([0.0, 0.0, 0.4, 1.0, 1.0], dtype=torch.float64)
    solution = pathline.solve(oscillator, y0, t, method=method, gradient=gradient, save=save, **options(method))
    assert set(solution.ys) == {"energy", "both"}
    assert torch.equal(solution.ys["both"][0].detach(), t)
    torch.testing.assert_close(solution.ys["energy"], torch.full((5,), 3.0).double(), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(solution.ys["both"][1], torch.cos(t), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(solution.y1, cosine(t[-1]), rtol=1e-6, atol=1e-7)
    g_y, g_scale = torch.autograd.grad(solution.ys["energy"].sum(), (y0, scale))
    torch.testing.assert_close(g_y, torch.tensor([30.0, 0.0]).double(), rtol=1e-6, atol=1e-6)
    assert g_scale.item() == pytest.approx(5.0, rel=1e-6)


@pytest.mark.parametrize("gradient", MODES)
def test_a_function_of_every_step_and_a_curve_at_once(gradient):
    save = Save(steps=True, dense=True, fn=lambda t, y: y[0] * t)
    solution = pathline.solve(oscillator, start(), (0.0, 1.0), gradient=gradient, save=save, **TIGHT)
    assert solution.ys.shape == solution.ts.shape
    torch.testing.assert_close(solution.ys, torch.cos(solution.ts) * solution.ts, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(solution(0.3), cosine(torch.tensor(0.3, dtype=torch.float64)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gradient", MODES)
def test_a_curve_of_a_structure(gradient):
    y0 = {"a": torch.ones(2, 3), "b": torch.zeros(4)}
    field = lambda t, y: {"a": -y["a"], "b": torch.ones(4)}  # noqa: E731
    solution = pathline.solve(field, y0, (0.0, 1.0), gradient=gradient, save=Save(dense=True))
    at = torch.rand(5, 2)
    values = solution(at)
    assert values["a"].shape == (5, 2, 2, 3)
    assert values["b"].shape == (5, 2, 4)
    torch.testing.assert_close(values["b"], at[..., None].expand(5, 2, 4), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(solution.derivative(at)["a"], -values["a"], rtol=1e-2, atol=1e-2)


def test_outside_the_span_is_an_error():
    solution = pathline.solve(oscillator, start(), (0.5, 1.0), save=Save(dense=True))
    for t in (0.4999, 1.0001, math.nan, torch.tensor([0.7, 3.0])):
        with pytest.raises(
            ValueError, match=r"known from t = 0\.5 to 1; it was asked for t = .*Solve over a longer span"
        ):
            solution(t)
        with pytest.raises(ValueError, match=r"known from t = 0\.5 to 1"):
            solution.derivative(t)


def test_without_dense_output_the_way_to_it_is_named():
    solution = pathline.solve(oscillator, start(), (0.0, 1.0))
    for ask in (solution, solution.derivative):
        with pytest.raises(ValueError, match=r"Solve with save=pathline\.Save\(dense=True\)"):
            ask(0.5)


def test_times_in_float32_meet_the_knots_of_a_float32_solve():
    t = torch.tensor([0.1, 0.3, 0.7])
    solution = pathline.solve(oscillator, torch.tensor([1.0, 0.0]), t, save=Save(dense=True))
    torch.testing.assert_close(solution(t), solution.ys, rtol=0.0, atol=5e-6)
    assert solution(0.1).dtype == torch.float32


@pytest.mark.parametrize("gradient", MODES)
def test_the_curve_under_stops(gradient):
    controller = PID(must_hit=[0.25, 0.5])
    solution = pathline.solve(
        oscillator, start(), (0.0, 1.0), gradient=gradient, controller=controller, save=Save(dense=True), **TIGHT
    )
    assert {0.25, 0.5} <= set(solution.curve.knots.tolist())
    torch.testing.assert_close(solution(0.25), solution(0.25, after=True), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("save", [Save(), Save(dense=True), Save(steps=True)], ids=["rows", "dense", "steps"])
def test_the_end_carries_gradient(gradient, save):
    y0 = start()
    solution = pathline.solve(oscillator, y0, (0.0, 1.0), gradient=gradient, save=save, **TIGHT)
    (g,) = torch.autograd.grad(solution.y1[0], y0)
    torch.testing.assert_close(g, torch.tensor([math.cos(1.0), math.sin(1.0)]).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gradient", MODES)
def test_the_time_of_the_end_is_differentiable(gradient):
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    solution = pathline.solve(oscillator, start(), t, gradient=gradient, **TIGHT)
    assert solution.t1.item() == 1.0
    (g,) = torch.autograd.grad(solution.t1 * 2 + solution.y1[0], t)
    torch.testing.assert_close(
        g, torch.tensor([math.sin(1.0), 0.0, 2.0 - math.sin(1.0)]).double(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("gradient", MODES)
def test_without_gradients(gradient, mode):
    with mode():
        solution = pathline.solve(oscillator, start(), T, gradient=gradient, save=Save(dense=True), **TIGHT)
        values = solution(0.4)
    assert not solution.ys.requires_grad
    assert solution.ys.is_inference() == (mode is torch.inference_mode)
    torch.testing.assert_close(values, cosine(torch.tensor(0.4, dtype=torch.float64)), rtol=1e-6, atol=1e-7)
