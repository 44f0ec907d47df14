"""What stands around a field: grad modes, autocast, layers that draw or keep statistics, arguments, the caller's data."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import nn

import pathline

MODES = ["backprop", "checkpointed", "adjoint"]
METHODS = ["tsit5", "rk4"]
T = torch.linspace(0.0, 1.0, 5)


# --- fields that differentiate inside ----------------------------------------------------------------------------


def energy_net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()


class Hamiltonian(nn.Module):
    """Asks for gradient by itself, or relies on what it is handed; builds a graph always, or when it is to be trained."""

    def __init__(self, *, asks, clones=False):
        super().__init__()
        self.energy, self.asks, self.clones = energy_net(), asks, clones

    def forward(self, t, y):
        with torch.enable_grad():
            if self.clones:
                y = y.clone()
            if self.asks:
                y.requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(y).sum(), y, create_graph=True)
        return torch.stack((slope[..., 1], -slope[..., 0]), -1)


class HamiltonianPlain(Hamiltonian):
    """No `enable_grad`, no `requires_grad_`: works only where the solver hands it a tensor with a graph."""

    def forward(self, t, y):
        (slope,) = torch.autograd.grad(self.energy(y).sum(), y, create_graph=True)
        return torch.stack((slope[..., 1], -slope[..., 0]), -1)


class HamiltonianFunc(Hamiltonian):
    """The same by torch.func."""

    def forward(self, t, y):
        slope = torch.func.grad(lambda y: self.energy(y).sum())(y)
        return torch.stack((slope[..., 1], -slope[..., 0]), -1)


FIELDS = {
    "asks": lambda: Hamiltonian(asks=True),
    "asks of a clone": lambda: Hamiltonian(asks=True, clones=True),
    "does not ask": lambda: Hamiltonian(asks=False),
    "plain": lambda: HamiltonianPlain(asks=False),
    "torch.func": lambda: HamiltonianFunc(asks=False),
}
START = torch.tensor([[0.4, -0.2], [1.0, 0.5], [-0.7, 0.1]], dtype=torch.float64)


def truth():
    """The same rollout by a field without autograd inside: the gradient of the net written out."""
    net = energy_net()
    first, second = net[0], net[2]

    def field(t, y):
        hidden = torch.tanh(first(y))
        slope = (second.weight * (1 - hidden**2)) @ first.weight
        return torch.stack((slope[..., 1], -slope[..., 0]), -1)

    return net, field


def rollout(field, y0, method, gradient="backprop"):
    options = {"rtol": 1e-9, "atol": 1e-11} if method == "tsit5" else {}
    return pathline.solve(field, y0, T.double(), method=method, gradient=gradient, **options).ys


@pytest.mark.parametrize("start_requires_grad", [False, True], ids=["data", "start requires grad"])
@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", FIELDS)
def test_a_field_that_differentiates_inside_trains(kind, method, gradient, start_requires_grad):
    field, (net, written_out) = FIELDS[kind](), truth()
    y0, y0_truth = (START.clone().requires_grad_(start_requires_grad) for _ in range(2))
    ys, ys_truth = rollout(field, y0, method, gradient), rollout(written_out, y0_truth, method)
    torch.testing.assert_close(ys, ys_truth, rtol=1e-9, atol=1e-10)
    ys[1:].square().sum().backward()
    ys_truth[1:].square().sum().backward()
    close = {"rtol": 1e-5, "atol": 1e-7} if gradient == "adjoint" else {"rtol": 1e-8, "atol": 1e-10}
    if gradient == "adjoint" and method == "rk4":
        close = {"rtol": 2e-2, "atol": 2e-3}  # of the continuous system, by four steps back
    for name, parameter in field.energy.named_parameters():
        other = net.get_parameter(name).grad
        if name == "2.bias":
            assert parameter.grad is None or not parameter.grad.any()
        else:
            torch.testing.assert_close(parameter.grad, other, **close)
    assert y0.requires_grad is start_requires_grad
    if start_requires_grad:
        torch.testing.assert_close(y0.grad, y0_truth.grad, **close)
    else:
        assert y0.grad is None
    assert torch.equal(y0.detach(), START)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", FIELDS)
def test_a_field_that_differentiates_inside_runs_without_gradients(kind, method, gradient, mode):
    field, y0 = FIELDS[kind](), START.clone()
    with mode():
        ys = rollout(field, y0, method, gradient)
        inside = rollout(field, START * 1.0, method, gradient)  # a start made inside the mode
    with torch.no_grad():
        expected = rollout(truth()[1], START, method)
    assert not ys.requires_grad
    assert not y0.requires_grad
    torch.testing.assert_close(ys.clone(), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(inside.clone(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_structured_field_that_differentiates_inside(mode):
    net = energy_net()

    def field(t, y):
        with torch.enable_grad():
            q, p = y["q"].requires_grad_(), y["p"].requires_grad_()
            dq, dp = torch.autograd.grad(net(torch.cat((q, p), -1)).sum(), (q, p))
        return {"q": dp, "p": -dq}

    with torch.no_grad():
        expected = rollout(truth()[1], START, "rk4")
    with mode():
        ys = pathline.solve(field, {"q": START[:, :1], "p": START[:, 1:]}, T.double(), method="rk4").ys
    torch.testing.assert_close(torch.cat((ys["q"], ys["p"]), -1).clone(), expected, rtol=1e-9, atol=1e-10)


def test_another_error_of_the_field_is_not_swallowed():
    def field(t, y):
        raise RuntimeError("out of cheese")

    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode(), pytest.raises(RuntimeError, match="out of cheese"):
            pathline.solve(field, torch.ones(2), (0.0, 1.0))


@pytest.mark.parametrize("method", METHODS)
def test_no_grad_is_remembered_for_the_solve(method):
    """One evaluation is made twice, not every one."""
    field = Hamiltonian(asks=False)
    calls = []
    field.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        solution = pathline.solve(HamiltonianCounted(field), START, T.double(), method=method)
    assert solution.stats.evaluations >= 8
    assert len(field.tries) == solution.stats.evaluations + 1


class HamiltonianCounted(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        inner.tries = []

    def forward(self, t, y):
        self.inner.tries.append(1)
        return self.inner(t, y)


# --- the caller's data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("save", [pathline.Save(), pathline.Save(dense=True), pathline.Save(steps=True)], ids=str)
def test_nothing_of_the_callers_is_touched(save, method, gradient):
    y0, t, args = torch.rand(3, 2), T.clone(), {"scale": torch.tensor(2.0)}
    before = y0.clone(), t.clone(), args["scale"].clone()
    versions = y0._version, t._version, args["scale"]._version

    def field(t, y, args):
        y.requires_grad_()
        return -args["scale"] * y

    solution = pathline.solve(field, y0, t, method=method, gradient=gradient, save=save, args=args)
    assert (y0._version, t._version, args["scale"]._version) == versions
    assert torch.equal(y0, before[0])
    assert torch.equal(t, before[1])
    assert not y0.requires_grad
    assert not t.requires_grad
    assert not args["scale"].requires_grad
    with torch.no_grad():
        solution.ys.mul_(0.0)
    assert torch.equal(y0, before[0]), "the first row shares memory with the start"


@pytest.mark.parametrize("gradient", MODES)
def test_a_zero_length_solve_does_not_hand_back_the_callers_tensor(gradient):
    y0 = torch.ones(3)
    solution = pathline.solve(lambda t, y: -y, y0, torch.tensor([1.0]), gradient=gradient)
    solution.ys.mul_(2.0)
    solution.y1.mul_(3.0)
    assert torch.equal(y0, torch.ones(3))


@pytest.mark.parametrize("gradient", MODES)
def test_a_field_that_changes_its_input_in_place_does_not_reach_the_caller(gradient):
    """The first stage is handed the start itself or a view of it."""
    y0 = torch.ones(3)

    def field(t, y):
        with torch.no_grad():
            return y.mul_(-1.0).clone()

    pathline.solve(field, y0, torch.tensor([0.0, 0.1]), method="euler", gradient=gradient)
    assert torch.equal(y0, torch.ones(3))


@pytest.mark.parametrize("gradient", MODES)
def test_a_field_may_hand_back_its_input_or_a_stored_tensor(gradient):
    stored = torch.ones(2, dtype=torch.float64)
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    for field, truth in ((lambda t, y: y, 2.718281828459045), (lambda t, y: stored, 2.0)):
        y1 = pathline.solve(field, y0, (0.0, 1.0), gradient=gradient, rtol=1e-9, atol=1e-11).y1
        assert y1.tolist() == pytest.approx([truth] * 2, rel=1e-7)
        y1.sum().backward()
    assert torch.equal(stored, torch.ones(2, dtype=torch.float64))
    assert stored.grad_fn is None
    assert y0.grad.tolist() == pytest.approx([3.718281828459045] * 2, rel=1e-6)


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_every_tensor_of_args(method, gradient):
    args = {
        "pair": (torch.tensor(0.5), [torch.tensor([1.0, 2.0])]),
        "flag": "kept as it is",
        "number": 3,
        "none": None,
        "integers": torch.tensor([1, 2]),
    }
    args["pair"][0].requires_grad_()
    args["pair"][1][0].requires_grad_()

    def field(t, y, args):
        assert args["flag"] == "kept as it is"
        assert args["none"] is None
        a, (b,) = args["pair"]
        return a * args["number"] * b * args["integers"] * torch.ones_like(y)

    ys = pathline.solve(field, torch.zeros(2), T, method=method, args=args, gradient=gradient).ys
    found = torch.autograd.grad(ys[-1].sum() + ys[2].sum(), (args["pair"][0], args["pair"][1][0]))
    torch.testing.assert_close(found[0], torch.tensor(1.5 * 3 * 5.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], torch.tensor([1.5 * 1.5, 1.5 * 3.0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gradient", MODES)
def test_args_that_are_no_containers_arrive_as_they_are(gradient):
    class Context:
        def __init__(self):
            self.rate = torch.tensor(-2.0, requires_grad=True)

    context = Context()
    seen = []

    def field(t, y, args):
        seen.append(args)
        return args.rate * y

    y1 = pathline.solve(field, torch.ones(2), (0.0, 1.0), args=context, gradient=gradient, rtol=1e-6, atol=1e-8).y1
    y1.sum().backward()
    assert all(a is context for a in seen)
    assert context.rate.grad.item() == pytest.approx(2 * 0.1353352832, rel=1e-3)


# --- autocast ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_autocast(method, gradient):
    """Inside, the rate comes in bfloat16 and is cast; the state stays as wide as it was; backward casts alike."""
    net, y0 = nn.Linear(2, 2), torch.rand(3, 2, requires_grad=True)
    seen = []

    def field(t, y):
        dy = net(y)
        seen.append((y.dtype, dy.dtype, t.dtype))
        return dy

    options = {"rtol": 1e-2, "atol": 1e-2} if method == "tsit5" else {}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ys = pathline.solve(field, y0, T, method=method, gradient=gradient, **options).ys
    assert ys.dtype == torch.float32
    ys.square().mean().backward()  # outside of autocast
    assert set(seen) == {(torch.float32, torch.bfloat16, torch.float32)}
    wide = pathline.solve(net, y0.detach(), T, rtol=1e-6, atol=1e-6).ys
    torch.testing.assert_close(ys, wide, rtol=3e-2, atol=3e-2)
    assert net.weight.grad.dtype == torch.float32
    assert torch.isfinite(net.weight.grad).all()
    assert y0.grad.abs().max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_checkpointed_under_autocast_is_backprop(method):
    grads = []
    for gradient in ("backprop", "checkpointed"):
        torch.manual_seed(0)
        net, y0 = nn.Linear(2, 2), torch.rand(3, 2)
        options = {"rtol": 1e-2, "atol": 1e-2} if method == "tsit5" else {}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = pathline.solve(net, y0, T, method=method, gradient=gradient, **options).ys.square().mean()
        loss.backward()
        grads.append(net.weight.grad)
    torch.testing.assert_close(*grads, rtol=1e-2, atol=1e-3)


def test_a_narrow_rate_outside_of_autocast_is_refused():
    with pytest.raises(TypeError, match=r"`f` returned torch\.bfloat16 for a state of torch\.float32"):
        pathline.solve(lambda t, y: -y.bfloat16(), torch.ones(2), T)


def test_autocast_switched_off_in_the_field():
    net = nn.Linear(2, 2)

    def field(t, y):
        with torch.autocast("cpu", enabled=False):
            return net(y)

    y0 = torch.rand(3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pathline.solve(field, y0, T).ys
    assert torch.equal(inside, pathline.solve(net, y0, T).ys)


# --- layers that keep statistics ---------------------------------------------------------------------------------


class Holder:
    """A plain object with a module."""

    def __init__(self, net):
        self.net = net

    def rate(self, t, y):
        return self.net(y)

    def __call__(self, t, y):
        return self.net(y)


GLOBAL_NET = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
GLOBAL_DROPOUT = nn.Dropout(0.5)


def field_of_a_global(t, y):
    return GLOBAL_NET(y)


def ways_to_hold(net):
    def closure(t, y):
        return net(y)

    def helper(y):
        return net(y)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net

        def forward(self, t, y):
            return self.inner(y)

    nets = [net]
    return {
        "module": net,
        "submodule": Outer(),
        "closure": closure,
        "closure of a closure": lambda t, y: helper(y),
        "list in a closure": lambda t, y: nets[0](y),
        "bound method": Holder(net).rate,
        "callable object": Holder(net),
        "partial": functools.partial(lambda net, t, y: net(y), net),
        "partial with a keyword": functools.partial(lambda t, y, net: net(y), net=net),
    }


HELD = list(ways_to_hold(nn.Identity()))
BATCHNORM = r"The field holds BatchNorm1d in train mode: .* Use torch\.nn\.GroupNorm, or call field\.eval\(\)"


@pytest.mark.parametrize("held", HELD)
def test_batch_normalisation_in_train_mode_is_refused(held):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    mean = net[1].running_mean.clone()
    with pytest.raises(ValueError, match=BATCHNORM):
        pathline.solve(ways_to_hold(net)[held], torch.rand(4, 2), T, method="rk4")
    assert torch.equal(net[1].running_mean, mean)


def test_batch_normalisation_in_a_global():
    with pytest.raises(ValueError, match=BATCHNORM):
        pathline.solve(field_of_a_global, torch.rand(4, 2), T, method="rk4")


def test_batch_normalisation_in_args():
    with pytest.raises(ValueError, match=BATCHNORM):
        pathline.solve(lambda t, y, args: args["net"](y), torch.rand(4, 2), T, args={"net": nn.BatchNorm1d(2)})


@pytest.mark.parametrize("held", HELD)
def test_batch_normalisation_in_eval_mode_passes(held):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    assert pathline.solve(ways_to_hold(net)[held], torch.rand(4, 2), T, method="rk4").status


def test_normalisation_without_running_statistics_passes():
    for layer in (nn.GroupNorm(1, 2), nn.LayerNorm(2)):
        assert pathline.solve(nn.Sequential(nn.Linear(2, 2), layer), torch.rand(4, 2), T, method="rk4").status


# --- layers that draw --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", HELD)
def test_dropout_in_train_mode_warns_once(held):
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    field = ways_to_hold(net)[held]
    with pytest.warns(UserWarning, match=r"The field holds Dropout in train mode: every stage .* sees another field"):
        pathline.solve(field, torch.rand(4, 2), T, method="rk4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pathline.solve(field, torch.rand(4, 2), T, method="rk4")


def test_the_warning_points_to_the_callers_line():
    with pytest.warns(UserWarning, match="Dropout") as caught:
        pathline.solve(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), torch.rand(4, 2), T, method="rk4")
    assert caught[0].filename == __file__


def test_dropout_that_does_nothing_does_not_warn():
    y0 = torch.rand(4, 2)
    pathline.solve(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval(), y0, T, method="rk4")
    pathline.solve(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)), y0, T, method="rk4")


@pytest.mark.filterwarnings("ignore:The field holds Dropout")
@pytest.mark.parametrize("save", [pathline.Save(), pathline.Save(dense=True)], ids=["rows", "dense"])
@pytest.mark.parametrize("method", ["euler", "heun", "rk4", "tsit5", "dopri8"])
def test_checkpointed_sees_the_masks_of_the_forward_pass(method, save):
    """With the noise of the forward pass the gradient is that of finite differences under the same seed."""
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 2)).double()
    y0 = torch.rand(4, 2, dtype=torch.float64)
    t = torch.tensor([0.0, 0.35, 0.7, 1.0], dtype=torch.float64)
    controller = pathline.Grid([0.0, 0.4, 0.8, 1.0])

    def loss():
        torch.manual_seed(11)
        options = {"method": method, "gradient": "checkpointed", "controller": controller, "save": save}
        solution = pathline.solve(net, y0, t, **options)
        after = torch.rand(())
        total = solution.ys.square().sum() + (solution(0.61).sum() if save.dense else 0.0)
        return total, after

    value, after = loss()
    stream = torch.get_rng_state()
    value.backward()
    assert torch.equal(torch.get_rng_state(), stream), "the backward pass moved the caller's random stream"
    for parameter in net.parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        ends = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * 1e-6)
            ends.append(loss())
            with torch.no_grad():
                parameter.add_(direction, alpha=-sign * 1e-6)
        assert ends[0][1] == ends[1][1] == after
        slope = (ends[0][0] - ends[1][0]).item() / 2e-6
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("method", ["rk4", "tsit5"])
def test_checkpointed_restores_noise_drawn_without_a_layer(method):
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    drawn = []

    def field(t, y):
        noise = torch.rand_like(y)
        drawn.append(noise)
        return scale * noise * y

    y0 = torch.ones(3, dtype=torch.float64)
    controller = pathline.FixedStep(0.25)
    y1 = pathline.solve(field, y0, (0.0, 1.0), method=method, gradient="checkpointed", controller=controller).y1
    forward = list(drawn)
    y1.sum().backward()
    again = drawn[len(forward) :]
    assert again
    assert all(any(torch.equal(a, b) for b in forward) for a in again)
