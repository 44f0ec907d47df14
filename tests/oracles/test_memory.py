"""Memory, as the peak of live tensor storages minus those before the call, forward and backward, `Solution` alive."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
import torch
from torch import nn

import pathline
from pathline.testing import TensorMemory, peak_memory

BATCH, DIM = 64, 32
STATE = BATCH * DIM * 4


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(DIM, 48), nn.Tanh(), nn.Linear(48, DIM))

    def forward(self, t, y):
        return self.net(y)


def peak(gradient, method, steps, rows=2):
    """Peak of a training step with a given number of equal steps, gradients of the parameters included."""
    field, y0 = Field(), torch.randn(BATCH, DIM)
    times = torch.linspace(0.0, 1.0, rows)
    fixed = (
        {"controller": pathline.FixedStep(1.0 / steps)} if pathline.METHODS[method].adaptive else {"dt": 1.0 / steps}
    )

    def work():
        solution = pathline.solve(
            field, y0, times if rows > 2 else (0.0, 1.0), method=method, gradient=gradient, **fixed
        )
        assert solution.stats.accepted == steps
        solution.y1.square().mean().backward()
        return solution

    return peak_memory(work)


@pytest.mark.parametrize("method", ["midpoint", "bosh3"])
def test_adjoint_is_flat_in_the_number_of_steps(method):
    few, many = peak("adjoint", method, 10), peak("adjoint", method, 1000)
    assert many <= 1.05 * few


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        ("dopri5", 400),
        ("dopri8", 60),  # at ten steps 6 % over the bound: the constant of its twelve stages
        *((method, n) for method in ("dopri5", "tsit5", "bosh3", "rk4") for n in (10, 60)),
    ],
)
def test_checkpointed_holds_states_and_one_tape(method, steps):
    """1.1 x (steps + 1) x (state + FSAL slope) and one step's tape.

    To the tape of a recomputed step belong its own end beside the stored one, and the parameters' gradients beside their
    sum: at ten steps these decide (up to 6 % of the bound), from thirty on the bound holds without them.
    """
    slope = STATE if pathline.METHODS[method].fsal else 0
    tape = peak("backprop", method, 1)
    if steps < 30:
        tape += STATE + sum(p.numel() * 4 for p in Field().parameters())
    assert peak("checkpointed", method, steps) <= 1.1 * (steps + 1) * (STATE + slope) + tape


def test_checkpointed_under_an_adaptive_controller():
    field, y0 = Field(), torch.randn(BATCH, DIM)
    accepted = []

    def work():
        solution = pathline.solve(field, y0, (0.0, 40.0), rtol=1e-5, atol=1e-6, gradient="checkpointed")
        solution.y1.square().mean().backward()
        accepted.append(solution.stats.accepted)
        return solution

    assert peak_memory(work) <= 1.1 * (accepted[-1] + 1) * 2 * STATE + peak("backprop", "tsit5", 1)
    assert accepted[-1] > 20


class Turning(nn.Module):
    """A linear field that keeps the size of the state."""

    def __init__(self, dim):
        super().__init__()
        self.net = nn.Linear(dim, dim, bias=False)
        with torch.no_grad():
            self.net.weight.copy_(0.1 * (self.net.weight - self.net.weight.T))

    def forward(self, t, y):
        return self.net(y)


def long_solve(gradient, method, steps, batch=BATCH, dim=DIM):
    """Peak bytes, and the counts, of a training step over many equal steps."""
    torch.manual_seed(0)
    field, y0, found = Turning(dim), torch.randn(batch, dim), []

    def work():
        solution = pathline.solve(
            field,
            y0,
            (0.0, 0.01 * steps),
            method=method,
            controller=pathline.FixedStep(0.01),
            gradient=gradient,
        )
        solution.y1.square().mean().backward()
        found.append(solution.stats)
        return solution

    return peak_memory(work), found[0]


@pytest.mark.parametrize(("method", "steps", "carried"), [("midpoint", 2000, 0), ("bosh3", 800, 1)])
def test_logarithmic_checkpoints_stay_in_their_memory(method, steps, carried):
    """40 states (and slopes) and what one step holds, at four times the evaluations of the forward pass."""
    budget = 40 * (1 + carried) * STATE
    step, _ = long_solve("backprop", method, 2)
    peak, stats = long_solve(pathline.Checkpointed("logarithmic", memory=budget), method, steps)
    assert peak <= budget + step + 6 * STATE
    assert stats.evaluations + stats.backward_evaluations <= 4 * stats.evaluations
    assert stats.backward_steps == steps


@pytest.mark.parametrize(
    ("gradient", "method"), [(pathline.Checkpointed("logarithmic", states=5), "bosh3"), ("reversible", "alf")], ids=str
)
def test_a_step_is_kept_in_sixteen_bytes(gradient, method):
    """Of Python's memory, in which the accepted times lie."""

    def held(steps):
        y0 = torch.ones(2, requires_grad=True)
        controller = pathline.PID(max_step=1e-3)
        gc.collect()
        tracemalloc.start()
        solution = pathline.solve(
            torch.sin, y0, (0.0, 1e-3 * steps), method=method, controller=controller, gradient=gradient
        )
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert solution.stats.accepted >= steps
        return size

    held(20)
    assert held(420) - held(120) <= 300 * 24  # an array grows by an eighth ahead of its needs


