"""The adjoint with its state from three places, against closed forms, variational equations and replayed differences."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import pathline
from pathline import Adjoint
from pathline.testing import finite_difference, relative_error

DOUBLE = torch.float64
A = torch.tensor([[-0.4, 1.3], [-1.1, -0.2]], dtype=DOUBLE)
Z0 = torch.tensor([[1.0, -0.5], [0.2, 0.8]], dtype=DOUBLE)
TIMES = torch.tensor([0.2, 0.5, 0.5, 1.1], dtype=DOUBLE)
LOOSE, TIGHT = {"rtol": 1e-6, "atol": 1e-8}, {"rtol": 1e-8, "atol": 1e-10}
STATES = ["backward", "dense", "checkpoints"]
READ = ["dense", "checkpoints"]
STIFF = ["kvaerno5", "rodas5p", "radau5", "bdf", "kencarp4"]


def adjoint(state, **options):
    return Adjoint(state=state, checkpoints=3, **options)


def waving(t, z, a):
    """``z' = cos(t) A z``, whose solution is ``exp((sin t - sin t0) A) z0``."""
    return torch.cos(t) * (z @ a.T)


PARTS = pathline.Sum(lambda t, z, a: -0.5 * z, lambda t, z, a: torch.cos(t) * (z @ a.T) + 0.5 * z)


def rows(z0, a, t):
    return torch.stack([z0 @ torch.linalg.matrix_exp(a * (torch.sin(s) - torch.sin(t[0]))).T for s in t])


def loss(ys):
    return (ys.sin() * torch.arange(1.0, 1.0 + len(ys), dtype=DOUBLE)[:, None, None]).sum()


def solved(method, gradient, t, clock="shared", **options):
    field = PARTS if method == "kencarp4" else waving
    return lambda z0, a: (
        pathline.solve(field, z0, t, args=a, method=method, gradient=gradient, clock=clock, **{**TIGHT, **options}).ys
    )


def derivatives(function, *, second=False):
    """Of the loss by start and matrix; or of a function of these."""
    inputs = [x.clone().requires_grad_() for x in (Z0, A)]
    first = torch.autograd.grad(loss(function(*inputs)), inputs, create_graph=second)
    return torch.autograd.grad(sum(g.square().sum() for g in first), inputs) if second else first


# --- first derivatives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0)], ids=["forward", "backward"])
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("state", READ)
def test_the_gradient_is_that_of_the_solution(state, clock, times):
    found = derivatives(solved("tsit5", adjoint(state), times, clock))
    for mine, truth in zip(found, derivatives(lambda z0, a: rows(z0, a, times)), strict=True):
        assert relative_error(mine, truth) <= 1e-6


@pytest.mark.parametrize(
    ("method", "state", "clock"),
    [
        *((method, "dense", "shared") for method in ("dopri8", *STIFF)),
        *((method, "dense", "per-sample") for method in ("rodas5p", "kencarp4")),
        *((method, "checkpoints", "shared") for method in ("bdf", "kvaerno5")),
        *(("kencarp4", "backward", clock) for clock in ("shared", "per-sample")),
    ],
)
def test_every_kind_of_method(method, state, clock):
    """Within a hundred times the tolerance, and in about as many steps as the solve forward."""
    counts = []

    def function(z0, a):
        field = PARTS if method == "kencarp4" else waving
        options = {"args": a, "method": method, "clock": clock, **LOOSE}
        solution = pathline.solve(field, z0, TIMES, gradient=adjoint(state), **options)
        counts.append(solution.stats)
        return solution.ys

    found = derivatives(function)
    assert counts[0].backward_steps <= 6 * counts[0].steps + 10
    for mine, truth in zip(found, derivatives(lambda z0, a: rows(z0, a, TIMES)), strict=True):
        assert relative_error(mine, truth) <= 1e-4


@pytest.mark.parametrize("state", READ)
def test_by_the_times(state):
    t, exact = (TIMES.clone().requires_grad_() for _ in range(2))
    (found,) = torch.autograd.grad(loss(solved("tsit5", adjoint(state), t)(Z0, A)), t)
    (truth,) = torch.autograd.grad(loss(rows(Z0, A, exact)), exact)
    assert relative_error(found, truth) <= 1e-6


