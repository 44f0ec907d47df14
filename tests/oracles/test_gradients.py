"""Gradients against answers from elsewhere: matrix exponentials, and finite differences of a repeated solve."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

import pathline
from pathline.testing import finite_difference, relative_error

MODES = ["backprop", "checkpointed", "adjoint"]
EXACT = ["backprop", "checkpointed"]
FIXED = [name for name, solver in pathline.METHODS.items() if not solver.adaptive and solver.needs == "rate"]
SPLIT = [name for name, solver in pathline.METHODS.items() if not solver.adaptive and solver.needs == "split"]

A = torch.tensor([[-0.4, 1.3, 0.2], [-1.1, -0.2, 0.5], [0.3, -0.6, 0.1]], dtype=torch.float64)
Z0 = torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)
TIMES = torch.tensor([0.2, 0.5, 1.1, 1.7], dtype=torch.float64)
WEIGHTS = torch.tensor([[0.3, 0.1, -0.2], [1.0, -2.0, 0.5], [0.2, 0.9, -1.1], [-0.7, 0.4, 1.5]], dtype=torch.float64)


def linear(t, z, matrix):
    return matrix @ z


def exponential_gradients(times):
    """Of L = sum_i w_i . z(t_i): to z0 by expm, to A by the block exponential, to the times by c^T A z."""
    a, z0, w, t = (x.numpy() for x in (A, Z0, WEIGHTS, times))
    n = len(z0)
    to_z0, to_a, to_t = np.zeros(n), np.zeros((n, n)), np.zeros(len(t))
    for i, c in enumerate(w):
        span = t[i] - t[0]
        flow = scipy.linalg.expm(a * span)
        to_z0 += flow.T @ c
        block = np.block([[a.T, np.outer(c, z0)], [np.zeros((n, n)), a.T]])
        to_a += scipy.linalg.expm(block * span)[:n, n:]
        if i > 0:
            rate = c @ a @ flow @ z0
            to_t[i] += rate
            to_t[0] -= rate
    return [torch.from_numpy(x) for x in (to_z0, to_a, to_t)]


@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0)], ids=["forward", "backward"])
@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["tsit5", "dopri5", "dopri8"])
def test_linear_system_against_the_matrix_exponential(method, gradient, times):
    z0, a, t = (x.clone().requires_grad_() for x in (Z0, A, times))
    ys = pathline.solve(linear, z0, t, args=a, method=method, rtol=1e-9, atol=1e-11, gradient=gradient).ys
    found = torch.autograd.grad((WEIGHTS * ys).sum(), (z0, a, t))
    for name, mine, truth in zip(("z0", "A", "t"), found, exponential_gradients(times), strict=True):
        assert relative_error(mine, truth) <= 1e-6, name


@pytest.mark.parametrize("gradient", MODES)
def test_linear_system_with_the_matrix_in_a_module(gradient):
    net = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(A)
    ys = pathline.solve(net, Z0, TIMES, rtol=1e-9, atol=1e-11, gradient=gradient).ys
    (WEIGHTS * ys).sum().backward()
    assert relative_error(net.weight.grad, exponential_gradients(TIMES)[1]) <= 1e-6


@pytest.mark.parametrize("gradient", MODES)
def test_complex_linear_system(gradient):
    rate = torch.tensor([-0.3 + 1.1j, 0.2 - 0.7j], dtype=torch.complex128)
    z0, rates, t = (x.clone().requires_grad_() for x in (Z0[:2] + 0.5j, rate, TIMES))
    weights = torch.complex(WEIGHTS[:, :2], WEIGHTS[:, 1:])

    def loss(ys):
        return (weights * ys).real.sum() + ys.abs().square().sum()

    truth = torch.autograd.grad(loss(torch.exp(rates * (t - t[0])[:, None]) * z0), (z0, rates, t))
    ys = pathline.solve(lambda t, y, r: r * y, z0, t, args=rates, rtol=1e-9, atol=1e-11, gradient=gradient).ys
    for mine, exact in zip(torch.autograd.grad(loss(ys), (z0, rates, t)), truth, strict=True):
        assert relative_error(mine, exact) <= 1e-6


class TanhField(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()

    def forward(self, t, y):
        return self.net(torch.cat((y, pathline.time_like(t, y)), -1)) * 2.0 - 0.2 * y


def start():
    return torch.tensor([[0.7, -0.4], [-1.2, 0.3], [0.1, 0.9]], dtype=torch.float64)


def several_times_loss(ys):
    return (ys.sin() * torch.arange(1, 1 + len(ys), dtype=ys.dtype).reshape(-1, 1, 1)).sum()


@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0)], ids=["forward", "backward"])
@pytest.mark.parametrize("gradient", EXACT)
@pytest.mark.parametrize("method", ["fehlberg2", "bosh3", "tsit5", "dopri5", "dopri8"])
def test_exact_modes_against_a_solve_that_repeats_the_accepted_steps(method, gradient, times):
    field, y0 = TanhField(), start().requires_grad_()
    options = {"method": method, "rtol": 1e-3, "atol": 1e-3}
    solution = pathline.solve(field, y0, times, gradient=gradient, **options)
    several_times_loss(solution.ys).backward()
    steps = pathline.solve(field, y0.detach(), times, save=pathline.Save(steps=True), **options).ts
    assert len(steps) == solution.stats.accepted + 1

    def loss(y0):
        replay = pathline.solve(field, y0, times, method=method, controller=pathline.Grid(steps))
        return several_times_loss(replay.ys)

    assert relative_error(y0.grad, finite_difference(loss, y0)) <= 1e-7
    for parameter in field.parameters():

        def loss_of_weight(value, parameter=parameter):
            old = parameter.detach().clone()
            with torch.no_grad():
                parameter.copy_(value)
                result = loss(y0)
                parameter.copy_(old)
            return result

        assert relative_error(parameter.grad, finite_difference(loss_of_weight, parameter)) <= 1e-7


@pytest.mark.parametrize("method", ["bosh3", "tsit5", "dopri8"])
def test_checkpointed_is_backprop(method):
    answers = []
    for gradient in EXACT:
        field, y0 = TanhField(), start().requires_grad_()
        times = TIMES.clone().requires_grad_()
        solution = pathline.solve(field, y0, times, method=method, rtol=1e-3, atol=1e-3, gradient=gradient)
        answers.append(
            (solution.ys, *torch.autograd.grad(several_times_loss(solution.ys), (y0, times, *field.parameters())))
        )
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("method", ["fehlberg2", "bosh3", "tsit5", "dopri5", "dopri8"])
def test_exact_modes_with_rejected_steps(method):
    """A rejected step leaves no trace, whatever the next try takes over from it."""

    def sudden(t, y, matrix):
        return (matrix @ y) * (1.0 + 8.0 * torch.sigmoid(60.0 * (t - 0.8)))

    answers = []
    for gradient in EXACT:
        z0, a, t = (x.clone().requires_grad_() for x in (Z0, A, TIMES))
        solution = pathline.solve(sudden, z0, t, args=a, method=method, rtol=1e-4, atol=1e-5, gradient=gradient)
        assert solution.stats.rejected > 0
        answers.append(torch.autograd.grad((WEIGHTS * solution.ys).sum(), (z0, a, t)))
    for ours, theirs in zip(*answers, strict=True):
        assert relative_error(ours, theirs) <= 1e-10


@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0)], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ["tsit5", "dopri5", "dopri8"])
def test_adjoint_meets_backprop_at_tight_tolerance(method, times):
    answers = []
    for gradient in ("adjoint", "backprop"):
        field, y0 = TanhField(), start().requires_grad_()
        t = times.clone().requires_grad_()
        ys = pathline.solve(field, y0, t, method=method, rtol=1e-9, atol=1e-10, gradient=gradient).ys
        answers.append(torch.autograd.grad(several_times_loss(ys), (y0, t, *field.parameters())))
    for ours, theirs in zip(*answers, strict=True):
        assert relative_error(ours, theirs) <= 1e-5


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("method", ["radau5", "kvaerno5", "rodas5p"])
def test_backward_solve_of_an_implicit_method_knows_its_jacobian(method, clock):
    """With a Jacobian that lacks the adjoint's part, Newton's iteration or the order of a Rosenbrock method is lost."""
    answers = []
    for gradient in ("adjoint", "backprop"):
        field, y0 = TanhField(), start().requires_grad_()
        tight = {"rtol": 1e-7, "atol": 1e-8, "clock": clock}
        solution = pathline.solve(field, y0, TIMES, method=method, gradient=gradient, **tight)
        answers.append(torch.autograd.grad(several_times_loss(solution.ys), (y0, *field.parameters())))
        if gradient == "adjoint":
            assert solution.stats.backward_steps <= 2 * solution.stats.steps
    for ours, theirs in zip(*answers, strict=True):
        assert relative_error(ours, theirs) <= 1e-4


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("method", ["implicit_midpoint", "trapezoid", "gl4", "radauIIA5"])
def test_adjoint_of_fixed_implicit_steps(method, clock):
    y0 = torch.full((2,), 0.8, dtype=torch.float64, requires_grad=True)
    solution = pathline.solve(
        lambda t, y: -(y**2), y0, (0.0, 1.0), method=method, dt=0.1, gradient="adjoint", clock=clock
    )
    (found,) = torch.autograd.grad(solution.y1.sum(), y0)
    assert relative_error(found, torch.full_like(y0, 1.8**-2).detach()) <= (
        0.05 if method == "implicit_euler" else 2e-3
    )


@pytest.mark.parametrize("gradient", EXACT)
@pytest.mark.parametrize("grid", [(0.1, 0.47, 0.55, 0.9), (0.9, 0.55, 0.47, 0.1)], ids=["forward", "backward"])
@pytest.mark.parametrize("method", FIXED)
def test_gradcheck_of_fixed_steps(method, grid, gradient):
    """Output times lie inside steps: at the end of one a collocation polynomial has a kink, and no derivative."""
    y0 = torch.tensor([0.4, -0.8], dtype=torch.float64, requires_grad=True)
    matrix = A[:2, :2].clone().requires_grad_()
    times = torch.tensor(grid, dtype=torch.float64, requires_grad=True)

    def solve(y0, matrix, times):
        rate = lambda t, y, m: torch.tanh(m @ y) * torch.cos(3.0 * t)  # noqa: E731
        return pathline.solve(rate, y0, times, args=matrix, method=method, dt=0.21, gradient=gradient).ys

    assert torch.autograd.gradcheck(solve, (y0, matrix, times))


@pytest.mark.parametrize("gradient", EXACT)
@pytest.mark.parametrize("grid", [(0.1, 0.47, 0.55, 0.9), (0.9, 0.55, 0.47, 0.1)], ids=["forward", "backward"])
@pytest.mark.parametrize("method", SPLIT)
def test_gradcheck_of_fixed_steps_that_kick_and_drift(method, grid, gradient):
    y0 = torch.tensor([0.4, -0.8], dtype=torch.float64, requires_grad=True)
    stiffness = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    times = torch.tensor(grid, dtype=torch.float64, requires_grad=True)
    pendulum = pathline.Separable(lambda t, q, k: -k * torch.sin(q) * torch.cos(3.0 * t), lambda t, p, k: torch.tanh(p))

    def solve(y0, stiffness, times):
        return pathline.solve(pendulum, y0, times, args=stiffness, method=method, dt=0.21, gradient=gradient).ys

    assert torch.autograd.gradcheck(solve, (y0, stiffness, times))


@pytest.mark.parametrize("gradient", EXACT)
@pytest.mark.parametrize("method", FIXED)
def test_gradcheck_where_the_times_are_the_grid(method, gradient):
    y0 = torch.tensor([0.4, -0.8], dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.1, 0.3, 0.35, 0.8], dtype=torch.float64, requires_grad=True)

    def solve(y0, times):
        return pathline.solve(lambda t, y: torch.sin(y * t) + y.flip(0), y0, times, method=method, gradient=gradient).ys

    assert torch.autograd.gradcheck(solve, (y0, times))


def test_the_discrete_time_gradient_is_not_the_continuous_one():
    """Ten Euler steps: the derivative of the discrete map to its end is not f(T, y(T))."""
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    y1 = pathline.solve(lambda t, y: 3.0 * y, torch.ones(1, dtype=torch.float64), t, method="euler", dt=0.1).y1
    (found,) = torch.autograd.grad(y1.sum(), t)
    exact = 3.0 * 1.3**9  # d/dT (1 + 3 T / 10)^10 at T = 1
    assert float(found[1]) == pytest.approx(exact, rel=1e-12)
    assert float(found[0]) == pytest.approx(-exact, rel=1e-12)


@pytest.mark.parametrize("gradient", EXACT)
@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_second_derivatives_against_differences_of_gradients(method, gradient):
    field, y0 = TanhField(), start()
    options = {"method": method, "rtol": 1e-3, "atol": 1e-3, "gradient": gradient}
    steps = pathline.solve(field, y0, TIMES, save=pathline.Save(steps=True), **options).ts
    weight, bias = field.net[0].weight, field.net[2].bias

    def gradients(y0, **kwargs):
        ys = pathline.solve(field, y0, TIMES, **kwargs).ys
        return torch.autograd.grad(several_times_loss(ys), (y0, weight, bias), create_graph=True)

    x = y0.clone().requires_grad_()
    first = gradients(x, **options)
    scalar = sum((g * g.detach().cos()).sum() for g in first)
    probes = [g.detach().cos() for g in first]
    second = torch.autograd.grad(scalar, (x, weight, bias))

    def projected(y0):
        with torch.enable_grad():
            replay = gradients(y0.requires_grad_(), method=method, controller=pathline.Grid(steps))
        return sum((g.detach() * p).sum() for g, p in zip(replay, probes, strict=True))

    assert relative_error(second[0], finite_difference(projected, y0)) <= 1e-7
    for parameter, found in ((weight, second[1]), (bias, second[2])):

        def of_weight(value, parameter=parameter):
            old = parameter.detach().clone()
            parameter.copy_(value)
            result = projected(y0.clone())
            parameter.copy_(old)
            return result

        assert relative_error(found, finite_difference(of_weight, parameter)) <= 1e-7


@pytest.mark.parametrize("gradient", EXACT)
def test_second_derivatives_with_times_against_the_matrix_exponential(gradient):
    z0, a, t = (x.clone().requires_grad_() for x in (Z0, A, TIMES))

    def second(ys):
        first = torch.autograd.grad((WEIGHTS * ys).sin().sum(), (z0, a, t), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (z0, a, t))

    exact = torch.stack([torch.linalg.matrix_exp(a * (s - t[0])) @ z0 for s in t])
    ours = pathline.solve(linear, z0, t, args=a, rtol=1e-10, atol=1e-12, gradient=gradient).ys
    for mine, truth in zip(second(ours), second(exact), strict=True):
        assert relative_error(mine, truth) <= 1e-6


def test_second_derivatives_of_the_adjoint_are_right_or_refused():
    def second(gradient, *, timed):
        inputs = [x.clone().requires_grad_() for x in ((Z0, A, TIMES) if timed else (Z0, A))]
        t = inputs[2] if timed else TIMES
        ys = pathline.solve(linear, inputs[0], t, args=inputs[1], rtol=1e-10, atol=1e-12, gradient=gradient).ys
        first = torch.autograd.grad((WEIGHTS * ys).sin().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    for mine, truth in zip(second("adjoint", timed=False), second("backprop", timed=False), strict=True):
        assert relative_error(mine, truth) <= 1e-5
    with pytest.raises(RuntimeError, match='Use gradient="checkpointed"'):
        second("adjoint", timed=True)


@pytest.mark.parametrize("gradient", MODES)
def test_rows_and_the_end_and_repeated_times_all_carry_gradient(gradient):
    """`y1` and two rows at one time: their gradients add up."""
    z0 = Z0.clone().requires_grad_()
    t = torch.tensor([0.0, 0.6, 0.6, 1.0], dtype=torch.float64)
    solution = pathline.solve(linear, z0, t, args=A, rtol=1e-9, atol=1e-11, gradient=gradient)
    (found,) = torch.autograd.grad(solution.ys[1].sum() + 2.0 * solution.ys[2].sum() + 3.0 * solution.y1.sum(), z0)
    truth = torch.linalg.matrix_exp(0.6 * A).T.sum(1) * 3.0 + torch.linalg.matrix_exp(A).T.sum(1) * 3.0
    assert relative_error(found, truth) <= 1e-6


@pytest.mark.parametrize("gradient", MODES)
def test_only_a_middle_row_in_the_loss(gradient):
    z0, t = Z0.clone().requires_grad_(), TIMES.clone().requires_grad_()
    ys = pathline.solve(linear, z0, t, args=A, rtol=1e-9, atol=1e-11, gradient=gradient).ys
    to_z0, to_t = torch.autograd.grad(ys[1].sum(), (z0, t))
    flow = torch.linalg.matrix_exp(A * float(TIMES[1] - TIMES[0]))
    rate = (A @ flow @ Z0).sum()
    assert relative_error(to_z0, flow.T.sum(1)) <= 1e-6
    assert relative_error(to_t, torch.stack((-rate, rate, rate * 0, rate * 0))) <= 1e-6


@pytest.mark.parametrize("gradient", MODES)
def test_nested_states(gradient):
    """A dict of tuples gives the gradients of the same numbers in one tensor."""
    p, q = (Z0[:1].clone().requires_grad_(), Z0[1:2].clone().requires_grad_())

    def field(t, y):
        return {"p": (torch.sin(y["q"]),), "q": -y["p"][0]}

    ys = pathline.solve(field, {"p": (p,), "q": q}, TIMES, rtol=1e-9, atol=1e-11, gradient=gradient).ys
    found = torch.autograd.grad(ys["p"][0].square().sum() + ys["q"][2].sum(), (p, q))
    flat = Z0[:2].clone().requires_grad_()
    rows = pathline.solve(
        lambda t, y: torch.stack((torch.sin(y[1]), -y[0])), flat, TIMES, rtol=1e-11, atol=1e-12, method="dopri8"
    ).ys
    (truth,) = torch.autograd.grad(rows[:, 0].square().sum() + rows[2, 1], flat)
    assert relative_error(torch.cat(found), truth) <= 1e-6


def test_dense_output_is_differentiable():
    z0 = Z0.clone().requires_grad_()
    s = torch.tensor([0.3, 0.77], dtype=torch.float64)
    for gradient in EXACT:
        save = pathline.Save(dense=True)
        curve = pathline.solve(linear, z0, (0.0, 1.0), args=A, rtol=1e-9, atol=1e-11, save=save, gradient=gradient)
        (found,) = torch.autograd.grad(curve(s).sum(), z0)
        truth = sum(torch.linalg.matrix_exp(A * v).T.sum(1) for v in s.tolist())
        assert relative_error(found, truth) <= 1e-6
        rates = torch.stack([A @ torch.linalg.matrix_exp(A * v) @ Z0 for v in s.tolist()])
        assert relative_error(curve.derivative(s), rates) <= 1e-5


def test_sensitivity_is_the_adjoint_state():
    """a(t) = sum over the output times s >= t of exp(A^T (s - t)) c_s: a jump by c_s at every one."""
    solution = pathline.solve(linear, Z0, TIMES, args=A, rtol=1e-9, atol=1e-11)
    curve = pathline.sensitivity(solution, lambda ys: (WEIGHTS * ys).sum())
    for s in (0.2, 0.35, 0.5, 1.0, 1.7):
        for after in (False, True):
            later = [i for i, t in enumerate(TIMES.tolist()) if t > s or (t == s and not after)]
            truth = sum(torch.linalg.matrix_exp(A.T * (TIMES[i] - s)) @ WEIGHTS[i] for i in later)
            if later:
                assert relative_error(curve(s, after=after), truth) <= 1e-6
    times = torch.tensor([0.3, 0.9, 1.4], dtype=torch.float64)
    torch.testing.assert_close(curve.derivative(times), -curve(times) @ A, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", MODES)
def test_sensitivity_at_the_start_is_the_gradient(gradient):
    field, y0 = TanhField(), start().requires_grad_()
    solution = pathline.solve(field, y0, TIMES, rtol=1e-9, atol=1e-10, gradient=gradient)
    (truth,) = torch.autograd.grad(several_times_loss(solution.ys), y0, retain_graph=True)
    curve = pathline.sensitivity(solution, several_times_loss)
    assert relative_error(curve(float(TIMES[0])), truth) <= 1e-6


def van_der_pol(t, y, mu):
    return torch.stack((y[1], mu * (1.0 - y[0] ** 2) * y[1] - y[0]))


STIFF = {"rtol": 1e-6, "atol": 1e-8}
STIFF_START = torch.tensor([2.0, 0.0], dtype=torch.float64)


def stiff_loss(y1):
    return y1[0] + 10.0 * y1[1]


@pytest.mark.parametrize("gradient", EXACT)
def test_exact_modes_on_a_stiff_problem(gradient):
    mu = torch.tensor(100.0, dtype=torch.float64, requires_grad=True)
    solution = pathline.solve(van_der_pol, STIFF_START, (0.0, 1.0), args=mu, gradient=gradient, **STIFF)
    (found,) = torch.autograd.grad(stiff_loss(solution.y1), mu)
    save = pathline.Save(steps=True)
    steps = pathline.solve(van_der_pol, STIFF_START, (0.0, 1.0), args=mu.detach(), save=save, **STIFF).ts

    def loss(mu):
        replay = pathline.solve(van_der_pol, STIFF_START, (0.0, 1.0), args=mu, controller=pathline.Grid(steps))
        return stiff_loss(replay.y1)

    assert relative_error(found, finite_difference(loss, mu, step=1e-2)) <= 1e-7


def test_stiff_trap():
    """Backwards in time a stiff problem is unstable: the adjoint can't follow it, and must say so."""
    mu = torch.tensor(100.0, dtype=torch.float64, requires_grad=True)
    solution = pathline.solve(van_der_pol, STIFF_START, (0.0, 1.0), args=mu, gradient="adjoint", **STIFF)
    with pytest.warns(UserWarning, match="checkpointed"):
        torch.autograd.grad(stiff_loss(solution.y1), mu)
