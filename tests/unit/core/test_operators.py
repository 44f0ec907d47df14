"""Divergences: closed forms, automatic derivatives and estimates against the whole Jacobian."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

from pathline import fields, operators
from pathline.operators import Exact, Hutchinson, HutchPlusPlus

BATCH, SIZE = 5, 3
CONTEXT = torch.randn(BATCH, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

FIELDS = {
    "squash, no hidden layer": (lambda: fields.ConcatSquash(SIZE, ()), None),
    "squash, one": (lambda: fields.ConcatSquash(SIZE, 4), None),
    "squash, two": (lambda: fields.ConcatSquash(SIZE, (4, 5)), None),
    "squash, four": (lambda: fields.ConcatSquash(SIZE, (4, 5, 6, 7)), None),
    "squash, context": (lambda: fields.ConcatSquash(SIZE, (4, 5), context=2), CONTEXT),
    "squash, own activation": (lambda: fields.ConcatSquash(SIZE, (4, 5), activation=torch.atan), None),
    "mlp": (lambda: fields.MLP(SIZE, (4, 5)), None),
    "mlp, three, time, silu": (lambda: fields.MLP(SIZE, (4, 5, 6), time=True, activation="silu"), None),
    "mlp, context": (lambda: fields.MLP(SIZE, (4,), time=True, context=2), CONTEXT),
    "mlp, module": (lambda: fields.MLP(SIZE, (4, 5), activation=nn.SiLU), None),
    "mlp, own activation": (lambda: fields.MLP(SIZE, (4, 5), activation=nn.Softplus), None),
    "planar": (lambda: fields.Planar(SIZE, 7), None),
    "planar, context": (lambda: fields.Planar(SIZE, 7, context=2), CONTEXT),
    "planar, still": (lambda: fields.Planar(SIZE, 7, time_dependent=False), None),
}
TIMES = {
    "one time": torch.tensor(0.3, dtype=torch.float64),
    "a time a row": torch.linspace(0, 1, BATCH, dtype=torch.float64)[:, None],
}


def at(name: str, time: str) -> tuple[operators.At, Tensor, Tensor]:
    """The field at a time, a state, and the Jacobian of each sample there."""
    make, context = FIELDS[name]
    f = operators.at(make().double(), TIMES[time], context)
    y = torch.randn(BATCH, SIZE, dtype=torch.float64)
    return f, y, jacobians(f, y)


def jacobians(f, y: Tensor) -> Tensor:
    """``(batch, size, size)``."""
    return torch.autograd.functional.jacobian(lambda y: f(y).sum(0), y).permute(1, 0, 2)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("name", FIELDS)
def test_closed_forms_and_automatic_derivatives_are_those_of_the_jacobian(name: str, time: str):
    f, y, jacobian = at(name, time)
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(-1)
    for g in (f, lambda y: f(y)):  # with its closed forms, and without
        value, div = operators.divergence(g, y)
        torch.testing.assert_close(value, f(y))
        torch.testing.assert_close(div, trace)
        *_, norm = operators.traced(g, y, Exact(), None, norm=True)
        torch.testing.assert_close(norm, jacobian.square().sum((1, 2)))
    v = torch.randn(4, BATCH, SIZE, dtype=torch.float64)
    if "own" in name:  # products from the left, where the slope isn't known
        torch.testing.assert_close(f.push(y, v)[1], torch.einsum("bij,kbi->kbj", jacobian, v))
    else:
        torch.testing.assert_close(f.push(y, v)[1], torch.einsum("bij,kbj->kbi", jacobian, v))


def test_a_field_with_a_closed_form_is_not_differentiated():
    class Spiral(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y

        def divergence(self, t: Tensor, y: Tensor, args: None = None) -> tuple[Tensor, Tensor]:
            return -y, torch.full((len(y),), 42.0)

    _, div = operators.divergence(operators.at(Spiral(), torch.tensor(0.0)), torch.zeros(2, 3))
    assert div.tolist() == [42.0, 42.0]


@pytest.mark.parametrize("trace", [Hutchinson(), Hutchinson("gaussian", probes=2), HutchPlusPlus(), HutchPlusPlus(2)])
def test_estimates_are_right_in_the_mean(trace: Hutchinson | HutchPlusPlus):
    f, y, jacobian = at("mlp", "one time")
    exact = jacobian[0].diagonal().sum()
    many = y[:1].expand(4096, SIZE)
    _, div, norm = operators.traced(f, many, trace, trace.draw(many), norm=True)
    assert norm is not None
    for found, truth in ((div, exact), (norm, jacobian[0].square().sum())):
        error = found.std() / math.sqrt(len(found))
        assert (found.mean() - truth).abs() < 4 * error + 1e-12


def test_rademacher_varies_less_than_gaussian_and_a_sketch_less_still():
    y = torch.zeros(4096, 4, dtype=torch.float64)
    matrix = torch.diag(torch.tensor([10.0, 0.1, 0.1, 0.1], dtype=torch.float64)) + 0.3
    spread = {
        trace: operators.divergence(lambda y: y @ matrix.T, y, trace=trace)[1].std().item()
        for trace in (Hutchinson("gaussian"), Hutchinson(), HutchPlusPlus(sketch=2))
    }
    gaussian, rademacher, sketched = spread.values()
    assert sketched < 0.5 * rademacher < 0.5 * gaussian


def test_a_whole_sketch_is_exact():
    f, y, jacobian = at("mlp", "one time")
    _, div = operators.divergence(f, y, trace=HutchPlusPlus(sketch=SIZE))
    torch.testing.assert_close(div, jacobian.diagonal(dim1=1, dim2=2).sum(-1))


def test_noise_that_was_drawn_is_used_again():
    f, y, _ = at("mlp", "one time")
    trace = Hutchinson()
    noise = trace.draw(y, torch.Generator().manual_seed(3))
    first, second = (operators.divergence(f, y, trace=trace, noise=noise)[1] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, operators.divergence(f, y, trace=trace)[1])
    assert noise.abs().unique().tolist() == [1.0]


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_gradient_of_a_divergence(trace: str):
    net = nn.Sequential(nn.Linear(SIZE, 4), nn.Tanh(), nn.Linear(4, SIZE)).double()
    noise = operators.find_trace(trace).draw(torch.zeros(BATCH, SIZE, dtype=torch.float64))

    def total(y: Tensor, weight: Tensor) -> Tensor:
        f = lambda y: torch.func.functional_call(net, {"0.weight": weight}, (y,))  # noqa: E731
        value, div = operators.divergence(f, y, trace=trace, noise=noise)
        return (value.sum(1) * div).sum()

    y = torch.randn(BATCH, SIZE, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (y, next(net.parameters()).detach().clone().requires_grad_()))


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_what_needs_no_gradient_gets_none(trace: str):
    net = nn.Linear(SIZE, SIZE)
    y = torch.randn(BATCH, SIZE)
    with torch.no_grad():
        assert not any(x.requires_grad for x in operators.divergence(net, y, trace=trace))
    assert all(x.requires_grad for x in operators.divergence(net, y, trace=trace))
    net.requires_grad_(False)
    assert not any(x.requires_grad for x in operators.divergence(net, y, trace=trace))
    with torch.inference_mode():
        operators.divergence(net, torch.randn(BATCH, SIZE), trace=trace)


def test_a_field_that_is_constant_has_no_divergence():
    value, div = operators.divergence(lambda y: torch.ones(4, 2), torch.zeros(4, 2))
    assert value.sum() == 8
    assert not div.any()


def test_images_and_layers_without_batched_second_derivatives():
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 2, 1)).double()
    y = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    jacobian = jacobians(lambda y: net(y.reshape(2, 2, 2, 2)).flatten(1), y.flatten(1))
    _, div = operators.divergence(net, y)
    torch.testing.assert_close(div, jacobian.diagonal(dim1=1, dim2=2).sum(-1))
    div.sum().backward()
    assert all(p.grad is not None for p in net[0].parameters())


def test_under_transforms():
    field = fields.MLP(SIZE, (4, 5)).double()
    y = torch.randn(BATCH, SIZE, dtype=torch.float64)
    f = operators.at(field, torch.tensor(0.0))
    for g in (f, lambda y: f(y)):
        slope = torch.func.grad(lambda y, g=g: operators.divergence(g, y)[1].sum())(y)
        x = y.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(operators.divergence(f, x)[1].sum(), x)
        torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: operators.find_trace("hutchison"), "'hutchinson'"),
        (lambda: operators.find_trace(Exact), "Hutchinson\\(probes=4\\)"),
        (lambda: operators.find_trace(3), "but 3 came"),
        (lambda: Hutchinson("uniform"), "rademacher"),
        (lambda: Hutchinson(probes=0), "at least 1"),
        (lambda: Hutchinson(redraw="step"), "redraw"),
        (lambda: HutchPlusPlus(sketch=0), "sketch"),
    ],
)
def test_refusals(make, said: str):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


@pytest.mark.parametrize(
    ("f", "y", "error", "said"),
    [
        (fields.ConcatSquash(2), torch.zeros(3, 2), TypeError, "at(field, 0.5)"),
        (lambda t, y: y, torch.zeros(3, 2), TypeError, "at(field, 0.5)"),
        (3, torch.zeros(3, 2), TypeError, "int came"),
        (torch.tanh, torch.zeros(3, 2, dtype=torch.int64), TypeError, "torch.int64"),
        (torch.tanh, [1.0], TypeError, "list came"),
        (torch.tanh, torch.zeros(3), ValueError, "unsqueeze(0)"),
        (torch.tanh, torch.tensor(1.0), ValueError, "(batch, *event)"),
        (lambda y: y[:, :1], torch.zeros(3, 2), ValueError, "(3, 1) came"),
        (lambda y: y.sum(), torch.zeros(3, 2), ValueError, "() came"),
        (lambda y: y[:, :1], torch.zeros(0, 2), ValueError, "(0, 1) came"),
        (lambda y: 1.0, torch.zeros(3, 2), TypeError, "float came"),
    ],
)
def test_what_has_no_divergence_is_refused(f, y, error: type[Exception], said: str):
    with pytest.raises(error, match=re.escape(said)):
        operators.divergence(f, y)


@pytest.mark.parametrize("trace", ["exact", "hutchinson", "hutch++"])
def test_an_empty_batch_has_empty_results(trace: str):
    value, div = operators.divergence(operators.at(fields.ConcatSquash(2), 0.5), torch.zeros(0, 2), trace=trace)
    assert value.shape == (0, 2)
    assert div.shape == (0,)


def test_a_time_may_be_a_number():
    field, y = fields.ConcatSquash(2).double(), torch.ones(3, 2, dtype=torch.float64)
    found = operators.divergence(operators.at(field, 0.1), y)
    expected = operators.divergence(operators.at(field, torch.tensor(0.1, dtype=torch.float64)), y)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for wrong in ("0.5", None, True):
        with pytest.raises(TypeError, match="`t`"):
            operators.at(field, wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`field`"):
        operators.at(0.5, field)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["mlp, three, time, silu", "squash, context", "planar"])
def test_columns_a_few_at_a_time_are_the_same_trace(name: str, chunk: int):
    f, y, jacobian = at(name, "one time")
    for g in (f, lambda y: f(y)):
        value, div, norm = operators.traced(g, y, Exact(chunk), None, norm=True)
        torch.testing.assert_close(value, f(y))
        torch.testing.assert_close(div, jacobian.diagonal(dim1=1, dim2=2).sum(-1))
        torch.testing.assert_close(norm, jacobian.square().sum((1, 2)))


def test_no_more_columns_at_once_than_asked_for():
    widths = []

    class Counting(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return y.sin()

        def push(self, t: Tensor, y: Tensor, v: Tensor, args: None = None) -> tuple[Tensor, Tensor]:
            widths.append(len(v))
            return y.sin(), v * y.cos()

    y = torch.randn(4, 5)
    _, div = operators.divergence(operators.at(Counting(), 0.0), y, trace=Exact(chunk=2))
    assert widths == [2, 2, 1]
    torch.testing.assert_close(div, y.cos().sum(1))


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True])
def test_a_chunk_that_is_none_is_refused(chunk):
    with pytest.raises(ValueError, match=f"`chunk` is a number of columns, 1 or more.*{chunk} came"):
        Exact(chunk)
