"""`Adjoint(control_parameters=, norm=)`: one augmented system, under one error control."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

import pathline
from pathline import Adjoint, Hooks

TIGHT = {"rtol": 1e-9, "atol": 1e-11}


class Field(torch.nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[-0.4, 1.3], [-1.1, -0.2]], dtype=dtype))
        self.phase = torch.nn.Parameter(torch.tensor(0.3, dtype=dtype))

    def forward(self, t, y):
        return torch.tanh(y @ self.weight.to(y.dtype)) * torch.cos(t + self.phase) - 0.3 * y


def gradients(gradient, field, y0, t, **options):
    """Of a loss on all rows, by the start, the times and the parameters."""
    y0, t = y0.clone().requires_grad_(), t.clone().requires_grad_()
    ys = pathline.solve(field, y0, t, gradient=gradient, **options).ys
    loss = (ys.abs().square() * torch.arange(1.0, len(t) + 1).reshape(-1, 1, 1)).sum()
    return torch.autograd.grad(loss, [y0, t, *field.parameters()])


@pytest.mark.parametrize("span", [[0.0, 0.4, 1.0, 2.0], [2.0, 0.7, 0.7, -0.1]], ids=["forward", "backward"])
@pytest.mark.parametrize("norm", [None, "seminorm", lambda parts: max(x.square().mean().sqrt() for x in parts)])
def test_the_gradient_is_that_of_the_solution(norm, span):
    field, y0 = Field(), torch.tensor([[1.0, -0.5], [0.2, 0.8]], dtype=torch.float64)
    t = torch.tensor(span, dtype=torch.float64)
    truth = gradients("backprop", field, y0, t, **TIGHT)
    found = gradients(Adjoint(control_parameters=True, norm=norm), field, y0, t, **TIGHT)
    for a, b in zip(found, truth, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_parameter_whose_effect_the_state_does_not_show():
    """A fast oscillation of weight zero: invisible in the state and its adjoint, not to the controlled parameters."""

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, t, y):
            return -0.01 * y + self.weight * torch.sin(50.0 * t).square()

    field, y0 = Hidden(), torch.ones(1, dtype=torch.float64)
    t = torch.tensor([0.0, 3.0], dtype=torch.float64)

    def found(gradient):
        ys = pathline.solve(field, y0, t, gradient=gradient, rtol=1e-6, atol=1e-8).ys
        return torch.autograd.grad(ys[-1].sum(), field.weight)[0].item()

    s = torch.linspace(0.0, 3.0, 200_001, dtype=torch.float64)
    truth = torch.trapezoid(torch.exp(-0.01 * (3.0 - s)) * torch.sin(50.0 * s).square(), s).item()
    assert abs(found(Adjoint(control_parameters=True)) - truth) < 1e-6 * truth
    assert abs(found(Adjoint()) - truth) > 1e-3 * truth
    assert abs(found(Adjoint(control_parameters=True, norm="seminorm")) - truth) > 1e-3 * truth


@pytest.mark.parametrize("control", [True, False])
def test_a_norm_and_the_hooks_see_the_parts(control):
    field, seen = Field(), []
    y0 = {"a": torch.ones(3, 2, dtype=torch.float64), "b": torch.zeros(1, 2, dtype=torch.float64)}

    def norm(parts):
        seen.append(parts)
        return max(x.abs().max() for x in torch.utils._pytree.tree_leaves(parts))

    calls = []
    hooks = Hooks(on_step=lambda a, b, y: calls.append((a, b, y)), on_accept=lambda a, b, y, step: calls.append(y))
    gradient = Adjoint(control_parameters=control, norm=norm, hooks=hooks)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    ys = pathline.solve(lambda t, y: {k: field(t, x) for k, x in y.items()}, y0, t, gradient=gradient).ys
    (5.0 * ys["a"][-1] + 0.0 * ys["b"][-1].sum()).sum().backward()
    time, y, a, *rest = seen[0] if control else (torch.zeros(()), *seen[0])
    assert time.shape == ()
    assert y.keys() == a.keys() == y0.keys()
    assert a["a"].shape == (3, 2)
    assert sorted(x.shape for x in rest) == ([(), (2, 2)] if control else [])
    first = calls[0]
    assert first[0] == 1.0
    assert first[1] < 1.0
    where = 2 if control else 1
    torch.testing.assert_close(first[2][where]["a"], torch.full((3, 2), 5.0, dtype=torch.float64))  # not scaled
    assert len(calls) >= 2


@pytest.mark.parametrize(
    ("state", "parameters"),
    [(torch.float32, torch.float64), (torch.complex128, torch.float64), (torch.float64, torch.float32)],
)
def test_state_and_parameters_of_different_dtypes(state, parameters):
    field, y0 = Field(parameters), torch.tensor([[1.0, -0.5]], dtype=state)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    exact = gradients("backprop", field, y0, t, rtol=1e-6, atol=1e-6)
    found = gradients(Adjoint(control_parameters=True), field, y0, t, rtol=1e-6, atol=1e-6)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_second_derivatives():
    field, start = Field(), torch.tensor([[1.0, -0.5]], dtype=torch.float64)

    def second(gradient):
        y0 = start.clone().requires_grad_()
        ys = pathline.solve(field, y0, (0.0, 1.0), gradient=gradient, **TIGHT).ys
        (slope,) = torch.autograd.grad(ys[-1].square().sum(), y0, create_graph=True)
        return torch.autograd.grad(slope.pow(3).sum(), [y0, *field.parameters()])

    for a, b in zip(second(Adjoint(control_parameters=True)), second("backprop"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_under_a_transform():
    field, y0 = Field(), torch.tensor([[1.0, -0.5]], dtype=torch.float64)

    def loss(weights, gradient):
        def rate(t, y):
            return functional_call(field, weights, (t, y))

        return pathline.solve(rate, y0, (0.0, 1.0), gradient=gradient, **TIGHT).ys[-1].square().sum()

    weights = {name: p.detach() for name, p in field.named_parameters()}
    found = torch.func.grad(loss)(weights, Adjoint(control_parameters=True))
    truth = torch.func.grad(loss)(weights, "backprop")
    for name in weights:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-6, atol=1e-7)


def test_fixed_steps_and_tolerances_for_every_element():
    field, y0 = Field(), torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    truth = gradients("backprop", field, y0, t, **TIGHT)
    gradient = Adjoint(control_parameters=True)
    fixed = gradients(gradient, field, y0, t, method="rk4", dt=0.02)
    each = gradients(gradient, field, y0, t, rtol=torch.tensor([1e-8, 1e-9], dtype=torch.float64), atol=1e-10)
    for found in (fixed, each):
        for a, b in zip(found, truth, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_backward_solve_has_steps_of_its_own():
    field, y0 = Field(), torch.ones(1, 2, dtype=torch.float64)
    gradient = Adjoint(control_parameters=True, max_steps=2)
    ys = pathline.solve(field, y0, (0.0, 3.0), gradient=gradient, **TIGHT).ys
    with pytest.raises(pathline.MaxStepsError, match="integrated backwards"):
        ys.sum().backward()


def test_a_norm_of_another_name_is_refused():
    with pytest.raises(ValueError, match='`norm` is "seminorm"'):
        Adjoint(norm="maximum")