@pytest.mark.parametrize("state", READ)
@pytest.mark.parametrize("controller", [pathline.FixedStep(0.01), pathline.Grid(torch.linspace(0.2, 1.1, 91))])
def test_fixed_steps(state, controller):
    t = torch.linspace(0.2, 1.1, 4, dtype=torch.float32).double()
    options = {"method": "rk4", "rtol": None, "atol": None, "controller": controller}
    found = derivatives(solved(gradient=adjoint(state), t=t, **options))
    for mine, truth in zip(found, derivatives(lambda z0, a: rows(z0, a, t)), strict=True):
        assert relative_error(mine, truth) <= 1e-6


@pytest.mark.parametrize("state", READ)
def test_kicks_and_drifts(state):
    start = torch.tensor([0.7, 0.3], dtype=DOUBLE)

    def gradients(gradient, dt):
        y0, k = start.clone().requires_grad_(), torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
        pendulum = pathline.Separable(kick=lambda t, q: -k * torch.sin(q) * torch.cos(t), drift=lambda t, p: p)
        y1 = pathline.solve(pendulum, y0, (0.0, 1.0), method="yoshida4", dt=dt, gradient=gradient).y1
        return torch.autograd.grad(y1[0] + y1[1] ** 2, [y0, k])

    for mine, truth in zip(gradients(adjoint(state), 0.02), gradients("backprop", 0.02), strict=True):
        assert relative_error(mine, truth) <= 1e-5


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("state", READ)
def test_from_event_to_event(state, clock):
    """A ball on a floor, by its height and by how much of its speed a bounce keeps."""

    def bounced(gradient):
        start = torch.tensor([[2.0, 0.0]], dtype=DOUBLE).requires_grad_()
        keep = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
        event = pathline.Event(
            crossing=lambda t, y: y[..., 0],
            direction=-1,
            reset=lambda t, y: torch.stack((y[..., 0], -keep * y[..., 1]), -1),
        )
        solution = pathline.solve(
            lambda t, y: torch.stack((y[..., 1], torch.full_like(y[..., 1], -9.81)), -1),
            start if clock == "per-sample" else start[0],
            (0.0, 2.0),
            events=event,
            gradient=gradient,
            clock=clock,
            **TIGHT,
        )
        return torch.autograd.grad(solution.y1.square().sum(), [start, keep])

    for mine, truth in zip(bounced(adjoint(state)), bounced("backprop"), strict=True):
        assert relative_error(mine, truth) <= 1e-6


# --- second derivatives and transforms ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "state"),
    [("tsit5", "checkpoints"), *((method, state) for method in ("tsit5", *STIFF) for state in ("backward", "dense"))],
)
def test_second_derivatives(method, state):
    times, tolerance = (TIMES[[0, 1, 3]], TIGHT) if method == "tsit5" else (TIMES[[0, 3]], LOOSE)
    found = derivatives(solved(method, adjoint(state), times, **tolerance), second=True)
    for mine, truth in zip(found, derivatives(lambda z0, a: rows(z0, a, times), second=True), strict=True):
        assert relative_error(mine, truth) <= 100 * tolerance["rtol"]


@pytest.mark.parametrize("state", STATES)
def test_second_derivatives_with_one_clock_a_sample(state):
    found = derivatives(solved("tsit5", adjoint(state), TIMES, "per-sample"), second=True)
    for mine, truth in zip(found, derivatives(lambda z0, a: rows(z0, a, TIMES), second=True), strict=True):
        assert relative_error(mine, truth) <= 1e-5


def test_second_derivatives_against_differences_of_gradients():
    """Of the same adjoint, with a backward method of its own: each of its gradients is made by a solve of its own."""
    gradient = Adjoint(state="dense", method="rodas5p", rtol=1e-6, atol=1e-8)
    weights = torch.tensor([[1.0, -2.0], [0.5, 0.3]], dtype=DOUBLE)

    def slope(a, *, graph):
        y1 = pathline.solve(waving, Z0, (0.0, 1.0), args=a, gradient=gradient, method="kvaerno5", **LOOSE).y1
        return (weights * torch.autograd.grad(y1.pow(3).sum(), a, create_graph=graph)[0]).sum()

    def plain(x):
        with torch.enable_grad():
            return slope(x.clone().requires_grad_(), graph=False)

    a = A.clone().requires_grad_()
    (found,) = torch.autograd.grad(slope(a, graph=True), a)
    assert relative_error(found, finite_difference(plain, A, step=1e-2)) <= 1e-3


