"""Gradients in little memory: states made again or undone are those of the forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pathline
from pathline import Checkpointed
from pathline.testing import finite_difference, relative_error

SCHEDULES = [
    Checkpointed(1),
    Checkpointed(3),
    Checkpointed("logarithmic", states=2),
    Checkpointed("logarithmic", memory=2000),
]
NAMES = ["every", "every 3rd", "two states", "2000 bytes"]
METHODS = {
    "tsit5": {"rtol": 1e-6, "atol": 1e-7},
    "bosh3": {"rtol": 1e-4, "atol": 1e-5},
    "radau5": {"rtol": 1e-5, "atol": 1e-6},
    "rk4": {"dt": 0.09},
    "reversible_heun": {"rtol": 1e-3, "atol": 1e-3},
}
REVERSIBLE = {
    "reversible_heun": {"rtol": 1e-3, "atol": 1e-3},
    "alf": {"rtol": 1e-3, "atol": 1e-3},
    "reversible rk4": {"dt": 0.09},
    "reversible tsit5": {"rtol": 1e-5, "atol": 1e-6},
    "leapfrog": {"dt": 0.09},
    "yoshida6": {"dt": 0.15},
    "symplectic_euler": {"dt": 0.09},
}
TIMES = torch.tensor([0.2, 0.5, 0.5, 1.1, 1.7], dtype=torch.float64)


class Net(nn.Module):
    """A field with a kick and a drift, so that all methods can have it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        self.scale = nn.Parameter(torch.tensor([1.4], dtype=torch.float64))

    def forward(self, t, y):
        return self.net(torch.cat((y, pathline.time_like(t, y)), -1)) * 2.0 - 0.2 * y

    def kick(self, t, q):
        return -torch.sin(self.scale * q) * torch.cos(2.0 * t)

    def drift(self, t, p):
        return torch.tanh(p) + 0.1 * self.scale


def found(method):
    return pathline.Reversible(method.split()[1]) if " " in method else method


def start():
    return torch.tensor([[0.7, -0.4], [-1.2, 0.3], [0.1, 0.9]], dtype=torch.float64)


def loss(ys):
    return (ys.sin() * torch.arange(1, 1 + len(ys), dtype=ys.dtype).reshape(-1, 1, 1)).sum()


def gradients(gradient, *, field=None, clock="shared", times=TIMES, moving=True, measure=loss, **options):
    field, y0 = field or Net(), start().requires_grad_()
    t = times.clone().requires_grad_(moving)
    solution = pathline.solve(field, y0, t, gradient=gradient, clock=clock, **options)
    wanted = [y0, *field.parameters(), *([t] if moving else [])]
    answers = torch.autograd.grad(measure(solution.ys), wanted, allow_unused=True)
    return solution, [x for x in answers if x is not None]


def agree(ours, theirs, bound=1e-12):
    assert len(ours) == len(theirs)
    for mine, exact in zip(ours, theirs, strict=True):
        assert relative_error(mine, exact) <= bound


# --- states made again -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("method", METHODS)
def test_schedules_give_the_gradient_of_all_states(method, clock):
    options = {"method": method, "clock": clock, **METHODS[method]}
    plain, exact = gradients("checkpointed", **options)
    for schedule in SCHEDULES:
        solution, ours = gradients(schedule, **options)
        assert torch.equal(solution.ys, plain.ys)
        agree(ours, exact)
    assert plain.stats.accepted > 4


