"""The step protocol carries other equations: a controlled one and a stochastic one, on the unchanged loop."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
import torch

import pathline
from pathline import PID, FixedStep, Grid, Hooks, NonFiniteError, Save, Term


class Controlled(Term):
    """dy = g(t, y) dX(t) for a path X: the rate is whatever the path does."""

    def __init__(self, g, path):
        self.g, self.path = g, path

    def control(self, t0, t1):
        return self.path(t1) - self.path(t0)

    def contract(self, t, y, control, args):
        g = self.g(t, y) if args is None else self.g(t, y, args)
        return g * control if control.dim() == 0 else (g @ control.unsqueeze(-1)).squeeze(-1)


class Diffusion(Term):
    """dy = f dt + g dW, with the increments of one drawn path."""

    def __init__(self, drift, diffusion, times, noise):
        self.drift, self.diffusion = drift, diffusion
        self.times = [float(t) for t in times]
        self.walk = torch.cat((torch.zeros_like(noise[:1]), noise.cumsum(0)))

    def at(self, t):
        i = bisect_left(self.times, t - 1e-9)
        assert abs(self.times[i] - t) < 1e-9
        return self.walk[i]

    def control(self, t0, t1):
        return t1 - t0, self.at(t1) - self.at(t0)

    def contract(self, t, y, control, args):
        dt, dw = control
        return self.drift(t, y, args) * dt + self.diffusion(t, y, args) * dw


class Line:
    """A step with a straight line inside."""

    failed = None
    carry = None

    def __init__(self, t0, t1, y0, y1, error=None):
        self.t0, self.t1, self.y0, self.y1, self.error = t0, t1, y0, y1, error

    def rows(self, times):
        theta = (torch.as_tensor(times, dtype=torch.float64) - self.t0) / (self.t1 - self.t0)
        theta = theta.to(self.y0.dtype).reshape(-1, *(1,) * self.y0.dim())
        return self.y0 + theta * (self.y1 - self.y0)

    def coefficients(self):
        return torch.stack((self.y0, self.y1 - self.y0))


class EulerMaruyama:
    """y1 = y0 + f dt + g dW."""

    name = "euler_maruyama"
    needs = "contract"
    adaptive = False
    carries_slope = False
    order = 1
    embedded_order = None

    def init(self, term, t0, y0, args):
        return None

    def step(self, term, t0, t1, y, args, carry):
        return Line(t0, t1, y, y + term.contract(t0, y, term.control(t0, t1), args))


class ControlledHeun(EulerMaruyama):
    """The trapezoidal rule, with Euler's step as its error estimate."""

    name = "controlled_heun"
    adaptive = True
    order = 2
    embedded_order = 1

    def step(self, term, t0, t1, y, args, carry):
        control = term.control(t0, t1)
        k0 = term.contract(t0, y, control, args)
        k1 = term.contract(t1, y + k0, control, args)
        return Line(t0, t1, y, y + (k0 + k1) / 2, error=((k1 - k0) / 2).detach())


def sine_path(t):
    return torch.tensor([math.sin(3 * t), t * t], dtype=torch.float64)


def swirl(t, y):
    """(2,) -> (2, 2): commuting matrices I and J, so that y = exp(X1 I + X2 J) y0."""
    return torch.stack((y, torch.stack((-y[..., 1], y[..., 0]), -1)), -1)


def swirled(y0, t):
    x = sine_path(t) - sine_path(0.0)
    turn = torch.tensor([[torch.cos(x[1]), -torch.sin(x[1])], [torch.sin(x[1]), torch.cos(x[1])]], dtype=torch.float64)
    return torch.exp(x[0]) * y0 @ turn.T


Y0 = torch.tensor([[1.0, 0.0], [0.3, -0.8]], dtype=torch.float64)


# --- a controlled equation ---------------------------------------------------------------------------------------