@pytest.mark.parametrize(
    ("method", "state"),
    [("tsit5", "backward"), ("tsit5", "checkpoints"), ("kvaerno5", "backward"), ("rodas5p", "dense")],
)
def test_under_transforms(method, state):
    function = solved(method, adjoint(state), TIMES[[0, 3]], **LOOSE)

    def exact(z0, a):
        return rows(z0, a, TIMES[[0, 3]])

    def of_the_last(function):
        return torch.func.jacrev(lambda a: function(Z0, a)[-1, 0])(A)

    def pulled(function):
        return torch.func.vjp(lambda a: loss(function(Z0, a)), A)[1](torch.ones((), dtype=DOUBLE))[0]

    for of in (of_the_last, pulled):
        assert relative_error(of(function), of(exact)) <= 1e-4


def test_a_time_that_a_rosenbrock_method_differentiates_by_beside_controlled_parameters():
    function = solved("rodas5p", Adjoint(control_parameters=True), TIMES[[0, 3]], **LOOSE)
    found = derivatives(function, second=True)
    for mine, truth in zip(found, derivatives(lambda z0, a: rows(z0, a, TIMES[[0, 3]]), second=True), strict=True):
        assert relative_error(mine, truth) <= 1e-4


# --- van der Pol's oscillator ------------------------------------------------------------------------------------


def van_der_pol(t, y, mu):
    return torch.stack((y[1], mu * (1.0 - y[0] ** 2) * y[1] - y[0]))


START = torch.tensor([2.0, 0.0], dtype=DOUBLE)


def end_by(end, gradient, method, rtol=1e-6):
    """The gradient of ``y1 + 10 y2`` at the end by mu = 100 and by the start."""
    mu, y0 = torch.tensor(100.0, dtype=DOUBLE, requires_grad=True), START.clone().requires_grad_()
    solution = pathline.solve(
        van_der_pol, y0, (0.0, end), args=mu, method=method, gradient=gradient, rtol=rtol, atol=1e-2 * rtol
    )
    by_mu, by_y0 = torch.autograd.grad(solution.y1[0] + 10.0 * solution.y1[1], [mu, y0])
    return torch.cat([by_mu[None], by_y0])


