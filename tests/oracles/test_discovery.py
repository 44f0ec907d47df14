"""Wherever a field's tensors live, every gradient mode finds them: never a silent zero."""

from __future__ import annotations

import functools
import threading

import pytest
import torch
from torch import nn
from torch.func import functional_call

import pathline
from pathline.testing import relative_error

MODES = ["backprop", "checkpointed", "adjoint"]
T = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
Y0 = torch.tensor([0.9, -0.6], dtype=torch.float64)
W = torch.tensor([[-0.3, 1.2], [-0.9, 0.1]], dtype=torch.float64)

GLOBAL = W.clone().requires_grad_()
GLOBAL_NET = nn.Linear(2, 2, bias=False, dtype=torch.float64)
GLOBAL_TREE = {"layers": [{"weight": W.clone().requires_grad_()}]}


def solve(field, gradient, **options):
    return pathline.solve(field, Y0, T, rtol=1e-9, atol=1e-10, gradient=gradient, **options).ys


def loss(ys):
    return ys[1:].square().sum() + ys[1, 0]


def truth(weight):
    """The gradient to the weight of y' = tanh(W y), by plain backpropagation through explicit `args`."""
    leaf = weight.detach().clone().requires_grad_()
    ys = solve(lambda t, y, w: torch.tanh(w @ y), "backprop", args=leaf)
    return torch.autograd.grad(loss(ys), leaf)[0]


def agrees(found, weight=W):
    assert found is not None, "no gradient at all"
    assert relative_error(found, truth(weight)) <= 1e-6


@pytest.fixture(params=MODES)
def gradient(request):
    return request.param


@pytest.fixture
def net():
    layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(W)
    return layer


def test_function_closing_over_a_tensor(gradient):
    w = W.clone().requires_grad_()
    loss(solve(lambda t, y: torch.tanh(w @ y), gradient)).backward()
    agrees(w.grad)


def test_function_closing_over_a_module(gradient, net):
    loss(solve(lambda t, y: torch.tanh(net(y)), gradient)).backward()
    agrees(net.weight.grad)


def test_function_closing_over_a_function_closing_over_a_module(gradient, net):
    def inner(y):
        return net(y)

    def outer(t, y):
        return torch.tanh(inner(y))

    loss(solve(outer, gradient)).backward()
    agrees(net.weight.grad)


class Holder:
    def __init__(self, weight):
        self.parts = {"weights": [weight]}

    def rate(self, t, y):
        return torch.tanh(self.parts["weights"][0] @ y)

    def __call__(self, t, y):
        return self.rate(t, y)


def test_bound_method(gradient):
    w = W.clone().requires_grad_()
    loss(solve(Holder(w).rate, gradient)).backward()
    agrees(w.grad)


def test_callable_object(gradient):
    w = W.clone().requires_grad_()
    loss(solve(Holder(w), gradient)).backward()
    agrees(w.grad)


def test_bound_method_of_a_module(gradient, net):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def rate(self, t, y):
            return torch.tanh(self.net(y))

    loss(solve(Model().rate, gradient)).backward()
    agrees(net.weight.grad)


def scaled(t, y, args=None, *, weight):
    return torch.tanh(weight @ y)


def test_partial(gradient, net):
    loss(solve(functools.partial(scaled, weight=net.weight), gradient)).backward()
    agrees(net.weight.grad)


def test_partial_of_a_lambda_with_a_module(gradient, net):
    loss(solve(functools.partial(lambda layer, t, y: torch.tanh(layer(y)), net), gradient)).backward()
    agrees(net.weight.grad)


def test_nested_dict_in_a_closure(gradient):
    tree = {"layers": [{"weight": W.clone().requires_grad_()}]}
    loss(solve(lambda t, y: torch.tanh(tree["layers"][0]["weight"] @ y), gradient)).backward()
    agrees(tree["layers"][0]["weight"].grad)


def global_rate(t, y):
    return torch.tanh(GLOBAL @ y)


def test_global_tensor(gradient):
    GLOBAL.grad = None
    loss(solve(global_rate, gradient)).backward()
    agrees(GLOBAL.grad)


def test_global_module_and_tree(gradient):
    with torch.no_grad():
        GLOBAL_NET.weight.copy_(W)
    GLOBAL_NET.weight.grad = GLOBAL_TREE["layers"][0]["weight"].grad = None
    loss(solve(lambda t, y: torch.tanh(GLOBAL_NET(y)), gradient)).backward()
    agrees(GLOBAL_NET.weight.grad)
    loss(solve(lambda t, y: torch.tanh(GLOBAL_TREE["layers"][0]["weight"] @ y), gradient)).backward()
    agrees(GLOBAL_TREE["layers"][0]["weight"].grad)


def test_hypernetwork_output_in_a_closure(gradient):
    """The weight isn't a leaf: its own gradient must flow on to what made it."""
    z = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    base = W.clone().requires_grad_()
    weight = base * torch.exp(z - 0.7)
    loss(solve(lambda t, y: torch.tanh(weight @ y), gradient)).backward()
    agrees(base.grad)
    torch.testing.assert_close(z.grad, (truth(W) * W).sum(), rtol=1e-6, atol=1e-9)


def test_hypernetwork_output_on_a_bound_object(gradient):
    base = W.clone().requires_grad_()
    loss(solve(Holder(base * 1.0).rate, gradient)).backward()
    agrees(base.grad)


def test_hypernetwork_output_in_a_tuple_is_right_or_refused(gradient):
    """A tuple can't be given another tensor; what can't be an input must not become a silent zero."""
    base = W.clone().requires_grad_()
    weights = (base * 1.0,)
    right_or_refused(lambda t, y: torch.tanh(weights[0] @ y), gradient, base)


