"""Compiled steps are the plain ones: rows, gradients, counts, in every way a solve can be asked for.

Most tests interpret the graphs that Inductor would compile; a few at the end go through it.
"""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn

import pathline
from pathline import fields, models
from pathline.compiled import kernels
from pathline.compiled.capture import COUNTS
from pathline.testing import finite_difference, relative_error

DOUBLE = torch.float64
ROUNDING = {DOUBLE: {"rtol": 1e-9, "atol": 1e-11}, torch.float32: {"rtol": 2e-4, "atol": 2e-5}}
GRADIENTS = ["backprop", "checkpointed"]


@pytest.fixture
def interpreted(monkeypatch):
    """Graphs as they are, without Inductor."""

    def interpret(module, mode, options, *, backward=False):
        return lambda tensors: module(*tensors)

    monkeypatch.setattr(kernels, "_inductor", interpret)


def tensor(*values, dtype=DOUBLE):
    return torch.tensor(values, dtype=dtype)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).double()

    def forward(self, t, y, args=None):
        dy = 2.0 * self.net(y) + torch.sin(t)
        return dy if args is None else dy - args["drag"] * y


Y0 = tensor([0.7, -0.4], [-1.2, 0.3], [0.1, 0.9])
T = tensor(0.0, 0.4, 0.9, 1.3, 2.0)
LOOSE = {"rtol": 1e-4, "atol": 1e-5}


def leaves(x):
    return torch.utils._pytree.tree_leaves(x)


def loss(ys):
    return sum(
        (leaf * torch.arange(1.0, 1 + len(leaf)).reshape(-1, *[1] * (leaf.dim() - 1))).sin().sum() for leaf in ys
    )


def answers(field, y0, inputs, *, compile, t=T, **options):
    """Rows, gradients of start and inputs, statistics."""
    y0 = torch.utils._pytree.tree_map(lambda x: x.clone().requires_grad_(), y0)
    solution = pathline.solve(field, y0, t, compile=compile, **options)
    rows = leaves(solution.ys)
    grads = torch.autograd.grad(loss(rows), [*leaves(y0), *inputs])
    return [*rows, *grads], solution


def same(field, y0=Y0, inputs=(), *, compile=True, **options):
    """Compiled and plain agree; the solution of the compiled solve."""
    plain, expected = answers(field, y0, inputs, compile=False, **options)
    found, solution = answers(field, y0, inputs, compile=compile, **options)
    assert solution.stats.compiled
    assert not expected.stats.compiled
    for mine, truth in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, truth, **ROUNDING[truth.dtype])
    for name in ("steps", "accepted", "rejected", "evaluations"):
        assert getattr(solution.stats, name) == getattr(expected.stats, name), name
    return solution


# --- every way to solve ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("method", ["bosh3", "tsit5", "dopri5", "dopri8"])
def test_adaptive_steps(interpreted, method, gradient):
    net = Net()
    same(net, inputs=list(net.parameters()), method=method, gradient=gradient, **LOOSE)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "heun3"])
def test_fixed_steps(interpreted, method):
    net = Net()
    same(net, inputs=list(net.parameters()), method=method, dt=0.17)


@pytest.mark.parametrize("t", [T, T.flip(0), tensor(1.0, 0.5)], ids=["forward", "backward", "two times"])
def test_times(interpreted, t):
    net = Net()
    same(net, inputs=list(net.parameters()), t=t, **LOOSE)


