"""A whole solve in one compiled loop takes the steps that the host loop takes, and gives its rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pathline
from pathline.compiled import gradient, kernels, loops
from pathline.compiled.capture import COUNTS

DOUBLE = torch.float64
Y0 = torch.tensor([[2.0, 0.0], [0.5, -1.0], [-1.0, 1.5]], dtype=DOUBLE)
T = torch.tensor([0.0, 0.0, 0.3, 0.31, 2.0, 5.9, 6.0, 6.0], dtype=DOUBLE)
COUNTED = ("steps", "accepted", "rejected", "evaluations", "compiled")


class VanDerPol(nn.Module):
    """With a forcing, so that the time is read, and with a parameter."""

    def __init__(self, mu=4.0):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(mu, dtype=DOUBLE))

    def forward(self, t, y):
        u, v = y[..., 0], y[..., 1]
        return torch.stack((v, self.mu * (1.0 - u * u) * v - u + 0.5 * torch.cos(3.0 * t)), -1)


@pytest.fixture
def interpreted(monkeypatch):
    """Graphs as they are, without Inductor."""

    def interpret(module, mode, options, *, backward=False):
        return lambda tensors: module(*tensors)

    monkeypatch.setattr(kernels, "_inductor", interpret)


@pytest.fixture
def served(monkeypatch):
    """Whether each solve was one loop, and a switch to step instead."""
    log, switch = [], {"on": True}

    def watched(*given):
        kept = loops.looped(*given) if switch["on"] else None
        log.append(kept is not None)
        return kept

    monkeypatch.setattr(gradient, "looped", watched)
    return log, switch


def both(served, f, y0, t, **options):
    """The same solve as one loop and step by step."""
    log, switch = served
    with torch.no_grad():
        loop = pathline.solve(f, y0, t, compile=True, **options)
        assert log[-1], "the loop did not serve this solve"
        switch["on"] = False
        steps = pathline.solve(f, y0, t, compile=True, **options)
        switch["on"] = True
    return loop, steps


def assert_same(loop, steps, tight=1e-9):
    assert [getattr(loop.stats, name) for name in COUNTED] == [getattr(steps.stats, name) for name in COUNTED]
    torch.testing.assert_close(loop.ys, steps.ys, rtol=tight, atol=tight)
    torch.testing.assert_close(loop.y1, steps.y1, rtol=tight, atol=tight)
    torch.testing.assert_close(loop.t1, steps.t1)
    assert loop.status == steps.status
    assert loop.valid.tolist() == steps.valid.tolist()


CASES = {
    "ends": (T[[0, -1]], {}),
    "rows": (T, {}),
    "backwards": (T.flip(0) / 20, {"method": "tsit5"}),
    "limits": (T, {"controller": pathline.PID(first_step=0.5, max_step=0.4, min_step=1e-4, grow=3.0, safety=0.8)}),
    "gains": (T, {"controller": pathline.PID(p=0.4, i=0.3, d=0.1), "method": "bosh3"}),
    "tolerances": (T, {"rtol": torch.tensor([1e-5, 1e-6], dtype=DOUBLE), "atol": 1e-7}),
    "short": (T * 1e-9 + 1.0, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_host_loop(case, interpreted, served):
    t, options = CASES[case]
    loop, steps = both(served, VanDerPol(), Y0, t, **{"method": "dopri5", "rtol": 1e-5, "atol": 1e-6} | options)
    assert_same(loop, steps)


def test_there_are_rejected_steps_and_more_than_one_call(interpreted, served, monkeypatch):
    monkeypatch.setattr(loops, "STEPS", 16)
    loop, steps = both(served, VanDerPol(), Y0, torch.linspace(0, 8, 100).double(), rtol=1e-6, atol=1e-8)
    assert loop.stats.rejected > 2
    assert loop.stats.steps > 100
    assert_same(loop, steps)


def test_structures_and_batches(interpreted, served):
    def field(t, y, args):
        return {"a": -args * y["a"], "b": y["a"].sum(-1) - y["b"]}

    for n in (3, 4, 5, 7, 5):  # from the third size on one graph for all
        y0 = {"a": torch.rand(n, 2, dtype=DOUBLE), "b": torch.zeros(n, dtype=DOUBLE)}
        rate = torch.tensor(1.5, dtype=DOUBLE)
        before = COUNTS["programs"]
        loop, steps = both(served, field, y0, [0.0, 0.4, 1.0], args=rate)
        for a, b in zip(loop.ys.values(), steps.ys.values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert loop.stats == steps.stats
    assert COUNTS["programs"] == before, "another size of the batch compiled again"


def test_new_parameters_are_read(interpreted, served):
    f = VanDerPol()
    for mu in (1.0, 3.0):
        f.mu.data.fill_(mu)
        loop, _ = both(served, f, Y0, T, rtol=1e-6)
        with torch.no_grad():
            plain = pathline.solve(VanDerPol(mu), Y0, T, rtol=1e-6)
        torch.testing.assert_close(loop.ys, plain.ys, rtol=1e-8, atol=1e-8)


def test_what_a_loop_cannot_serve_goes_step_by_step(interpreted, served):
    log, f = served[0], VanDerPol()
    seen = []
    options = [
        {"save": pathline.Save(steps=True)},
        {"progress": seen.append},
        {"controller": pathline.PID(must_hit=[1.0])},
        {"controller": pathline.PID(jumps=[1.0])},
        {"method": "dopri8"},
        {"method": "rk4", "dt": 0.05},
    ]
    with torch.no_grad():
        for option in options:
            assert pathline.solve(f, Y0, T, compile=True, **option).status
            assert not log[-1], option
    assert seen
    solution = pathline.solve(f, Y0, T, compile=True)
    assert not log[-1]
    assert solution.ys.requires_grad


def blows_up(t, y):
    return y * y


@pytest.mark.parametrize(
    ("f", "options"),
    [(blows_up, {}), (VanDerPol(), {"max_steps": 20}), (VanDerPol(), {"max_steps": 20, "controller": pathline.PID()})],
)
def test_failures_are_told_as_ever(f, options, interpreted, served):
    with torch.no_grad():
        loop = pathline.solve(f, Y0, T, compile=True, on_failure="return", **options)
        plain = pathline.solve(f, Y0, T, on_failure="return", **options)
    assert not served[0][-1]
    assert not loop.status
    assert loop.status == plain.status
    assert loop.message.split("|J|")[0] == plain.message.split("|J|")[0]
    assert (loop.stats.steps, loop.stats.rejected) == (plain.stats.steps, plain.stats.rejected)


def test_a_loop_that_inductor_refuses_goes_step_by_step(interpreted, served, monkeypatch):
    def refuse(*given):
        raise RuntimeError("no")

    monkeypatch.setattr(loops, "while_loop", refuse)
    with torch.no_grad():
        for _ in range(2):
            solution = pathline.solve(lambda t, y: -y * torch.sin(t), Y0, T, compile=True)
            assert not served[0][-1]
            assert solution.stats.compiled


@pytest.mark.timeout(300)  # with nothing in the compiler's cache
def test_through_inductor(served):
    class Compiled(VanDerPol):
        """A kind of its own, of which no graph is known."""

    with torch.no_grad():
        loop = pathline.solve(Compiled(), Y0, T, method="bosh3", rtol=1e-6, compile=True)
        plain = pathline.solve(Compiled(), Y0, T, method="bosh3", rtol=1e-6)
    assert served[0] == [True]
    loop.stats.compiled = False
    assert_same(loop, plain, tight=1e-8)
    assert loop.stats.rejected
    assert loop.stats.steps > loops.STEPS