def test_a_controlled_equation_against_its_closed_form():
    term = Controlled(swirl, sine_path)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    errors = []
    for n in (50, 100, 200):
        ys = pathline.solve(term, Y0, t, method=ControlledHeun(), controller=FixedStep(1.0 / n)).ys
        errors.append(max((ys[i] - swirled(Y0, s)).abs().max().item() for i, s in enumerate(t.tolist())))
    assert errors[-1] < 3e-4
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.2)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("t", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward"])
def test_a_controlled_equation_under_adaptive_steps(t):
    """PID needs a first step here: the rule that would choose one asks for a rate."""
    term = Controlled(swirl, sine_path)
    start = swirled(Y0, t[0])
    controller = PID(first_step=1e-2, max_step=0.1)
    solution = pathline.solve(
        term, start, t, method=ControlledHeun(), controller=controller, rtol=1e-6, atol=1e-7, save=Save(dense=True)
    )
    torch.testing.assert_close(solution.y1, swirled(Y0, t[1]), rtol=0.0, atol=1e-4)
    assert solution.stats.evaluations == 2 * solution.stats.steps
    middle = solution.curve.knots[len(solution.curve.knots) // 2].item()
    torch.testing.assert_close(solution(middle), swirled(Y0, middle), rtol=0.0, atol=1e-4)


def test_adaptive_steps_without_a_first_step_say_what_is_missing():
    with pytest.raises((TypeError, ValueError), match="first_step"):
        pathline.solve(Controlled(swirl, sine_path), Y0, (0.0, 1.0), method=ControlledHeun())


def test_eulers_rule_on_a_path_is_a_product():
    """dy = y dX by Euler: y_n = y_0 prod (1 + dX_i), to the last bit."""
    path = lambda t: torch.tensor(math.sin(7 * t), dtype=torch.float64)  # noqa: E731
    term = Controlled(lambda t, y: y, path)
    t = torch.linspace(0.0, 2.0, 31, dtype=torch.float64)
    ys = pathline.solve(term, Y0, t, method=EulerMaruyama()).ys
    row = Y0
    for i, (a, b) in enumerate(zip(t.tolist(), t.tolist()[1:], strict=False)):
        row = row + row * (path(b) - path(a))
        assert torch.equal(ys[i + 1], row)


def test_the_field_receives_a_time_tensor_and_the_users_structure():
    seen = []

    def g(t, y):
        seen.append((t.dim(), t.dtype, set(y)))
        return y["a"]

    class Structured(Controlled):
        def contract(self, t, y, control, args):
            return {"a": self.g(t, y) * control, "b": torch.zeros_like(y["b"])}

    y0 = {"a": torch.ones(2, dtype=torch.float64), "b": torch.ones(3, 1, dtype=torch.float64)}
    path = lambda t: torch.tensor(t, dtype=torch.float64)  # noqa: E731
    solution = pathline.solve(Structured(g, path), y0, (0.0, 1.0), method=EulerMaruyama(), dt=0.25)
    assert set(map(str, seen)) == {str((0, torch.float64, {"a", "b"}))} or all(
        s[:2] == (0, torch.float64) for s in seen
    )
    torch.testing.assert_close(solution.y1["a"], torch.full((2,), 1.25**4, dtype=torch.float64))
    assert torch.equal(solution.y1["b"], y0["b"])


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_gradients_of_a_controlled_equation(gradient):
    """To the start, the field's parameters and the control itself."""
    y0 = Y0.clone().requires_grad_()
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    values = torch.linspace(0.0, 1.0, 11, dtype=torch.float64).sin().requires_grad_()
    term = Controlled(lambda t, y: scale * y, lambda t: values[round(t * 10)])
    y1 = pathline.solve(term, y0, (0.0, 1.0), method=EulerMaruyama(), dt=0.1, gradient=gradient).y1
    found = torch.autograd.grad(y1.sum(), (y0, scale, values))
    truth = y0 * torch.prod(1 + scale * values.diff())
    torch.testing.assert_close(y1, truth)
    for mine, exact in zip(found, torch.autograd.grad(truth.sum(), (y0, scale, values)), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_args_reach_the_contraction(gradient):
    args = {"scale": torch.tensor(0.5, dtype=torch.float64, requires_grad=True)}
    path = lambda t: torch.tensor(t, dtype=torch.float64)  # noqa: E731
    term = Controlled(lambda t, y, args: args["scale"] * y, path)
    y1 = pathline.solve(term, Y0, (0.0, 1.0), method=EulerMaruyama(), dt=0.5, args=args, gradient=gradient).y1
    torch.testing.assert_close(y1, Y0 * 1.25**2)
    (g,) = torch.autograd.grad(y1.sum(), args["scale"])
    assert g.item() == pytest.approx(Y0.sum().item() * 1.25)


# --- a stochastic equation ---------------------------------------------------------------------------------------

N = 64


def draw():
    noise = torch.randn(N, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * (2.0 / N) ** 0.5
    return torch.linspace(0.0, 2.0, N + 1, dtype=torch.float64), noise


def test_euler_maruyama_is_the_recursion_written_by_hand():
    t, noise = draw()
    drift = lambda t, y, args: torch.sin(t) - y  # noqa: E731
    diffusion = lambda t, y, args: 0.3 + 0.1 * y * torch.cos(t)  # noqa: E731
    y0 = torch.linspace(-1.0, 1.0, 10, dtype=torch.float64).reshape(5, 2)
    solution = pathline.solve(Diffusion(drift, diffusion, t, noise), y0, t, method=EulerMaruyama())
    walk = torch.cat((torch.zeros(1, 5, 2, dtype=torch.float64), noise.cumsum(0)))
    row = y0
    for i in range(N):
        a, dt = t[i], t[i + 1] - t[i]
        row = row + (drift(a, row, None) * dt + diffusion(a, row, None) * (walk[i + 1] - walk[i]))
        assert torch.equal(solution.ys[i + 1], row), i
    assert solution.stats.steps == solution.stats.evaluations == N


def test_a_coarser_grid_on_the_same_path():
    """The rows stand where they are asked, the steps where the grid says, the noise is that of the whole step."""
    t, noise = draw()
    grid = t[::8]
    term = Diffusion(lambda t, y, a: -y, lambda t, y, a: torch.ones_like(y), t, noise)
    y0 = torch.zeros(5, 2, dtype=torch.float64)
    solution = pathline.solve(term, y0, t[[0, 16, N]], method=EulerMaruyama(), controller=Grid(grid))
    row, rows = y0, [y0]
    for i in range(0, N, 8):
        row = row - row * (t[i + 8] - t[i]) + noise[i : i + 8].sum(0)
        if i + 8 in (16, N):
            rows.append(row)
    torch.testing.assert_close(solution.ys, torch.stack(rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_gradients_of_a_stochastic_equation(gradient):
    """Geometric Brownian motion: y_N = y_0 prod (1 + mu dt + sigma dW_i)."""
    t, noise = draw()
    mu, sigma, y0 = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, 0.2, 1.5))
    start = y0 * torch.ones(5, 2, dtype=torch.float64)
    term = Diffusion(lambda t, y, a: mu * y, lambda t, y, a: sigma * y, t, noise)
    y1 = pathline.solve(term, start, t, method=EulerMaruyama(), gradient=gradient).y1
    truth = y0 * torch.prod(1 + mu * (2.0 / N) + sigma * noise, 0)
    torch.testing.assert_close(y1, truth, rtol=1e-11, atol=0.0)
    found = torch.autograd.grad(y1.mean(), (mu, sigma, y0))
    exact = torch.autograd.grad(truth.mean(), (mu, sigma, y0))
    for mine, true in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_hooks_rows_and_saved_values_work_for_other_terms(gradient):
    t, noise = draw()
    ends = []
    term = Diffusion(lambda t, y, a: 0 * y, lambda t, y, a: torch.ones_like(y), t, noise)
    solution = pathline.solve(
        term,
        torch.zeros(5, 2, dtype=torch.float64),
        t[::32],
        method=EulerMaruyama(),
        controller=Grid(t),
        gradient=gradient,
        save=Save(fn=lambda t, y: y.sum(0)),
        hooks=Hooks(on_accept=lambda t0, t1, y, step: ends.append(t1)),
    )
    assert ends == t[1:].tolist()
    walk = torch.cat((torch.zeros(1, 5, 2, dtype=torch.float64), noise.cumsum(0)))
    torch.testing.assert_close(solution.ys, walk[::32].sum(1), rtol=1e-12, atol=1e-12)


def test_a_stochastic_equation_that_explodes_is_reported():
    t, noise = draw()
    term = Diffusion(lambda t, y, a: 1e3 * y**3, lambda t, y, a: y, t, noise)
    with pytest.raises(NonFiniteError, match=r"The solution became infinite or NaN .*Fixed steps may be too long"):
        pathline.solve(term, torch.ones(5, 2, dtype=torch.float64), t, method=EulerMaruyama())


# --- refusals ----------------------------------------------------------------------------------------------------


class OnlyControl(Term):
    def control(self, t0, t1):
        return t1 - t0


def test_a_solver_that_needs_a_rate_refuses_a_term_without_one():
    term = Controlled(swirl, sine_path)
    for method in ("tsit5", "rk4"):
        with pytest.raises(
            TypeError, match=rf'The method "{method}" needs a term with rate\(\); Controlled has no rate\(\)'
        ):
            pathline.solve(term, Y0, torch.tensor([0.0, 1.0]), method=method)


def test_a_solver_that_needs_a_control_refuses_a_plain_field():
    with pytest.raises(
        TypeError,
        match=r'The method "euler_maruyama" needs a term with control and contract\(\); '
        r"ODE has no control and no contract\(\)\. Choose a method for this kind of term",
    ):
        pathline.solve(lambda t, y: -y, Y0, (0.0, 1.0), method=EulerMaruyama(), dt=0.1)


def test_half_a_term_is_refused_by_name_of_the_other_half():
    with pytest.raises(TypeError, match=r"OnlyControl has no contract\(\)"):
        pathline.solve(OnlyControl(), Y0, (0.0, 1.0), method=EulerMaruyama(), dt=0.1)


def test_times_with_gradient_are_refused_where_there_is_no_rate():
    t = torch.linspace(0.0, 1.0, 3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=r"`t` requires grad, and this term has no rate dy/dt .* Pass t\.detach\(\)"):
        pathline.solve(Controlled(swirl, sine_path), Y0, t, method=EulerMaruyama())


def test_the_continuous_adjoint_is_refused_where_there_is_no_rate():
    with pytest.raises((TypeError, ValueError), match=r"adjoint.*rate"):
        pathline.solve(
            Controlled(swirl, sine_path), Y0.clone().requires_grad_(), (0.0, 1.0), method=EulerMaruyama(), dt=0.1,
            gradient="adjoint",
        )  # fmt: skip


def test_fixed_steps_of_another_solver_refuse_tolerances_too():
    with pytest.raises(ValueError, match=r'the steps are fixed: "euler_maruyama" has no use for it'):
        pathline.solve(Controlled(swirl, sine_path), Y0, (0.0, 1.0), method=EulerMaruyama(), dt=0.1, rtol=1e-3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda y: y[:1], r"returned shape \(1, 2\) for a state of shape \(2, 2\)"),
        (lambda y: y.float(), r"returned torch\.float32 for a state of torch\.float64"),
    ],
    ids=["shape", "dtype"],
)
def test_what_a_contraction_returns_is_checked_like_a_rate(bad, message):
    term = Controlled(lambda t, y: bad(y), lambda t: torch.tensor(t))
    with pytest.raises((TypeError, ValueError), match=message):
        pathline.solve(term, Y0, (0.0, 1.0), method=EulerMaruyama(), dt=0.5)


def test_a_term_that_offers_a_rate_is_an_ode():
    class Decay(Term):
        def rate(self, t, y, args):
            return -args * y

    y1 = pathline.solve(Decay(), Y0, (0.0, 1.0), args=2.0, rtol=1e-9, atol=1e-11).y1
    torch.testing.assert_close(y1, Y0 * math.exp(-2.0), rtol=1e-7, atol=1e-9)
