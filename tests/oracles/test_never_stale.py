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
from pathline.compiled.capture import COUNTS

T = torch.linspace(0.0, 1.0, 4, dtype=torch.float64)


class Built:
    """How often a field was traced and a program compiled."""

    def __len__(self):
        return sum(COUNTS.values())


@pytest.fixture
def built(monkeypatch):
    """What was built so far. Graphs are interpreted, and none of them is broken."""

    def interpreted(module, mode, options, *, backward=False):
        return lambda tensors: module(*tensors)

    monkeypatch.setattr(kernels, "_inductor", interpreted)
    counters = torch._dynamo.utils.counters
    counters.clear()
    yield Built()
    assert not counters["graph_break"]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


ROUNDING = {torch.float64: {"rtol": 1e-9, "atol": 1e-11}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


def start(batch=6):
    return torch.linspace(-1.0, 1.0, 2 * batch, dtype=torch.float64).reshape(batch, 2)


#: Steps of two stages that choose nothing; a few tests take adaptive ones.
FIXED = {"method": "midpoint", "dt": 0.25}
ADAPTIVE = {"method": "bosh3", "rtol": 1e-4, "atol": 1e-4}


def answers(field, y0, weights, *, compiled, plain=False, args=None, t=T, **options):
    """The rows, and gradients of the start and of the weights."""
    y0 = y0.clone().requires_grad_()
    options = options if "method" in options else FIXED | options
    solution = pathline.solve(field, y0, t, args=args, **options, compile=compiled)
    assert solution.stats.compiled == (compiled and not plain)
    ys = solution.ys
    return ys.detach(), *torch.autograd.grad(ys.square().sum(), (y0, *weights))


def check(field, y0=None, weights=(), **options):
    """Compiled and plain answers are one, to rounding. With ``plain`` the field cannot be compiled."""
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
def test_an_optimiser_step_on_a_weight_of_a_closure(built, gradient):
    weight = tensor([0.3, -1.0], [0.8, 0.1]).requires_grad_()
    optimizer = torch.optim.SGD([weight], 0.3)

    def field(t, y):
        return torch.tanh(y @ weight)

    check(field, weights=[weight], gradient=gradient, **ADAPTIVE)
    first = len(built)
    for _ in range(3):
        (weight.grad,) = answers(field, start(), [weight], compiled=True, gradient=gradient, **ADAPTIVE)[2:]
        optimizer.step()
        check(field, weights=[weight], gradient=gradient, **ADAPTIVE)
    assert len(built) == first


def test_a_weight_that_is_replaced(built):
    weights = [tensor([0.3, -1.0], [0.8, 0.1])]

    def field(t, y):
        return torch.tanh(y @ weights[0])

    check(field)
    weights[0] = weights[0].flip(0)
    check(field)


GLOBAL = tensor([0.3, -1.0], [0.8, 0.1])


def reads_a_global(t, y):
    return torch.tanh(y @ GLOBAL)


def test_a_global_that_is_replaced(built, monkeypatch):
    check(reads_a_global)
    monkeypatch.setitem(globals(), "GLOBAL", GLOBAL.flip(0))
    check(reads_a_global)


def test_noise_redrawn_in_args(built):
    def field(t, y, args):
        return args["noise"] * torch.cos(t) - args["rate"] * y

    counts = []
    for _ in range(3):
        check(field, args={"noise": torch.randn(6, 2, dtype=torch.float64), "rate": 0.7})
        counts.append(len(built))
    assert counts[0] == counts[-1]


def test_numbers_in_args(built):
    def field(t, y, args):
        return -args["rate"] * y

    for rate in (0.7, 1.9, 0.2):
        check(field, args={"rate": rate})


def test_attributes_of_a_module(built):
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


def test_train_and_eval(built):
    net = network()
    weights = list(net.parameters())
    for mode in (True, False, True):
        net.train(mode)
        check(net, weights=weights)


def test_a_frozen_weight(built):
    net = network()
    check(net, weights=list(net.parameters()))
    net.net[0].weight.requires_grad_(False)
    check(net, weights=[p for p in net.parameters() if p.requires_grad])


# --- one graph for many solves --------------------------------------------------------------------------------------


def test_a_lambda_made_anew_each_time_is_compiled_once(built):
    counts = []
    for k in range(4):
        weight = tensor(0.5 + k, 0.1).requires_grad_()
        check(lambda t, y, w=weight: -w * y, weights=[weight])
        counts.append(len(built))
    assert counts[0] == counts[-1]


def test_a_model_of_the_same_shape_shares_its_graphs(built):
    counts, kind = [], None
    for seed in range(3):
        torch.manual_seed(seed)
        net = network(kind=kind)
        kind = type(net)
        check(net, weights=list(net.parameters()))
        counts.append(len(built))
    assert counts[0] == counts[-1]


def test_steps_and_outputs_do_not_compile_anew(built):
    net = network()
    weights = list(net.parameters())
    check(net, weights=weights, **ADAPTIVE, t=torch.linspace(0.0, 1.0, 5).double())
    first = len(built)
    for end, outputs, tol in ((1.0, 7, 1e-4), (3.0, 40, 1e-5), (-2.0, 3, 1e-3), (0.5, 4, 1e-2)):
        check(net, weights=weights, **(ADAPTIVE | {"rtol": tol}), t=torch.linspace(0.0, end, outputs).double())
    assert len(built) == first


def test_fixed_steps_of_any_length(built):
    net = network()
    weights = list(net.parameters())
    check(net, weights=weights)
    first = len(built)
    for dt in (0.1, 0.07, 0.5):
        check(net, weights=weights, dt=dt)
    assert len(built) == first


def test_a_smaller_last_batch(built):
    """Two sizes have graphs of their own at most; the third makes the size of a batch a variable."""
    net = network()
    weights = list(net.parameters())
    counts = []
    for batch in (6, 6, 4, 6, 4, 3, 5, 7, 6):
        check(net, start(batch), weights)
        counts.append(COUNTS["programs"])
    assert counts[1] == counts[0]
    assert counts[4] == counts[2]
    assert counts[-1] == counts[5]


def test_another_dtype(built):
    weight = tensor([0.3, -1.0], [0.8, 0.1])

    def field(t, y):
        return torch.tanh(y @ weight.to(y.dtype))

    check(field)
    check(field, start().float())
    check(field)


def test_twenty_models_stay_compiled(built):
    """Of one class and twenty sizes; Dynamo by itself stays with eight and then falls silent."""
    kind = type(network())
    nets = [network(width, kind) for width in range(3, 23)]

    @torch.no_grad()
    def every():
        for net in nets:
            mine, truth = (pathline.solve(net, start(), T, method="euler", compile=on).ys for on in (True, False))
            torch.testing.assert_close(mine, truth, **ROUNDING[truth.dtype])
        return len(built)

    before = len(built)
    first = every()
    assert first >= before + 40
    assert every() == first


# --- what cannot be compiled ----------------------------------------------------------------------------------------


def falls_back(field, match):
    """Once with its reason, then in silence; the answer is that of plain steps."""
    with pytest.warns(RuntimeWarning, match=match):
        check(field, plain=True)
    check(field, plain=True)


def test_a_branch_on_a_value_falls_back_once(built):
    programs = COUNTS["programs"]
    falls_back(lambda t, y: -y if y.sum() > 100.0 else 0.5 * y, "compile=True")
    assert COUNTS["programs"] == programs


def test_random_numbers_fall_back(built):
    def field(t, y):
        return -y * torch.bernoulli(torch.ones_like(y))

    falls_back(field, "compile=True")


def test_a_field_that_counts_its_calls_falls_back(built):
    calls = []

    def field(t, y):
        calls.append(1)
        return -y

    falls_back(field, "compile=True")
    assert len(calls) > 10


# --- through Inductor -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # with nothing in the compiler's cache
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
        answers(lambda t, y: -y, start(), [], compiled=True, plain=True)
    assert not torch._dynamo.utils.counters["stats"]
