"""`Adjoint(state=)`: what is kept of the state, with every way of saving, and what is refused."""

from __future__ import annotations

import pytest
import torch

import pathline
from pathline import Adjoint, Save
from pathline.gradients.interpolated import Curve, Stations
from pathline.testing import peak_memory

DOUBLE = torch.float64
READ = ["dense", "checkpoints"]
RATE = torch.tensor([[-0.4, 1.3], [-1.1, -0.2]], dtype=DOUBLE)
START = torch.tensor([[1.0, -0.5], [0.2, 0.8], [0.5, 0.5]], dtype=DOUBLE)
TIMES = torch.tensor([0.0, 0.6, 1.0], dtype=DOUBLE)
TIGHT = {"rtol": 1e-8, "atol": 1e-10}


def field(t, y, rate):
    return torch.tanh(y @ rate.T)


def gradients(gradient, of=lambda solution: solution.ys.square().sum(), t=TIMES, y0=START, **options):
    y0, rate = y0.clone().requires_grad_(), RATE.clone().requires_grad_()
    solution = pathline.solve(field, y0, t, args=rate, gradient=gradient, **{**TIGHT, **options})
    return torch.autograd.grad(of(solution), [y0, rate])


def agree(found, truth):
    for mine, exact in zip(found, truth, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-6, atol=1e-7)


# --- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 7, 32])
def test_stations_are_few_and_evenly_spread(most):
    stations = Stations(most)
    for n in range(1000):
        stations.add(torch.tensor(float(n)))
        assert len(stations.states) <= most
    numbers = list(stations.states)
    assert numbers == list(range(0, 1000, stations.stride))
    assert [int(y) for y in stations.states.values()] == numbers
    assert len(numbers) > most // 2


