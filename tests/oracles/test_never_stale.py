"""A compiled solve is the plain one, whatever has changed since the last: weights, noise, numbers, modes, sizes.

Every test compares values and gradients with those of plain steps. The graphs of most tests are interpreted instead of
handed to Inductor, which knows nothing of fields: what may be stale is decided before it.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import pathline
from pathline.compiled import kernels

T = torch.linspace(0.0, 1.0, 4, dtype=torch.float64)


@pytest.fixture
def builds(monkeypatch):
    """The kernels that were built, by their labels; their graphs are interpreted."""
    found = []

    def interpreted(module, mode, options, *, backward=False):
        found.append("backward" if backward else "forward")
        return lambda tensors: module(*tensors)

    monkeypatch.setattr(kernels, "_inductor", interpreted)
    torch._dynamo.utils.counters.clear()
    yield found
    assert not torch._dynamo.utils.counters["graph_break"]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


ROUNDING = {torch.float64: {"rtol": 1e-9, "atol": 1e-11}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


def start(batch=6):
    return torch.linspace(-1.0, 1.0, 2 * batch, dtype=torch.float64).reshape(batch, 2)


#: Steps of two stages that choose nothing; a few tests take adaptive ones.
FIXED = {"method": "midpoint", "dt": 0.25}
ADAPTIVE = {"method": "bosh3", "rtol": 1e-4, "atol": 1e-4}


def answers(field, y0, weights, *, compiled, args=None, t=T, **options):
    """The rows, and gradients of the start and of the weights."""
    y0 = y0.clone().requires_grad_()
    options = options if "method" in options else FIXED | options
    ys = pathline.solve(field, y0, t, args=args, **options, compile=compiled).ys
    return ys.detach(), *torch.autograd.grad(ys.square().sum(), (y0, *weights))


def check(field, y0=None, weights=(), **options):
    """Compiled and plain answers are one, to rounding; a fall-back is an error, as all warnings are."""
    y0 = start() if y0 is None else y0
    for mine, truth in zip(
        answers(field, y0, weights, compiled=True, **options),
        answers(field, y0, weights, compiled=False, **options),
        strict=True,
    ):
        torch.testing.assert_close(mine, truth, **ROUNDING[mine.dtype])


def network(width=5, kind=None):
    """A module of a kind of its own, or of a given one: graphs are shared by the modules of one class."""

    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2)).double()
            self.scale = 0.5
            self.register_buffer("shift", tensor(0.3, -0.2))
            self.plain = tensor(1.0, 0.5)

        def forward(self, t, y):
            dy = self.scale * self.net(y) + self.shift * torch.cos(t) - self.plain * y
            return dy if self.training else 2.0 * dy

    return (kind or Net)(width)


# --- what a field reads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_an_optimiser_step_on_a_weight_of_a_closure(builds, gradient):
    weight = tensor([0.3, -1.0], [0.8, 0.1]).requires_grad_()
    optimizer = torch.optim.SGD([weight], 0.3)

    def field(t, y):
        return torch.tanh(y @ weight)

    check(field, weights=[weight], gradient=gradient, **ADAPTIVE)
    first = len(builds)
    for _ in range(3):
        (weight.grad,) = answers(field, start(), [weight], compiled=True, gradient=gradient, **ADAPTIVE)[2:]
        optimizer.step()
        check(field, weights=[weight], gradient=gradient, **ADAPTIVE)
    assert len(builds) == first > 0


def test_a_weight_that_is_replaced(builds):
    weights = [tensor([0.3, -1.0], [0.8, 0.1])]

    def field(t, y):
        return torch.tanh(y @ weights[0])

    check(field)
    weights[0] = weights[0].flip(0)
    check(field)


GLOBAL = tensor([0.3, -1.0], [0.8, 0.1])


def reads_a_global(t, y):
    return torch.tanh(y @ GLOBAL)


def test_a_global_that_is_replaced(builds, monkeypatch):
    check(reads_a_global)
    monkeypatch.setitem(globals(), "GLOBAL", GLOBAL.flip(0))
    check(reads_a_global)


def test_noise_redrawn_in_args(builds):
    def field(t, y, args):
        return args["noise"] * torch.cos(t) - args["rate"] * y

    for _ in range(3):
        check(field, args={"noise": torch.randn(6, 2, dtype=torch.float64), "rate": 0.7})
    assert len(builds) <= 4  # the start and the step, forward and backward: once


def test_numbers_in_args(builds):
    def field(t, y, args):
        return -args["rate"] * y

    for rate in (0.7, 1.9, 0.2):
        check(field, args={"rate": rate})


def test_attributes_of_a_module(builds):
    net = network()
    weights = list(net.parameters())
    check(net, weights=weights)
    net.scale = 1.7
    check(net, weights=weights)
    net.shift = tensor(-1.0, 0.4)
    check(net, weights=weights)
    net.plain = tensor(0.2, 2.0)
    check(net, weights=weights)
    with torch.no_grad():
        net.shift.mul_(3.0)
    check(net, weights=weights)
    net.net[1] = nn.Sigmoid()
    check(net, weights=weights)


def test_train_and_eval(builds):
    net = network()
    weights = list(net.parameters())
    for mode in (True, False, True):
        net.train(mode)
        check(net, weights=weights)


def test_a_frozen_weight(builds):
    net = network()
    check(net, weights=list(net.parameters()))
    net.net[0].weight.requires_grad_(False)
    check(net, weights=[p for p in net.parameters() if p.requires_grad])


# --- one graph for many solves --------------------------------------------------------------------------------------


def test_a_lambda_made_anew_each_time_is_compiled_once(builds):
    counts = []
    for k in range(4):
        weight = tensor(0.5 + k, 0.1).requires_grad_()
        check(lambda t, y, w=weight: -w * y, weights=[weight])
        counts.append(len(builds))
    assert counts[0] == counts[-1] > 0


def test_a_model_of_the_same_shape_shares_its_graphs(builds):
    counts, kind = [], None
    for seed in range(3):
        torch.manual_seed(seed)
        net = network(kind=kind)
        kind = type(net)
        check(net, weights=list(net.parameters()))
        counts.append(len(builds))
    assert counts[0] == counts[-1] > 0


def test_steps_and_outputs_do_not_compile_anew(builds):
    net = network()
    weights = list(net.parameters())
    check(net, weights=weights, **ADAPTIVE, t=torch.linspace(0.0, 1.0, 5).double())
    first = len(builds)
    for end, outputs, tol in ((1.0, 7, 1e-4), (3.0, 40, 1e-5), (-2.0, 3, 1e-3), (0.5, 4, 1e-2)):
        check(net, weights=weights, **(ADAPTIVE | {"rtol": tol}), t=torch.linspace(0.0, end, outputs).double())
    assert len(builds) == first > 0


def test_fixed_steps_of_any_length(builds):
    net = network()
    weights = list(net.parameters())
    check(net, weights=weights)
    first = len(builds)
    for dt in (0.1, 0.07, 0.5):
        check(net, weights=weights, dt=dt)
    assert len(builds) == first > 0


def test_a_smaller_last_batch(builds):
    net = network()
    weights = list(net.parameters())
    counts = []
    for batch in (6, 6, 4, 6, 4):
        check(net, start(batch), weights)
        counts.append(len(builds))
    assert counts[1] == counts[0]
    assert counts[4] == counts[2]


def test_another_dtype(builds):
    weight = tensor([0.3, -1.0], [0.8, 0.1])

    def field(t, y):
        return torch.tanh(y @ weight.to(y.dtype))

    check(field)
    check(field, start().float())
    check(field)


def test_twenty_models_stay_compiled(builds):
    """Of one class and twenty sizes; Dynamo by itself stays with eight and then falls silent."""
    kind = type(network())
    nets = [network(width, kind) for width in range(3, 23)]

    @torch.no_grad()
    def every():
        for net in nets:
            mine, truth = (pathline.solve(net, start(), T, method="euler", compile=on).ys for on in (True, False))
            torch.testing.assert_close(mine, truth, **ROUNDING[truth.dtype])
        return len(builds)

    assert every() >= 20
    first = len(builds)
    assert every() == first


# --- what cannot be compiled ----------------------------------------------------------------------------------------


def falls_back(field, match):
    """Once with its reason, then in silence; the answer is that of plain steps."""
    with pytest.warns(RuntimeWarning, match=match):
        check(field)
    check(field)


def test_a_branch_on_a_value_falls_back_once(builds):
    falls_back(lambda t, y: -y if y.sum() > 100.0 else 0.5 * y, "compile=True")
    assert not builds


def test_random_numbers_fall_back(builds):
    def field(t, y):
        return -y * torch.bernoulli(torch.ones_like(y))

    falls_back(field, "compile=True")


def test_a_field_that_counts_its_calls_falls_back(builds):
    calls = []

    def field(t, y):
        calls.append(1)
        return -y

    falls_back(field, "compile=True")
    assert len(calls) > 10


# --- through Inductor -----------------------------------------------------------------------------------------------


def test_an_optimiser_step_through_inductor():
    weight = tensor(0.7, -0.3).requires_grad_()

    def field(t, y, noise):
        return torch.tanh(weight * y) + noise

    torch._dynamo.utils.counters.clear()
    for _ in range(2):
        check(field, weights=[weight], args=torch.randn(6, 2, dtype=torch.float64))
        with torch.no_grad():
            weight -= 0.5
    assert not torch._dynamo.utils.counters["graph_break"]


def test_off_by_the_environment(monkeypatch):
    monkeypatch.setenv("PATHLINE_COMPILE", "0")
    torch._dynamo.utils.counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers(lambda t, y: -y, start(), [], compiled=True)
    assert not torch._dynamo.utils.counters["stats"]