def variational(end, mu=100.0):
    """The same from the equations of the derivatives, solved forwards by another library."""

    def rate(t, z):
        (y, v), s = z[:2], z[2:].reshape(2, 3)
        jacobian = np.array([[0.0, 1.0], [-2.0 * mu * y * v - 1.0, mu * (1.0 - y**2)]])
        slopes = jacobian @ s
        slopes[1, 0] += (1.0 - y**2) * v
        return np.concatenate([[v, mu * (1.0 - y**2) * v - y], slopes.ravel()])

    begin = np.array([2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    final = solve_ivp(rate, (0.0, end), begin, method="LSODA", rtol=1e-11, atol=1e-13).y[2:, -1].reshape(2, 3)
    return torch.from_numpy(final[0] + 10.0 * final[1])


@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_stiff_the_plain_adjoint_is_caught(method):
    with pytest.warns(UserWarning, match=r'missed the forward solution.*Adjoint\(state="dense"\)'):
        found = end_by(1.0, "adjoint", method)
    assert relative_error(found, variational(1.0)) > 1.0  # and rightly so


def test_stiff_without_the_check_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        end_by(1.0, Adjoint(verify=False), "tsit5")


def test_stiff_a_backward_solve_that_breaks_down_says_what_to_do():
    with pytest.raises(pathline.SolveError, match=r'integrated backwards.*Adjoint\(state="dense"\)'):
        end_by(1.0, Adjoint(max_steps=50), "rodas5p")
    with pytest.raises(pathline.SolveError, match=r"integrated backwards.*another `method`"):
        end_by(1.0, Adjoint(state="dense", max_steps=5), "rodas5p")


@pytest.mark.parametrize(
    ("method", "state"),
    [
        ("tsit5", "dense"),
        ("kvaerno5", "dense"),
        ("rodas5p", "checkpoints"),
        ("radau5", "checkpoints"),
        ("bdf", "dense"),
    ],
)
def test_stiff_the_interpolated_adjoint_is_right(method, state):
    assert relative_error(end_by(1.0, Adjoint(state=state), method), variational(1.0)) <= 1e-4


def test_stiff_past_the_jump():
    """At t = 81 the solution jumps to the other branch, a thousand times as fast as it crept there."""
    found = end_by(100.0, Adjoint(state="dense"), "radau5")
    assert relative_error(found, variational(100.0)) <= 1e-3


def test_stiff_a_method_and_a_tolerance_of_its_own():
    found = end_by(1.0, Adjoint(state="dense", method="rodas5p", rtol=1e-4, atol=1e-6), "tsit5")
    assert relative_error(found, variational(1.0)) <= 1e-2


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_stiff_the_exact_modes_agree_with_replayed_differences(gradient):
    options = {"method": "rodas5p", "rtol": 1e-5, "atol": 1e-7}
    mu = torch.tensor(100.0, dtype=DOUBLE, requires_grad=True)
    y1 = pathline.solve(van_der_pol, START, (0.0, 1.0), args=mu, gradient=gradient, **options).y1
    (found,) = torch.autograd.grad(y1[0] + 10.0 * y1[1], mu)
    save = pathline.Save(steps=True)
    steps = pathline.solve(van_der_pol, START, (0.0, 1.0), args=mu.detach(), save=save, **options).ts

    def replayed(mu):
        y1 = pathline.solve(
            van_der_pol, START, (0.0, 1.0), args=mu, method="rodas5p", controller=pathline.Grid(steps)
        ).y1
        return y1[0] + 10.0 * y1[1]

    assert relative_error(found, finite_difference(replayed, mu, step=1e-2)) <= 1e-6


# --- cost --------------------------------------------------------------------------------------------------------


def test_the_step_is_carried_across_output_times():
    """One backward step between two near rows is enough; eleven rows of a smooth solution cost ten steps and a few."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
    y0, t = torch.randn(32, 2), torch.linspace(0.0, 1.0, 11)
    solution = pathline.solve(lambda t, y: net(y), y0, t, method="dopri5", rtol=1e-5, atol=1e-6, gradient="adjoint")
    solution.ys.square().mean().backward()
    stats = solution.stats
    assert stats.backward_accepted + stats.backward_rejected == stats.backward_steps <= 13
    # To begin each interval one evaluation, six a step, three for its quadrature, and one to choose the first step.
    assert stats.backward_evaluations == 10 + 6 * stats.backward_steps + 3 * stats.backward_accepted + 1


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_evaluations_of_the_backward_pass_are_counted(clock, state):
    calls = []

    def counted(t, y):
        calls.append(t)
        return -y * torch.cos(t)

    y0 = Z0.clone().requires_grad_()
    solution = pathline.solve(counted, y0, TIMES, clock=clock, gradient=adjoint(state), **TIGHT)
    forward = solution.stats.evaluations
    calls.clear()
    solution.ys.sum().backward()
    stats = solution.stats
    assert stats.backward_evaluations == len(calls)
    assert stats.evaluations == forward
    assert stats.backward_steps == stats.backward_accepted + stats.backward_rejected > 0
    assert math.isfinite(float(y0.grad.sum()))


@pytest.mark.parametrize("state", ["backward", "dense"])
def test_second_derivatives_do_not_walk_through_all_steps_before(state, monkeypatch):
    """Nodes that each recorded product has in reach of what it differentiates by: as many at the end as at the start."""
    sizes = []
    known = torch.autograd.grad

    def counting(outputs, inputs, *rest, **options):
        if options.get("create_graph"):
            sizes.append(reach(outputs, inputs))
        return known(outputs, inputs, *rest, **options)

    def reach(outputs, inputs):
        least = min(depth(x.grad_fn) for x in inputs)
        seen, stack = set(), [getattr(y, "node", None) or y.grad_fn for y in outputs]
        while stack:
            node = stack.pop()
            if node is None or node in seen or depth(node) < least:
                continue
            seen.add(node)
            stack += [edge for edge, _ in node.next_functions]
        return len(seen)

    depths = {}

    def depth(node):
        if node is None:
            return 0
        if node not in depths:
            depths[node] = 0
            depths[node] = 1 + max((depth(edge) for edge, _ in node.next_functions), default=0)
        return depths[node]

    a = A.clone().requires_grad_()
    options = {"method": "rk4", "dt": 0.05, "args": a, "gradient": adjoint(state)}
    y1 = pathline.solve(waving, Z0, (0.0, 1.0), **options).y1
    monkeypatch.setattr(torch.autograd, "grad", counting)
    known(y1.square().sum(), a, create_graph=True)
    assert len(sizes) > 100
    assert max(sizes) <= 4 * sizes[0]