def test_a_curve_is_asked_for_numbers_and_for_times_with_a_derivative():
    pieces = [torch.tensor([[0.0], [1.0]], dtype=DOUBLE), torch.tensor([[1.0], [0.0], [4.0]], dtype=DOUBLE)]
    curve = Curve([2.0, 1.0, -1.0], pieces)  # 2 - t, then 1 + (1 - t)^2
    assert curve(1.5).item() == 0.5
    assert curve(0.0).item() == 2.0
    assert curve(-1.0).item() == 5.0
    assert curve(-1.0 - 1e-9).item() == 5.0  # a time rounded beyond the end
    t = torch.tensor(-1.0, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(curve(t).sum(), t)
    assert slope.item() == -4.0


@pytest.mark.parametrize("checkpoints", [1, 4, 100])
@pytest.mark.parametrize("backwards", [False, True])
def test_any_number_of_checkpoints_gives_the_same_gradient(checkpoints, backwards):
    t = TIMES.flip(0) if backwards else TIMES
    agree(gradients(Adjoint(state="checkpoints", checkpoints=checkpoints), t=t), gradients("backprop", t=t))


def peak(gradient, steps):
    """In states, of a solve and its backward pass."""
    y0 = torch.randn(1000, requires_grad=True)

    def work():
        solution = pathline.solve(lambda t, y: -y, y0, (0.0, 1.0), method="rk4", dt=1 / steps, gradient=gradient)
        solution.y1.sum().backward()
        return solution

    return peak_memory(work) / 4000


def test_memory_in_states():
    """Of cubic dense output: four states a step."""
    steps, stations = 128, 16
    bare = peak("adjoint", steps)
    assert 4 * steps <= peak(Adjoint(state="dense"), steps) <= 4 * steps + bare
    kept = peak(Adjoint(state="checkpoints", checkpoints=stations), steps)
    assert kept <= stations + 4 * (steps // stations) + bare + 4 < 4 * steps / 4


# --- ways of saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("state", READ)
def test_rows_of_steps_and_functions_of_the_state(state, clock):
    for save, of in (
        (Save(steps=True), lambda solution: solution.ys[-1].square().sum() + solution.y1.sum()),
        (Save(fn=lambda t, y: y.square().sum(-1)), lambda solution: solution.ys.sum()),
    ):
        options = {"of": of, "save": save, "clock": clock}
        agree(gradients(Adjoint(state=state, checkpoints=2), **options), gradients("backprop", **options))


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("state", ["backward", *READ])
def test_dense_output_that_was_asked_for_is_there_and_carries_no_gradient(state, clock):
    y0 = START.clone().requires_grad_()
    options = {"args": RATE, "clock": clock, **TIGHT}
    solution = pathline.solve(field, y0, TIMES, save=Save(dense=True), gradient=Adjoint(state=state), **options)
    truth = pathline.solve(field, START, TIMES, save=Save(dense=True), **options)
    torch.testing.assert_close(solution(0.3).detach(), truth(0.3))
    solution.ys.sum().backward(retain_graph=True)
    assert y0.grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match="carries no gradient"):
        solution(0.3).sum().backward()
    plain = pathline.solve(field, y0, TIMES, gradient=Adjoint(state=state), **options)
    with pytest.raises(ValueError, match="Save\\(dense=True\\)"):
        plain(0.3)


@pytest.mark.parametrize("state", READ)
def test_samples_that_stand_still_and_spans_of_either_direction(state):
    t = torch.tensor([[0.0, 1.0, 0.4], [0.5, 0.2, 0.4], [1.0, 0.0, 0.4]], dtype=DOUBLE)
    options = {"t": t, "clock": "per-sample"}
    agree(gradients(Adjoint(state=state), **options), gradients("backprop", **options))


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("state", READ)
def test_a_structured_state_with_a_tolerance_for_each_part(state, clock):
    def parts(t, y, rate):
        return {"a": torch.tanh(y["a"] @ rate.T) + y["b"], "b": -y["b"]}

    def found(gradient):
        leaves = {"a": START.clone().requires_grad_(), "b": START[:, :1].clone().requires_grad_()}
        tolerance = {"rtol": {"a": 1e-9, "b": 1e-8}, "atol": 1e-10}
        ys = pathline.solve(parts, leaves, TIMES, args=RATE, gradient=gradient, clock=clock, **tolerance).ys
        return torch.autograd.grad(ys["a"].square().sum(), list(leaves.values()))

    agree(found(Adjoint(state=state)), found("backprop"))


@pytest.mark.parametrize("state", READ)
def test_a_jump_of_the_field_and_a_complex_state(state):
    def switched(t, y, rate):
        return (1j if float(t) < 0.5 else -0.3) * y * rate[0, 0]

    y0 = START.to(torch.complex128)
    options = {"controller": pathline.PID(jumps=[0.5])}

    def found(gradient):
        start, rate = y0.clone().requires_grad_(), RATE.clone().requires_grad_()
        ys = pathline.solve(switched, start, TIMES, args=rate, gradient=gradient, **options, **TIGHT).ys
        return torch.autograd.grad(ys.abs().square().sum() + ys[-1].real.sum(), [start, rate])

    agree(found(Adjoint(state=state, checkpoints=2)), found("backprop"))


@pytest.mark.parametrize("state", READ)
def test_a_solve_that_fails_on_its_way(state):
    """What was reached has its gradient."""

    def found(gradient):
        y0 = START.clone().requires_grad_()
        solution = pathline.solve(
            field, y0, TIMES, args=RATE, gradient=gradient, max_steps=4, on_failure="return", **TIGHT
        )
        assert not solution.status
        return torch.autograd.grad(solution.y1.sum(), y0)

    agree(found(Adjoint(state=state)), found("backprop"))


@pytest.mark.parametrize("control", [lambda parts: parts[0].abs().max(), None])
def test_norm_and_hooks_see_the_adjoint_alone(control):
    seen = []
    hooks = pathline.Hooks(on_accept=lambda a, b, parts, step: seen.append(parts))
    agree(gradients(Adjoint(state="dense", norm=control, hooks=hooks)), gradients("backprop"))
    assert {len(parts) for parts in seen} == {1}
    assert {parts[0].shape for parts in seen} == {START.shape}


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"state": "forward"}, '`state` is "backward", "dense" or "checkpoints"; it is \'forward\''),
        ({"state": "dense", "control_parameters": True}, "integrates the state beside the adjoint"),
        ({"checkpoints": 0}, "`checkpoints` is a positive whole number; it is 0"),
        ({"checkpoints": True}, "`checkpoints` is a positive whole number; it is True"),
    ],
)
def test_options_that_do_not_go(options, words):
    with pytest.raises(ValueError, match=words):
        Adjoint(**options)


def test_the_seminorm_leaves_nothing_to_control():
    agree(
        gradients(Adjoint(state="dense", control_parameters=True, norm="seminorm")),
        gradients(Adjoint(state="dense")),
    )


def test_a_method_that_keeps_no_curve():
    with pytest.raises(ValueError, match="reads the state from dense output"):
        gradients(Adjoint(state="dense"), method=pathline.Scipy("RK45"))


def test_second_derivatives_by_the_times():
    t = TIMES.clone().requires_grad_()
    ys = pathline.solve(field, START, t, args=RATE, gradient=Adjoint(state="dense"), **TIGHT).ys
    (slopes,) = torch.autograd.grad(ys.square().sum(), t, create_graph=True)
    with pytest.raises(RuntimeError, match='gradient="checkpointed"'):
        torch.autograd.grad(slopes.sum(), t)


def test_newton_that_finds_no_solution_on_the_way_back():
    """``Y = y + Y^2`` has no real root above y = 1/4: a step back of that length cannot be made."""
    y0 = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
    gradient = Adjoint(method="implicit_euler", controller=pathline.FixedStep(1.0))
    y1 = pathline.solve(lambda t, y: -y * y, y0, (0.0, 1.0), gradient=gradient).y1
    with pytest.raises(pathline.NewtonError, match=r'did not converge.*Adjoint\(state="dense"\)'):
        y1.sum().backward()