def test_the_adjoint_of_compiled_steps(interpreted):
    net = Net()
    plain, _ = answers(net, Y0, net.parameters(), compile=False, gradient="adjoint", **LOOSE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # its backward equation is no explicit field of a user
        found, solution = answers(net, Y0, net.parameters(), compile=True, gradient="adjoint", **LOOSE)
    assert solution.stats.compiled
    for mine, truth in zip(found, plain, strict=True):
        assert relative_error(mine, truth) <= 1e-3


def test_args_get_gradients(interpreted):
    net, drag = Net(), tensor(0.3, 0.8).requires_grad_()
    same(net, inputs=[drag], args={"drag": drag}, **LOOSE)


def test_a_state_of_several_tensors(interpreted):
    def field(t, y):
        return {"q": y["v"].sum(-1), "v": -y["q"].unsqueeze(-1) * torch.ones(3, dtype=DOUBLE) - 0.1 * y["v"]}

    same(field, {"q": tensor(0.5, -0.2), "v": tensor([0.1, 0.2, 0.3], [0.0, -0.4, 0.6])}, **LOOSE)


def test_one_number(interpreted):
    same(lambda t, y: torch.cos(3.0 * t) - y, tensor(0.4).squeeze(), **LOOSE)


def test_single_precision(interpreted):
    same(lambda t, y: torch.tanh(y.flip(-1)) - 0.3 * y, Y0.float(), t=T.float(), **LOOSE)


def test_more_rows_than_a_step_has_places_for(interpreted):
    net = Net()
    t = torch.cat([torch.linspace(0.0, 0.02, 120), torch.linspace(0.03, 2.0, 30)]).double()
    same(net, inputs=list(net.parameters()), t=t, **LOOSE)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_rows_of_every_step(interpreted, gradient):
    net = Net()
    steps = {"save": pathline.Save(steps=True), "controller": pathline.FixedStep(0.4)}
    same(net, inputs=list(net.parameters()), t=tensor(0.0, 2.0), gradient=gradient, **steps)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_function_of_rows(interpreted, gradient):
    net = Net()
    save = pathline.Save(fn=lambda t, y: (y.square(), y.sum(-1)))
    same(net, inputs=list(net.parameters()), save=save, gradient=gradient, **LOOSE)


def test_dense_output(interpreted):
    net = Net()
    found = []
    for compile in (False, True):
        y0 = Y0.clone().requires_grad_()
        solution = pathline.solve(net, y0, (0.0, 2.0), save=pathline.Save(dense=True), compile=compile, **LOOSE)
        rows = solution(tensor(0.05, 0.77, 1.93))
        found.append([rows, *torch.autograd.grad(rows.sin().sum(), (y0, *net.parameters()))])
    for mine, truth in zip(*found[::-1], strict=True):
        torch.testing.assert_close(mine, truth, **ROUNDING[DOUBLE])


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_events(interpreted, gradient):
    def reset(t, y):
        return torch.stack((torch.zeros_like(y[0]), -0.6 * y[1]))

    floor = pathline.Event(crossing=lambda t, y: y[0], direction=-1, terminal=False, reset=reset)
    pull = tensor(9.81).squeeze().requires_grad_()

    def ball(t, y):
        return torch.stack((y[1], -pull - 0.1 * y[1]))

    solution = same(ball, tensor(1.0, 0.0), [pull], events=floor, t=0.5 * T, gradient=gradient, **LOOSE)
    assert solution.events[0].count == 2


def test_jumps(interpreted):
    def field(t, y):
        return torch.where(t < 0.5, -y, 2.0 - y)

    same(field, controller=pathline.PID(jumps=[0.5]), **LOOSE)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_running_costs(interpreted, gradient):
    net = Net()
    found = []
    for compile in (False, True):
        y0 = Y0.clone().requires_grad_()
        costs = {"energy": lambda t, y, dy: dy.square().sum(-1)}
        solution = pathline.solve(net, y0, T, integrals=costs, gradient=gradient, compile=compile, **LOOSE)
        cost = solution.integrals["energy"]
        found.append([cost, *torch.autograd.grad(cost.sin().sum(), (y0, *net.parameters()))])
    for mine, truth in zip(*found[::-1], strict=True):
        torch.testing.assert_close(mine, truth, **ROUNDING[DOUBLE])


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("options", [LOOSE, {"method": "midpoint", "dt": 0.3}], ids=["adaptive", "fixed"])
def test_times_that_require_grad(interpreted, options, gradient):
    net = Net()
    found = []
    for compile in (False, True):
        y0, t = Y0.clone().requires_grad_(), T.clone().requires_grad_()
        ys = pathline.solve(net, y0, t, gradient=gradient, compile=compile, **options).ys
        found.append([ys, *torch.autograd.grad(loss([ys]), (y0, t, *net.parameters()))])
    for mine, truth in zip(*found[::-1], strict=True):
        torch.testing.assert_close(mine, truth, **ROUNDING[DOUBLE])


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_second_derivatives(interpreted, gradient):
    net = Net()
    weight = net.net[0].weight
    steps = {"method": "bosh3", "controller": pathline.FixedStep(0.5)}

    def slope(y0):
        with torch.enable_grad():
            y0 = y0 if y0.requires_grad else y0.clone().requires_grad_()
            y1 = pathline.solve(net, y0, (0.0, 1.0), gradient=gradient, compile=y0 is x, **steps).y1
            return sum(g.sin().sum() for g in torch.autograd.grad(y1.sin().sum(), (y0, weight), create_graph=True))

    x = Y0.clone().requires_grad_()
    (found,) = torch.autograd.grad(slope(x), x)
    assert relative_error(found, finite_difference(lambda y0: slope(y0).detach(), Y0)) <= 1e-7


def test_a_frozen_field_and_a_start_without_gradient(interpreted):
    net = Net()
    ys = [pathline.solve(net.requires_grad_(False), Y0, T, compile=on, **LOOSE).ys for on in (False, True)]
    assert not ys[1].requires_grad
    torch.testing.assert_close(*ys, **ROUNDING[DOUBLE])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(interpreted, mode):
    net = Net()
    with mode():
        solutions = [pathline.solve(net, Y0, T, compile=on, **LOOSE) for on in (False, True)]
    assert solutions[1].stats.compiled
    torch.testing.assert_close(solutions[1].ys, solutions[0].ys, **ROUNDING[DOUBLE])


def test_a_failure_is_that_of_plain_steps(interpreted):
    messages = []
    for compile in (False, True):
        with pytest.raises(pathline.SolveError) as caught:
            pathline.solve(lambda t, y: y * y, tensor(1.0, 1.0), (0.0, 2.0), compile=compile, **LOOSE)
        messages.append(type(caught.value))
        torch.testing.assert_close(caught.value.solution.t1, tensor(1.0).squeeze(), rtol=0.0, atol=1e-3)
    assert messages[0] is messages[1]


def test_functional_transforms_run_plain_steps(interpreted):
    net = Net()

    def end(y0, compile):
        return pathline.solve(net, y0, (0.0, 1.0), compile=compile, **LOOSE).y1.sin().sum()

    found, truth = (torch.func.grad(lambda y0, on=on: end(y0, on))(Y0) for on in (True, False))
    torch.testing.assert_close(found, truth, **ROUNDING[DOUBLE])


# --- what cannot be compiled ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"method": "kvaerno5"}, "kvaerno5"),
        ({"method": "rodas5p"}, "rodas5p"),
    ],
)
def test_a_solve_that_cannot_be_compiled_says_so_once(interpreted, options, reason, monkeypatch):
    monkeypatch.setattr("pathline.compiled.choosing._SAID", set())
    with pytest.warns(RuntimeWarning, match=reason):
        solution = pathline.solve(Net(), Y0, T, compile=True, **LOOSE, **options)
    assert not solution.stats.compiled
    pathline.solve(Net(), Y0, T, compile=True, **LOOSE, **options)