def test_hypernetwork_output_in_args(gradient):
    base = W.clone().requires_grad_()
    args = {"weight": (base * 1.0,), "name": "tanh"}
    loss(solve(lambda t, y, a: torch.tanh(a["weight"][0] @ y), gradient, args=args)).backward()
    agrees(base.grad)


def test_module_in_args(gradient, net):
    loss(solve(lambda t, y, layer: torch.tanh(layer(y)), gradient, args=net)).backward()
    agrees(net.weight.grad)


def test_functional_call_under_func_grad(gradient, net):
    shape = nn.Linear(2, 2, bias=False, dtype=torch.float64)

    def objective(parameters):
        return loss(solve(lambda t, y: torch.tanh(functional_call(shape, parameters, (y,))), gradient))

    agrees(torch.func.grad(objective)({"weight": net.weight.detach()})["weight"])


def test_func_grad_to_the_start_and_through_args(gradient):
    def objective(y0, w):
        ys = pathline.solve(
            lambda t, y, w: torch.tanh(w @ y), y0, T, args=w, rtol=1e-9, atol=1e-10, gradient=gradient
        ).ys
        return loss(ys)

    to_y0, to_w = torch.func.grad(objective, argnums=(0, 1))(Y0, W)
    agrees(to_w)
    y0 = Y0.clone().requires_grad_()
    assert relative_error(to_y0, torch.autograd.grad(objective(y0, W), y0)[0]) <= 1e-6


@pytest.mark.parametrize("owner", ["module", "closure"])
def test_parameter_first_used_after_the_start(gradient, owner):
    """The first evaluation reaches only one of the two weights."""
    early, late = W.clone().requires_grad_(), (W * 0.5).clone().requires_grad_()

    class Switch(nn.Module):
        def __init__(self):
            super().__init__()
            self.early, self.late = nn.Parameter(W.clone()), nn.Parameter(W * 0.5)

        def forward(self, t, y):
            return torch.tanh((self.early if t < 0.5 else self.late) @ y)

    def switch(t, y):
        return torch.tanh((early if t < 0.5 else late) @ y)

    field = Switch() if owner == "module" else switch
    late = field.late if owner == "module" else late
    early = field.early if owner == "module" else early
    # the field jumps: a grid with a step end on the jump keeps both modes on the smooth pieces
    options = {"method": "dopri5", "controller": pathline.PID(jumps=torch.tensor([0.5], dtype=torch.float64))}
    loss(solve(field, gradient, **options)).backward()

    def split(weights):
        half = torch.tensor([0.0, 0.4, 0.5], dtype=torch.float64)
        rate = lambda t, y, w: torch.tanh(w @ y)  # noqa: E731
        first = pathline.solve(rate, Y0, half, args=weights[0], rtol=1e-10, atol=1e-11).ys
        last = pathline.solve(rate, first[-1], (0.5, 1.0), args=weights[1], rtol=1e-10, atol=1e-11).y1
        return loss(torch.stack((Y0, first[1], last)))

    leaves = [W.clone().requires_grad_(), (W * 0.5).requires_grad_()]
    exact = torch.autograd.grad(split(leaves), leaves)
    assert relative_error(early.grad, exact[0]) <= 1e-6
    assert relative_error(late.grad, exact[1]) <= 1e-6


def right_or_refused(field, gradient, base):
    """The gradient is right, or an error names the operation and the way out."""
    refusal = ""
    try:
        loss(solve(field, gradient)).backward()
    except (RuntimeError, ValueError, TypeError) as error:
        refusal = str(error)
    if refusal:
        assert gradient != "backprop"
        assert "`args`" in refusal
        assert "MulBackward" in refusal
    else:
        agrees(base.grad)


def test_a_tensor_nobody_can_find_is_never_a_silent_zero(gradient):
    hidden = threading.local()
    base = W.clone().requires_grad_()
    hidden.weight = base * 1.0
    right_or_refused(lambda t, y: torch.tanh(hidden.weight @ y), gradient, base)


def test_a_leaf_nobody_can_find_is_found_in_the_graph(gradient):
    hidden = threading.local()
    hidden.weight = W.clone().requires_grad_()
    loss(solve(lambda t, y: torch.tanh(hidden.weight @ y), gradient)).backward()
    agrees(hidden.weight.grad)


def test_parameters_are_found_at_call_time(gradient, net):
    """A module that is replaced between two solves."""
    holder = {"net": nn.Linear(2, 2, bias=False, dtype=torch.float64)}
    field = lambda t, y: torch.tanh(holder["net"](y))  # noqa: E731
    solve(field, gradient)
    holder["net"] = net
    loss(solve(field, gradient)).backward()
    agrees(net.weight.grad)


def test_frozen_parameters_get_none(gradient, net):
    free = nn.Parameter(torch.ones(2, dtype=torch.float64))
    net.weight.requires_grad_(requires_grad=False)
    loss(solve(lambda t, y: torch.tanh(net(y)) * free, gradient)).backward()
    assert net.weight.grad is None
    assert float(free.grad.abs().min()) > 1e-3


def test_an_unused_parameter_gets_zero_or_none(gradient, net):
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.unused = net, unused

        def forward(self, t, y):
            return torch.tanh(self.net(y))

    loss(solve(Field(), gradient)).backward()
    agrees(net.weight.grad)
    assert unused.grad is None or not unused.grad.any()


def test_shared_parameter_counts_once(gradient, net):
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = net

        def forward(self, t, y):
            return 0.5 * (torch.tanh(self.a(y)) + torch.tanh(self.b(y)))

    loss(solve(Field(), gradient)).backward()
    agrees(net.weight.grad)
