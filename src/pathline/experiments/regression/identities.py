"""What holds exactly between residual networks, the Euler method, backpropagation and the adjoint."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import pathline
from pathline import fields, nets
from pathline.models import NeuralODE, ResNet


def measure(seed: int, width: int) -> dict[str, float]:
    """Every identity's deviation, under the name of its metric."""
    torch.manual_seed(seed)
    return euler() | recursion(width) | flow(width)


def euler() -> dict[str, float]:
    """An Euler step is a residual block, and K steps are the network that shares its block K times."""
    block, x = nets.MLP(1, 1, 25), torch.linspace(-2, 2, 10).unsqueeze(1)
    with torch.no_grad():
        one = _distance(NeuralODE(block, method="euler", dt=1.0)(x), ResNet(block, depth=1)(x))
        many = max(
            _distance(NeuralODE(block, method="euler", dt=1 / k)(x), ResNet(block, depth=k, step=1 / k)(x))
            for k in (2, 3, 7, 10)
        )
    return {"euler_to_block": one, "euler_to_resnet": many}


def recursion(width: int) -> dict[str, float]:
    """The recursion of the adjoint along Euler steps, against backpropagation and against the adjoint's ODE."""
    field = fields.MLP(2, width, time=True, dtype=torch.float64)
    y0 = torch.randn(2, dtype=torch.float64)
    to_backprop = _relative(adjoint_recursion(field, y0, 50)[0], backpropagated(field, y0, 50))
    span = torch.tensor([0.0, 1.0], dtype=torch.float64)
    solution = pathline.solve(field, y0, span, rtol=1e-10, atol=1e-12)
    curve = pathline.sensitivity(solution, lambda ys: loss(ys[-1]))
    counts, errors = (50, 100, 200), []
    for count in counts:
        times = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64)
        errors.append(_distance(adjoint_recursion(field, y0, count), curve(times)))
    order = math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])
    return {"recursion_to_backprop": to_backprop, "recursion_to_adjoint_order": order}


def adjoint_recursion(field: fields.MLP, y0: Tensor, count: int) -> Tensor:
    r"""The adjoint at each Euler step, by Jacobians: $a_k = a_{k+1} (I + \Delta t\,\partial f / \partial h)$."""
    dt = 1.0 / count
    times = torch.arange(count, dtype=y0.dtype) * dt
    states = [y0]
    with torch.no_grad():
        for t in times:
            states.append(states[-1] + dt * field(t, states[-1]))
    adjoints = [torch.func.grad(loss)(states[-1])]
    for t, state in zip(times.flip(0), reversed(states[:-1]), strict=True):
        jacobian = torch.func.jacrev(field, argnums=1)(t, state)
        adjoints.append(adjoints[-1] + dt * adjoints[-1] @ jacobian)
    return torch.stack(adjoints[::-1]).detach()


def backpropagated(field: fields.MLP, y0: Tensor, count: int) -> Tensor:
    """The gradient of the loss with respect to the start, by autograd through the Euler method."""
    start = y0.clone().requires_grad_()
    end = NeuralODE(field, method="euler", dt=1.0 / count)(start)
    return torch.autograd.grad(loss(end), start)[0]


def loss(y: Tensor) -> Tensor:
    """A loss of the state at the end."""
    return (y - 1.0).square().sum()


def flow(width: int) -> dict[str, float]:
    """An autonomous flow composes, and its inverse returns."""
    field = fields.MLP(2, width, dtype=torch.float64)
    y0 = torch.randn(64, 2, dtype=torch.float64)

    def phi(t: float, y: Tensor) -> Tensor:
        return NeuralODE(field, t=(0.0, t), rtol=1e-10, atol=1e-10)(y)

    model = NeuralODE(field, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        return {
            "flow_composition": _distance(phi(0.7, phi(0.6, y0)), phi(1.3, y0)),
            "flow_inverse": _distance(model.inverse(model(y0)), y0),
        }


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