@pytest.mark.parametrize("method", ["tsit5", "rk4", "bosh3"])
def test_explicit_steps_are_made_again_to_the_last_bit(method):
    options = {"method": method, **METHODS[method]}
    _, exact = gradients("checkpointed", **options)
    for schedule in SCHEDULES:
        for mine, theirs in zip(gradients(schedule, **options)[1], exact, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize(("method", "growing"), [("bdf", True), ("explicit_adams", True), ("kvaerno5", False)])
def test_histories_and_other_carries(method, growing, clock):
    """What a method carries from step to step may grow, and hold whole numbers."""
    options = {"dt": 0.09} if method == "explicit_adams" else {"rtol": 1e-4, "atol": 1e-5}
    options |= {"method": method, "clock": clock, "moving": False}
    _, exact = gradients("backprop", **options)
    for schedule in ("checkpointed", *SCHEDULES[1:3]):
        agree(gradients(schedule, **options)[1], exact, 1e-9 if method == "bdf" else 1e-11)


def sudden(t, y, rate):
    return rate * y.flip(-1) * (1.0 + 8.0 * torch.sigmoid(60.0 * (t - 0.8))) * torch.tensor([1.0, -1.0]).double()


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize(
    ("gradient", "method"),
    [(SCHEDULES[1], "bosh3"), (SCHEDULES[2], "bosh3"), (SCHEDULES[2], "alf"), ("reversible", "alf")],
    ids=str,
)
def test_rejected_steps_and_samples_with_times_of_their_own(gradient, method, clock):
    times = TIMES if clock == "shared" else torch.stack([TIMES, TIMES.flip(0), 0.9 * TIMES], dim=1)
    answers = []
    for kind in ("backprop", gradient):
        y0, rate, t = start().requires_grad_(), torch.tensor(1.3).double().requires_grad_(), times.clone()
        t.requires_grad_()
        options = {"rtol": 1e-3, "atol": 1e-3, "method": method, "clock": clock}
        solution = pathline.solve(sudden, y0, t, args=rate, gradient=kind, **options)
        stats = solution.stats
        assert stats.rejected > 0 if clock == "shared" else bool((stats.rows.rejected > 0).all())
        answers.append(torch.autograd.grad(loss(solution.ys), (y0, rate, t)))
    agree(*answers[::-1], 1e-10)


@pytest.mark.parametrize("schedule", [Checkpointed(4), Checkpointed("logarithmic", states=3)], ids=["4th", "three"])
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_schedules_against_differences_that_replay_the_steps(method, schedule):
    field, y0 = Net(), start().requires_grad_()
    solution = pathline.solve(field, y0, TIMES, method=method, gradient=schedule, **METHODS[method])
    loss(solution.ys).backward()
    save = pathline.Save(steps=True)
    steps = pathline.solve(field, y0.detach(), TIMES, method=method, save=save, **METHODS[method]).ts

    def replay(y0):
        return loss(pathline.solve(field, y0, TIMES, method=method, controller=pathline.Grid(steps)).ys)

    assert relative_error(y0.grad, finite_difference(replay, y0)) <= 1e-7
    weight = field.net[2].bias

    def of_weight(value):
        old = weight.detach().clone()
        weight.copy_(value)
        result = replay(y0)
        weight.copy_(old)
        return result

    assert relative_error(weight.grad, finite_difference(of_weight, weight)) <= 1e-7


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("gradient", [*SCHEDULES[1:3], "reversible"], ids=[*NAMES[1:3], "reversible"])
def test_dense_output_and_every_step(gradient, clock):
    options = {"method": "reversible_heun", **METHODS["reversible_heun"], "clock": clock}
    when = torch.tensor([0.31, 0.77, 1.66], dtype=torch.float64)
    answers = []
    for kind in ("backprop", gradient):
        field, y0, s = Net(), start().requires_grad_(), when.clone().requires_grad_()
        curve = pathline.solve(field, y0, (0.2, 1.7), save=pathline.Save(dense=True), gradient=kind, **options)
        ends = pathline.solve(field, y0, (0.2, 1.7), save=pathline.Save(steps=True), gradient=kind, **options).ys
        parts = [curve(s).square().sum(), curve.derivative(s).sin().sum(), ends.square().sum()]
        answers.append(torch.autograd.grad(sum(parts), (y0, s, *field.net.parameters())))
    agree(*answers[::-1])


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("gradient", [*SCHEDULES[1:3], "reversible"], ids=[*NAMES[1:3], "reversible"])
def test_events(gradient, clock):
    """A ball that bounces, and a kick at a given time."""
    options = {"method": "reversible_heun", "rtol": 1e-3, "atol": 1e-3, "clock": clock}

    def fall(t, y, g):
        return torch.stack([y[..., 1], -g - 0.01 * y[..., 1] ** 2], dim=-1)

    def rebound(t, y, g):
        return torch.stack([y[..., 0].abs(), -0.8 * y[..., 1]], dim=-1)

    answers = []
    for kind in ("backprop", gradient):
        height = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
        g = torch.tensor(9.8, dtype=torch.float64, requires_grad=True)
        events = {
            "floor": pathline.Event(lambda t, y: y[0] if clock == "shared" else y[..., 0], reset=rebound),
            "kick": pathline.Event(at=[0.9], reset=lambda t, y, g: y + 0.1),
        }
        y0 = height if clock == "shared" else height[None]
        solution = pathline.solve(fall, y0, (0.0, 1.3), args=g, events=events, gradient=kind, **options)
        answers.append(torch.autograd.grad(solution.y1.square().sum() + solution.ys.sum(), (height, g)))
    agree(*answers[::-1], 1e-9)


@pytest.mark.parametrize("gradient", [SCHEDULES[2], "reversible"], ids=["schedule", "reversible"])
def test_dict_states_and_values_of_them(gradient):
    answers = []
    for kind in ("backprop", gradient):
        p, q = (start()[0, i].clone().requires_grad_() for i in (0, 1))
        save = pathline.Save(fn=lambda t, y: {"sum": y["p"] + t * y["q"], "energy": y["p"] ** 2 + y["q"] ** 2})
        ys = pathline.solve(
            lambda t, y: {"p": torch.sin(y["q"]), "q": -y["p"]},
            {"p": p, "q": q},
            TIMES,
            save=save,
            gradient=kind,
            method="alf",
            rtol=1e-4,
            atol=1e-5,
        ).ys
        answers.append(torch.autograd.grad(ys["sum"].sin().sum() + ys["energy"][2], (p, q)))
    agree(*answers[::-1])


class Noisy(nn.Module):
    """Draws new noise at every evaluation; the state of the generator, 5 kB, is part of each state that is kept."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, t, y):
        return self.scale * torch.sin(y + 0.05 * torch.randn_like(y)) * (1.0 + 4.0 * torch.sigmoid(60.0 * (t - 0.8)))


@pytest.mark.parametrize(
    "schedule", [*SCHEDULES[:3], Checkpointed("logarithmic", memory=11_000)], ids=[*NAMES[:3], "11 kB"]
)
@pytest.mark.parametrize("options", [{"method": "rk4", "dt": 0.09}, {"method": "bosh3", "rtol": 1e-2, "atol": 1e-2}])
def test_random_fields_see_the_same_numbers(options, schedule):
    answers, after = [], []
    for gradient in ("checkpointed", schedule):
        torch.manual_seed(5)
        solution, grads = gradients(gradient, field=Noisy(), moving=False, **options)
        answers.append(grads)
        after.append(torch.rand(1))
    assert torch.equal(*after)
    assert solution.stats.accepted > 4
    for mine, exact in zip(*answers, strict=True):
        assert torch.equal(mine, exact)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("gradient", [SCHEDULES[2], "reversible"], ids=["schedule", "reversible"])
def test_second_derivatives(gradient, clock):
    answers = []
    for kind in ("backprop", gradient):
        field, y0, t = Net(), start().requires_grad_(), TIMES.clone().requires_grad_()
        solution = pathline.solve(
            field, y0, t, gradient=kind, method="reversible_heun", clock=clock, controller=pathline.FixedStep(0.17)
        )
        inputs = (y0, t, field.net[0].weight)
        first = torch.autograd.grad(loss(solution.ys), inputs, create_graph=True)
        answers.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    agree(*answers[::-1], 1e-10)


@pytest.mark.parametrize("gradient", [SCHEDULES[2], "reversible"], ids=["schedule", "reversible"])
def test_transforms(gradient):
    def value(y0, kind):
        return loss(
            pathline.solve(
                lambda t, y: torch.sin(y * t) + y.flip(-1), y0, TIMES, gradient=kind, method="alf", rtol=1e-3, atol=1e-3
            ).ys
        )

    grad = torch.func.grad(value)
    agree([grad(start(), gradient)], [grad(start(), "backprop")])
    twice = torch.func.grad(lambda y0, kind: grad(y0, kind).square().sum())
    agree([twice(start(), gradient)], [twice(start(), "backprop")])


@pytest.mark.parametrize("gradient", [*SCHEDULES[1:3], "reversible"], ids=[*NAMES[1:3], "reversible"])
def test_a_second_backward_pass(gradient):
    """The states that were kept are given up by the first one."""
    field, y0 = Net(), start().requires_grad_()
    ys = pathline.solve(field, y0, TIMES, gradient=gradient, method="alf", rtol=1e-3, atol=1e-3).ys
    first = torch.autograd.grad(loss(ys), (y0, field.net[0].weight), retain_graph=True)
    second = torch.autograd.grad(loss(ys), (y0, field.net[0].weight))
    agree(second, first)


@pytest.mark.parametrize("gradient", [SCHEDULES[1], SCHEDULES[2], "reversible"], ids=[*NAMES[1:3], "reversible"])
def test_jumps(gradient):
    """Next to a jump of the field steps see their own side, and methods start afresh."""

    def field(t, y, rate):
        return rate * y.flip(-1) * torch.where(t < 0.71, 1.0, -2.0)

    answers = []
    for kind in ("backprop", gradient):
        y0, rate = start().requires_grad_(), torch.tensor(0.8).double().requires_grad_()
        options = {"method": "reversible_heun", "rtol": 1e-3, "atol": 1e-3, "controller": pathline.PID(jumps=[0.71])}
        ys = pathline.solve(field, y0, TIMES, args=rate, gradient=kind, **options).ys
        answers.append(torch.autograd.grad(loss(ys), (y0, rate)))
    agree(*answers[::-1])


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_solve_that_fails_is_differentiated_as_far_as_it_came(clock):
    answers = []
    for gradient in ("backprop", *SCHEDULES[1:3], "reversible"):
        y0 = start().requires_grad_()
        options = {"method": "alf", "rtol": 1e-5, "max_steps": 40, "on_failure": "return", "clock": clock}
        solution = pathline.solve(Net(), y0, TIMES, gradient=gradient, **options)
        assert not solution.status
        answers.append(torch.autograd.grad(solution.y1.sin().sum() + loss(solution.ys), y0))
    for ours in answers[1:]:
        agree(ours, answers[0])


@pytest.mark.parametrize("gradient", [*SCHEDULES[1:3], "reversible"], ids=[*NAMES[1:3], "reversible"])
def test_a_solve_that_fails_at_once(gradient):
    y0 = start().requires_grad_()
    solution = pathline.solve(lambda t, y: y / 0.0, y0, TIMES, method="alf", gradient=gradient, on_failure="return")
    assert not solution.status
    (found,) = torch.autograd.grad(solution.y1.sum(), y0)
    assert torch.equal(found, torch.ones_like(y0))


def test_counts_of_the_backward_pass():
    """Steps that are differentiated, steps made again, and the evaluations of both."""
    for gradient, remade in (("checkpointed", 0), (Checkpointed(5), 80), (Checkpointed("logarithmic", states=9), 134)):
        y0 = torch.ones(2, requires_grad=True)
        solution = pathline.solve(torch.sin, y0, (0.0, 1.0), method="rk4", dt=0.01, gradient=gradient)
        before = solution.stats.evaluations
        solution.y1.sum().backward()
        stats = solution.stats
        assert (stats.evaluations, stats.backward_steps, stats.backward_accepted) == (before, 100, 100)
        assert stats.backward_evaluations == 4 * (stats.backward_steps + stats.backward_remade)
        assert stats.backward_remade == remade
    solution = pathline.solve(
        torch.sin, y0, (0.0, 1.0), method="alf", controller=pathline.FixedStep(0.01), gradient="reversible"
    )
    solution.y1.sum().backward()
    assert (solution.stats.backward_steps, solution.stats.backward_remade) == (100, 99)


# --- states undone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("states", [1, 16])
@pytest.mark.parametrize("method", REVERSIBLE)
def test_reversible_methods_are_undone(method, states, clock):
    options = {"method": found(method), "clock": clock, **REVERSIBLE[method]}
    _, exact = gradients("backprop", **options)
    solution, ours = gradients(pathline.Reconstructed(states=states), **options)
    agree(ours, exact, 1e-10)
    assert solution.stats.backward_remade == solution.stats.accepted - 1


@pytest.mark.parametrize("method", ["reversible_heun", "alf", "reversible tsit5"])
def test_undone_steps_against_differences_that_replay_them(method):
    method, options = found(method), REVERSIBLE[method]
    y0 = start().requires_grad_()
    field = Net()
    solution = pathline.solve(field, y0, TIMES, method=method, gradient="reversible", **options)
    loss(solution.ys).backward()
    steps = pathline.solve(field, y0.detach(), TIMES, method=method, save=pathline.Save(steps=True), **options).ts

    def replay(y0):
        return loss(pathline.solve(field, y0, TIMES, method=method, controller=pathline.Grid(steps)).ys)

    assert relative_error(y0.grad, finite_difference(replay, y0)) <= 1e-7


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_reconstruction_that_drifts_is_an_error(clock):
    """Energy is kept, and a coupling of 0.8 loses a digit every 10 steps on the way back."""
    y0 = torch.tensor([[1.0, 0.0], [0.0, 0.5]], dtype=torch.float64, requires_grad=True)
    oscillator = lambda t, y: torch.stack([y[:, 1], -y[:, 0]], dim=1)  # noqa: E731
    options = {"method": pathline.Reversible("rk4", coupling=0.8), "dt": 0.05, "clock": clock}
    y1 = pathline.solve(oscillator, y0, (0.0, 8.0), gradient=pathline.Reconstructed(states=1), **options).y1
    with pytest.raises(RuntimeError, match='misses the state at t = .* by .*; use gradient="checkpointed"'):
        y1.sum().backward()
    # From states that lie near enough it never comes that far.
    y1 = pathline.solve(oscillator, y0, (0.0, 8.0), gradient=pathline.Reconstructed(states=16), **options).y1
    (ours,) = torch.autograd.grad(y1.sum(), y0)
    (exact,) = torch.autograd.grad(pathline.solve(oscillator, y0, (0.0, 8.0), **options).y1.sum(), y0)
    assert relative_error(ours, exact) <= 1e-6


def test_single_precision_has_a_tolerance_of_its_own():
    y0 = torch.tensor([1.0, 0.0], requires_grad=True)
    oscillator = lambda t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    options = {"method": "alf", "controller": pathline.FixedStep(0.03)}
    y1 = pathline.solve(oscillator, y0, (0.0, 20.0), gradient="reversible", **options).y1
    (ours,) = torch.autograd.grad(y1.sum(), y0)
    (exact,) = torch.autograd.grad(pathline.solve(oscillator, y0, (0.0, 20.0), **options).y1.sum(), y0)
    assert relative_error(ours, exact) <= 3.5e-4
    strict = pathline.Reconstructed(states=1, tolerance=1e-8)
    with pytest.raises(RuntimeError, match="1.0e-08 is allowed"):
        pathline.solve(oscillator, y0, (0.0, 20.0), gradient=strict, **options).y1.sum().backward()


def test_what_cannot_be_undone_is_refused():
    y0 = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match='"tsit5" cannot undo its own. .*"reversible_heun", "alf", and Reversible'):
        pathline.solve(torch.sin, y0, (0.0, 1.0), gradient="reversible")
    jumps = {"controller": pathline.PID(jumps=[0.5]), "clock": "per-sample"}
    with pytest.raises(ValueError, match='clock="per-sample" knows no `jumps`'):
        pathline.solve(torch.sin, y0, (0.0, 1.0), gradient="reversible", method="alf", **jumps)
    with pytest.raises(ValueError, match="draws random numbers cannot be undone"):
        pathline.solve(Noisy(), y0, (0.0, 1.0), gradient="reversible", method="alf")
    with torch.no_grad():
        assert pathline.solve(torch.sin, y0, (0.0, 1.0), gradient="reversible").status