@pytest.mark.parametrize("value", ["yes", 3, None])
def test_another_kind_of_option_is_refused(value):
    with pytest.raises(TypeError, match="`compile`"):
        pathline.solve(Net(), Y0, T, compile=value)


# --- objects travel -------------------------------------------------------------------------------------------------


def test_a_model_is_copied_and_pickled_before_and_after(interpreted):
    net = Net()
    truth = pathline.solve(net, Y0, T, **LOOSE).ys
    for _ in range(2):
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            solution = pathline.solve(twin, Y0, T, compile=True, **LOOSE)
            assert solution.stats.compiled
            torch.testing.assert_close(solution.ys, truth, **ROUNDING[DOUBLE])


def test_graphs_do_not_keep_a_model_alive(interpreted):
    net = Net()
    alive = weakref.ref(net.net[0].weight)
    answers(net, Y0, list(net.parameters()), compile=True, **LOOSE)
    del net
    gc.collect()
    assert alive() is None


# --- through Inductor -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # with nothing in the compiler's cache
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_through_inductor(gradient):
    net = Net()
    same(net, inputs=list(net.parameters()), method="bosh3", gradient=gradient, compile={"cpp_wrapper": False}, **LOOSE)


def test_torch_compile_stands_in_where_the_entries_are_missing(monkeypatch):
    def missing(*_, **__):
        raise AttributeError("moved in this release")

    monkeypatch.setattr(kernels, "_inductor", missing)
    programs = COUNTS["programs"]
    weight = tensor(0.7, -0.3).requires_grad_()
    same(lambda t, y: torch.tanh(weight * y), tensor(0.4, 0.2), [weight], method="midpoint", dt=0.5)
    assert COUNTS["programs"] > programs


def test_a_graph_holds_the_method_that_it_was_made_for(interpreted):
    """Else another method could take its place in memory, and be given its graph."""
    from pathline.solvers import RungeKutta

    def field(t, y):
        return torch.sin(t) - y

    method = RungeKutta(pathline.METHODS["heun3"].tableau)
    with torch.no_grad():
        assert pathline.solve(field, torch.ones(2), (0.0, 1.0), method=method, dt=0.5, compile=True).stats.compiled
    watched = weakref.ref(method)
    del method
    gc.collect()
    assert watched() is not None


def test_a_convolution_keeps_the_layout_of_the_state():
    torch.manual_seed(0)
    field = fields.ConvField(4, groups=2).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    found = []
    for compiled in (False, True):
        model = models.NeuralODE(field, method="rk4", dt=0.25, compile=compiled)
        y = model(x)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), list(field.parameters()))])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-9, atol=1e-9)
