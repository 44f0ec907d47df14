"""A model that contains a solve, inside the user's own ``torch.compile``."""

from __future__ import annotations

import gc
import logging

import pytest
import torch
from torch import nn

import pathline
from pathline import models
from pathline.compiled import inside

BACKEND = "aot_eager"  # the graph is what is asked about, not what Inductor makes of it

# Torch looks at the gradients of tensors that cross a break in the graph, and warns itself that they have none.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def counters():
    return torch._dynamo.utils.counters


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters().clear()
    yield
    torch._dynamo.reset()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))


class Layered(nn.Module):
    """A solve between two layers."""

    def __init__(self, **options):
        super().__init__()
        self.before, self.field, self.after = nn.Linear(3, 2), network(), nn.Linear(2, 1)
        self.dropout = nn.Dropout(0.0)
        self.options = options

    def forward(self, x):
        y1 = pathline.solve(self.field, self.before(x), (0.0, 1.0), **self.options).y1
        return self.after(self.dropout(y1))


def gradients(model, x):
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad for p in model.parameters())]


def same(model, compiled, x):
    for mine, truth in zip(gradients(compiled, x), gradients(model, x), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamic", [None, True, False])
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_fixed_steps_are_traced_with_the_rest(method, dynamic):
    model = Layered(method=method, dt=0.25)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend=BACKEND)
    for mode in (True, False):
        model.train(mode)
        same(model, compiled, torch.randn(5, 3))
    assert not counters()["graph_break"]


def test_a_neural_ode_of_the_library_with_fixed_steps():
    model = models.NeuralODE(network(), method="midpoint", dt=0.25)
    same(model, torch.compile(model, fullgraph=True, backend=BACKEND), torch.randn(4, 2))


def test_fixed_steps_on_a_grid_of_times():
    def rows(y0, t):
        return pathline.solve(lambda t, y: torch.sin(t) - y, y0, t, method="rk4").ys

    y0, t = torch.randn(3), torch.linspace(0.0, 1.0, 5)
    compiled = torch.compile(rows, fullgraph=True, backend=BACKEND)
    torch.testing.assert_close(compiled(y0, t), rows(y0, t))


@pytest.mark.parametrize("dynamic", [None, False])
def test_an_adaptive_solve_is_one_call_and_says_so_once(dynamic, caplog, monkeypatch):
    monkeypatch.setattr(inside, "_SAID", set())
    model = Layered(rtol=1e-4, atol=1e-5)
    compiled = torch.compile(model, dynamic=dynamic, backend=BACKEND)
    with caplog.at_level(logging.WARNING, logger="pathline.compile"):
        for mode in (True, False):
            model.train(mode)
            same(model, compiled, torch.randn(5, 3))
    assert len(counters()["graph_break"]) == 1  # one place, which Dynamo meets in each function on the way to it
    assert len([record for record in caplog.records if "torch.compile" in record.message]) == 1
    assert "dt" in caplog.text


def test_a_hundred_batches_compile_nothing_anew():
    model = Layered(rtol=1e-4, atol=1e-5)
    compiled = torch.compile(model, backend=BACKEND)
    same(model, compiled, torch.randn(5, 3))
    graphs = counters()["stats"]["unique_graphs"]
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (compiled(torch.randn(5, 3)) - 1.0).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert counters()["stats"]["unique_graphs"] == graphs
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_an_adaptive_solve_refuses_fullgraph_with_the_reason():
    model = Layered()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="adaptive"):
        torch.compile(model, fullgraph=True, backend=BACKEND)(torch.randn(5, 3))


def test_what_others_solve_is_no_reason_to_compile_again():
    """The memory of signatures is no part of a trace: its entries come and go."""
    t, model = torch.linspace(0.0, 1.0, 5), nn.Linear(2, 2)

    def end(y):
        return pathline.solve(model, y, t, method="rk4").y1

    others = [eval(f"lambda t, y: {k}.0 * y") for k in range(5)]
    for field in (*others, model):
        pathline.solve(field, torch.ones(2), t, method="rk4")
    compiled = torch.compile(end, backend=BACKEND)
    expected = compiled(torch.ones(2))
    del others, field
    gc.collect()
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(torch.ones(2)), expected)
