"""``compile=True`` with ``clock="per-sample"``: rows, gradients and counts of plain steps, by one graph for all sizes.

Most tests interpret the graphs that Inductor would compile; one goes through it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree as pytree

import pathline
from pathline import PerSample
from pathline.compiled import kernels
from pathline.compiled.capture import COUNTS

BATCH = 5
QUICK = {"cpp_wrapper": False}
METHOD = "bosh3"
WEIGHT = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
ENDS = torch.linspace(1, 3, BATCH, dtype=torch.float64)
TIMES = torch.stack([0 * ENDS, ENDS / 2, ENDS])


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as they are, without Inductor."""

    def interpret(module: Any, mode: Any, options: Any, *, backward: bool = False) -> Any:
        return lambda tensors: module(*tensors)

    monkeypatch.setattr(kernels, "_inductor", interpret)


def oscillators(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([b * WEIGHT, rate * (1 - a * a) * b - a + torch.sin(t[..., 0])], -1)


def rates(batch: int = BATCH) -> Tensor:
    return torch.linspace(0.5, 2, batch, dtype=torch.float64, requires_grad=True)


def start(batch: int = BATCH) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(batch, 2, dtype=torch.float64, generator=draw).requires_grad_()


def solved(compile: Any, batch: int = BATCH, field: Any = oscillators, **options: Any) -> pathline.Solution:
    options = {"method": METHOD, "rtol": 1e-4, "args": PerSample(rates(batch)), "t": TIMES[:, :batch], **options}
    y0 = options.pop("y0", None)
    return pathline.solve(field, start(batch) if y0 is None else y0, clock="per-sample", compile=compile, **options)


def differentiated(
    compile: Any, *, by_times: bool = False, twice: bool = False, **options: Any
) -> tuple[Any, list[Any]]:
    """A solution, and the tensors that two ways to it share: its rows and its gradients."""
    y0 = pytree.tree_map(lambda x: x.detach().requires_grad_(), options.pop("y0", start()))
    rate, t = rates(), TIMES.clone().requires_grad_(by_times)
    solution = solved(compile, y0=y0, args=PerSample(rate), t=t, **options)
    rows = [*pytree.tree_leaves((solution.ys, solution.y1)), *(solution.integrals or {}).values()]
    if options.get("save", pathline.Save()).dense:
        rows.append(solution(ENDS * 0.3))
    inputs = [rate, WEIGHT, *pytree.tree_leaves(y0), *([t] if by_times else [])]
    loss = sum(((x**2).sum() for x in rows), torch.zeros(()))
    grads = torch.autograd.grad(loss, inputs, create_graph=twice)
    if twice:
        grads = torch.autograd.grad(sum(((g**2).sum() for g in grads), torch.zeros(())), inputs)
    return solution, [x.detach() for x in (*rows, *grads)]


def evaluations(solution: pathline.Solution) -> Tensor:
    """Of each sample."""
    assert solution.stats.rows is not None
    return solution.stats.rows.evaluations


def assert_equal_to_plain(**options: Any) -> None:
    (plain, expected), (found, values) = differentiated(False, **options), differentiated(QUICK, **options)
    assert found.stats.compiled
    assert not plain.stats.compiled
    assert torch.equal(evaluations(found), evaluations(plain))
    assert found.stats.evaluations == plain.stats.evaluations
    assert found.stats.rejected == plain.stats.rejected
    assert_close(values, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_rows_gradients_and_evaluations_are_those_of_plain_steps(gradient: str) -> None:
    assert_equal_to_plain(gradient=gradient)


@pytest.mark.usefixtures("interpreted")
def test_one_graph_serves_every_size_and_reads_what_stands_there_now() -> None:
    solved(QUICK)
    before = dict(COUNTS)
    for batch in (1, 2, 4):
        assert_close(solved(QUICK, batch).ys, solved(False, batch).ys, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        WEIGHT.mul_(1.5)
    try:
        assert_close(solved(QUICK).ys, solved(False).ys, rtol=1e-9, atol=1e-11)
    finally:
        with torch.no_grad():
            WEIGHT.div_(1.5)
    assert before == COUNTS


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "options",
    [
        {"twice": True},
        {"by_times": True},
        {"save": pathline.Save(dense=True)},
        {"save": pathline.Save(fn=lambda t, y: y * t)},
        {"events": pathline.Event(crossing=lambda t, y: y[..., 0], terminal=False)},
        {"gradient": pathline.Adjoint(state="dense")},
        {"rtol": torch.logspace(-5, -3, BATCH, dtype=torch.float64)[:, None]},
    ],
    ids=["twice", "times", "dense", "fn", "events", "adjoint", "tolerances"],
)
def test_everything_that_looks_into_steps_sees_compiled_ones(options: dict[str, Any]) -> None:
    assert_equal_to_plain(**options)


@pytest.mark.usefixtures("interpreted")
def test_a_jump_and_a_forward_pass_alone() -> None:
    with torch.no_grad():
        options = {"controller": pathline.PID(jumps=[0.4]), "t": TIMES[[0, 2]]}
        plain, found = solved(False, **options), solved(QUICK, **options)
    assert found.stats.compiled
    assert torch.equal(evaluations(found), evaluations(plain))
    assert_close(found.ys, plain.ys, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("interpreted")
def test_a_method_whose_dense_output_costs_evaluations() -> None:
    assert_equal_to_plain(method="adaptive_heun")


@pytest.mark.usefixtures("interpreted")
def test_a_structured_state_with_a_running_cost() -> None:
    def swing(t: Tensor, y: dict[str, Tensor], rate: Tensor) -> dict[str, Tensor]:
        return {"q": y["p"] * WEIGHT, "p": -y["q"] * rate[:, None] * torch.cos(t)[:, None]}

    def work(t: Tensor, y: dict[str, Tensor], dy: dict[str, Tensor]) -> Tensor:
        return (dy["p"] * y["p"]).sum(-1)

    assert_equal_to_plain(field=swing, y0={"q": start(), "p": start() + 1}, integrals={"work": work})


@pytest.mark.usefixtures("interpreted")
def test_a_sample_that_overflows_leaves_the_others_gradients_alone() -> None:
    results = []
    for compile in (False, QUICK):
        y0 = start().detach()
        y0[2] = 1e120
        y0.requires_grad_()
        solution = solved(compile, y0=y0, on_failure="return")
        solution.ys[:, [0, 1, 3, 4]].sum().backward()
        results.append((solution, y0.grad))
    (plain, expected), (found, grad) = results
    assert found.stats.compiled
    assert found.status == plain.status
    assert len({str(x) for x in found.status}) == 2
    assert_close(grad, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.timeout(300)  # with nothing in the compiler's cache
def test_through_inductor() -> None:
    def rotations(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return torch.stack([WEIGHT * y[:, 1], -rate * y[:, 0] ** 3], -1)

    assert_equal_to_plain(field=rotations)


def test_a_graph_of_one_size_is_refused_once() -> None:
    def one_by_one(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-WEIGHT * y[i] for i in range(len(y))])

    expected = solved(False, field=one_by_one, args=None)
    with pytest.warns(RuntimeWarning, match=r"one_by_one cannot be compiled .* 5 samples alone"):
        found = solved(QUICK, field=one_by_one, args=None)
    again = solved(QUICK, field=one_by_one, args=None)
    assert not found.stats.compiled
    assert not again.stats.compiled
    assert torch.equal(found.ys, expected.ys)
