"""Gradients against finite differences of a solve that repeats its accepted steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

import pathline
from pathline.terms import Separable, Sum

Mode = Literal["backprop", "checkpointed", "reversible", "adjoint"]


def finite_difference(function: Callable[[Tensor], Tensor], at: Tensor, *, step: float = 2e-3) -> Tensor:
    """The gradient of a scalar function by central differences of fourth order, in the shape of ``at``.

    With the default step the truncation is near 1e-11 and the rounding near 1e-13 for functions of order one.

    Args:
        function: a scalar of a float64 tensor.
        at: where, any shape.
        step: the spacing.

    Example:
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> torch.allclose(finite_difference(lambda x: x.pow(3).sum(), x), 3.0 * x**2, rtol=1e-10)
        True
    """
    flat = at.detach().reshape(-1)
    slopes = torch.zeros_like(flat)
    with torch.no_grad():
        for i in range(flat.numel()):
            for weight, shift in ((1.0, -2.0), (-8.0, -1.0), (8.0, 1.0), (-1.0, 2.0)):
                moved = flat.clone()
                moved[i] += shift * step
                slopes[i] += weight * function(moved.reshape(at.shape)) / (12.0 * step)
    return slopes.reshape(at.shape)


def relative_error(found: Tensor, truth: Tensor) -> float:
    """max|found - truth| / max|truth|.

    Example:
        >>> relative_error(torch.tensor([1.0, 2.2]), torch.tensor([1.0, 2.0])) < 0.11
        True
    """
    return float((found.detach() - truth.detach()).abs().max() / truth.detach().abs().max())


def modes(method: str) -> tuple[Mode, ...]:
    """The gradient modes that work with a method."""
    solver = pathline.METHODS[method]
    undone: tuple[Mode, ...] = ("reversible",) if hasattr(solver, "inverse") else ()
    return getattr(solver, "gradients", ("backprop", "checkpointed", *undone, "adjoint"))


def _field(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.tanh(y @ weight) * torch.cos(t) - 0.3 * y * y


def _stiff_part(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return 0.5 * _field(t, y, weight) - y @ weight


def _other_part(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return 0.5 * _field(t, y, weight) + y @ weight


def _kick(t: Tensor, q: Tensor, weight: Tensor) -> Tensor:
    return torch.tanh(weight[0, 0] * q) * torch.cos(t) + weight[0, 1] * q * q


def _drift(t: Tensor, p: Tensor, weight: Tensor) -> Tensor:
    return weight[1, 0] * p + torch.sin(weight[1, 1] * p) * torch.sin(t)


EVERY_STEP = pathline.Save(steps=True)
#: One field in the three forms that solvers need; the split one is another.
_TERMS: dict[str, Any] = {
    "rate": _field,
    "parts": Sum(_stiff_part, _other_part),
    "split": Separable(_kick, _drift),
}


def _loss(ys: Tensor) -> Tensor:
    rows = torch.arange(1, len(ys) + 1, dtype=ys.dtype)
    return (rows.reshape(-1, *[1] * (ys.dim() - 1)) * ys.sin()).sum()


def check_gradient(method: str, gradient: Mode = "backprop") -> None:
    """A loss on several output times has the right gradient to the start, to ``args``, and to the times.

    The exact modes are compared with finite differences of a solve that repeats the accepted steps, at a loose
    tolerance; the adjoint with backpropagation at a tight one, or at a small step. Times follow the exact derivative
    of the discrete map for fixed-step methods, and the continuous formula for adaptive ones.

    Args:
        method: a name from ``pathline.METHODS``.
        gradient: "backprop", "checkpointed", "reversible" or "adjoint".

    Raises:
        AssertionError: a gradient differs; the text says to what, and by how much.

    Example:
        >>> check_gradient("tsit5", "checkpointed")
    """
    for backward in (False, True):
        if gradient == "adjoint":
            _check_adjoint(method, backward=backward)
        else:
            _check_exact(method, gradient, backward=backward)


def _inputs(*, backward: bool) -> tuple[Tensor, Tensor, Tensor]:
    y0 = torch.tensor([[0.4, -0.7], [1.1, 0.2]], dtype=torch.float64)
    weight = torch.tensor([[0.6, -1.2], [0.9, 0.3]], dtype=torch.float64)
    times = torch.tensor([0.1, 0.55, 0.8, 1.3], dtype=torch.float64)
    return y0, weight, times.flip(0) if backward else times


def _solve(method: str, y0: Tensor, times: Tensor, weight: Tensor, **options: Any) -> pathline.Solution:
    return pathline.solve(_TERMS[pathline.METHODS[method].needs], y0, times, args=weight, method=method, **options)


def _gradients(method: str, inputs: tuple[Tensor, Tensor, Tensor], **options: Any) -> tuple[Tensor, ...]:
    y0, weight, times = (x.clone().requires_grad_() for x in inputs)
    return torch.autograd.grad(_loss(_solve(method, y0, times, weight, **options).ys), (y0, weight, times))


def _check_exact(method: str, gradient: Mode, *, backward: bool) -> None:
    inputs, solver = _inputs(backward=backward), pathline.METHODS[method]
    # An iteration stops at its tolerance, which a finite difference divides by its step.
    close, closer_in_time = (1e-6, 1e-5) if getattr(solver, "implicit", False) else (1e-7, 1e-7)
    label = f"{gradient} through {method}{' backwards' if backward else ''}"
    found = _gradients(method, inputs, gradient=gradient, **_loose(solver))
    if not (solver.adaptive and getattr(solver, "variable_order", False)):  # its orders can't be given, as steps can
        slopes = _slopes(solver, method, backward)
        _compare(f"dL/dy0, {label}", found[0], slopes[0], close)
        _compare(f"dL/dargs, {label}", found[1], slopes[1], close)
        if not solver.adaptive:
            _compare(f"dL/dt, {label}", found[2], slopes[2], closer_in_time)
            return
    if gradient != "backprop":  # the steps of the plain mode, which is held to the solution's derivatives below
        plain = _gradients(method, inputs, gradient="backprop", **_loose(solver))
        for name, a, b in zip(("y0", "args", "t"), found, plain, strict=True):
            _compare(f"dL/d{name}, {label}, against backprop", a, b, 1e-7)
        return
    tol, bound = _tight(solver)
    tight = _gradients(method, inputs, gradient=gradient, rtol=tol, atol=0.1 * tol)
    for name, a, b in zip(("y0", "args", "t"), tight, _truth(solver.needs, backward), strict=True):
        _compare(f"dL/d{name}, {label}, tight", a, b, bound)


def _loose(solver: Any) -> dict[str, Any]:
    """Few steps, so that the derivative of the discrete map is far from that of the solution."""
    return {"rtol": 1e-3, "atol": 1e-3} if solver.adaptive else {"dt": 0.11}


def _tight(solver: Any) -> tuple[float, float]:
    """A tight tolerance, and the relative error of a continuous gradient there.

    Implicit steps cost more each, so their tolerance stays looser; an estimate of first order needs a tighter one.
    """
    if not getattr(solver, "implicit", False) and solver.embedded_order == 1:
        return 5e-8, 1e-5
    if getattr(solver, "implicit", False):
        return (1e-6 if solver.order > 2 else 3e-7), 1e-4
    return (1e-9 if solver.order >= 5 else 1e-7), 1e-5


@lru_cache(maxsize=16)
def _slopes(solver: Any, method: str, backward: bool) -> tuple[Tensor, ...]:
    """Finite differences of a solve that repeats the loose steps: to the start, to ``args``, to the times."""
    y0, weight, times = _inputs(backward=backward)
    replay: dict[str, Any] = _loose(solver)
    if solver.adaptive:
        # With gradients, as where they are checked: iterations go further then, which may change a step.
        start = y0.clone().requires_grad_()
        replay = {"controller": pathline.Grid(_solve(method, start, times, weight, save=EVERY_STEP, **replay).ts)}

    def loss(y0: Tensor, weight: Tensor, times: Tensor) -> Tensor:
        return _loss(_solve(method, y0, times, weight, **replay).ys)

    slopes = [
        finite_difference(lambda x: loss(x, weight, times), y0),
        finite_difference(lambda x: loss(y0, x, times), weight),
    ]
    if not solver.adaptive:
        slopes.append(finite_difference(lambda x: loss(y0, weight, x), times, step=1e-4))
    return tuple(slopes)


@lru_cache(maxsize=16)
def _truth(needs: str, backward: bool) -> tuple[Tensor, ...]:
    """Derivatives of the solution itself, to the start, to ``args`` and to the times: differences at 1e-12."""
    y0, weight, times = _inputs(backward=backward)

    def loss(y0: Tensor, weight: Tensor, times: Tensor) -> Tensor:
        options: dict[str, Any] = {"method": "dopri8", "rtol": 1e-12, "atol": 1e-13}
        return _loss(pathline.solve(_TERMS[needs], y0, times, args=weight, **options).ys)

    return (
        finite_difference(lambda x: loss(x, weight, times), y0),
        finite_difference(lambda x: loss(y0, x, times), weight),
        finite_difference(lambda x: loss(y0, weight, x), times),
    )


def _check_adjoint(method: str, *, backward: bool) -> None:
    inputs, solver = _inputs(backward=backward), pathline.METHODS[method]
    if solver.adaptive:
        tol, bound = _tight(solver)
        truth = _truth(solver.needs, backward)
        found = _gradients(method, inputs, gradient="adjoint", rtol=tol, atol=0.1 * tol)
    else:
        # the continuous adjoint of a fixed-step method meets the discrete gradient at its own order only
        bound = max(1e-5, 2.0 * 0.01**solver.order * 5.0)
        truth = _gradients(method, inputs, gradient="backprop", dt=0.01)
        found = _gradients(method, inputs, gradient="adjoint", dt=0.01)
    for name, a, b in zip(("y0", "args", "t"), found, truth, strict=True):
        _compare(f"dL/d{name}, adjoint through {method}{' backwards' if backward else ''}", a, b, bound)


def _compare(what: str, found: Tensor, truth: Tensor, bound: float) -> None:
    error = relative_error(found, truth)
    assert error <= bound, f"{what}: expected a relative error within {bound}, came {error:.2e}."