@pytest.mark.reproduce
@pytest.mark.timeout(2400)
def test_a_hundred_thousand_steps_in_64_megabytes():
    """A batch of 256 x 64 float32: all states would be 6.5 GB."""
    gradient = pathline.Checkpointed("logarithmic", memory=50e6)
    peak, stats = long_solve(gradient, "midpoint", 100_000, batch=256, dim=64)
    assert stats.accepted == 100_000
    assert peak <= 64e6
    assert stats.evaluations + stats.backward_evaluations <= 4 * stats.evaluations


def test_every_kth_state_is_a_part_of_all():
    step, _ = long_solve("backprop", "midpoint", 2)
    peak, stats = long_solve(pathline.Checkpointed(20), "midpoint", 400)
    assert peak <= (20 + 20) * STATE + step + 4 * STATE
    assert stats.backward_remade == 380


@pytest.mark.parametrize(
    ("method", "steps"), [("reversible_heun", 2000), (pathline.Reversible("midpoint", coupling=1.0), 300)], ids=str
)
def test_undone_steps_are_flat(method, steps):
    """No more than 34 steps hold, of which sixteen states and the last are kept to compare with."""
    few, hundred, many = (long_solve("reversible", method, n)[0] for n in (34, 100, steps))
    assert many <= 1.01 * few
    assert hundred <= 1.01 * few


def test_undone_adaptive_steps_are_flat():
    few, _ = long_solve("reversible", "reversible_heun", 34)
    field, y0, accepted = Turning(DIM), torch.randn(BATCH, DIM), []

    def work():
        solution = pathline.solve(
            field, y0, (0.0, 10.0), method="reversible_heun", rtol=1e-6, atol=1e-6, gradient="reversible"
        )
        solution.y1.square().mean().backward()
        accepted.append(solution.stats.accepted)
        return solution

    error_norm = 3 * STATE
    assert peak_memory(work) <= 1.01 * few + error_norm
    assert accepted[0] > 200


def test_backprop_holds_every_stage():
    """The count sees the tape: the bound of the checkpointed mode would fail here."""
    assert peak("backprop", "dopri5", 100) > 3.0 * 1.1 * 101 * 2 * STATE


def test_a_solve_without_gradients_is_flat():
    field, y0 = Field(), torch.randn(BATCH, DIM)

    def work(steps):
        with torch.no_grad():
            return pathline.solve(field, y0, (0.0, 1.0), method="rk4", dt=1.0 / steps)

    assert peak_memory(lambda: work(500)) <= 1.05 * peak_memory(lambda: work(10))


def test_memory_is_given_back():
    field, y0 = Field(), torch.randn(BATCH, DIM, requires_grad=True)
    with TensorMemory() as memory:
        solution = pathline.solve(field, y0, (0.0, 1.0), method="rk4", dt=0.05)
        torch.autograd.grad(solution.y1.sum(), y0)
        del solution
        assert memory.live <= 2 * STATE


def test_counting_itself():
    with TensorMemory() as memory:
        a = torch.zeros(1000)
        b = a[:10] + 1.0
        assert memory.live == 4040
        del a
        assert memory.live == 40
        del b
    assert memory.peak == 4040
    assert memory.live == 0
