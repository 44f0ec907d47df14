"""What a field must be, before anybody integrates it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

import pathline
from pathline.terms import ODE


def check_field(field: Any, y: Any, *, t: float = 0.0, args: Any = None) -> None:
    """A field computes a rate and nothing else; this finds the ways in which one doesn't.

    The rate has the structure, shapes, dtypes and devices of the state, is finite, the same when asked twice and in
    every grad mode, leaves ``y`` alone, and survives a step in both directions. Its derivative along a random direction
    agrees with a central difference; that is tested in double precision, on a copy of a module that was trained in
    single, and left out for a plain function of a single-precision state.

    Args:
        field: what ``pathline.solve`` takes: a module or a function of ``(t, y)``, ``(t, y, args)`` or ``y``.
        y: a state, in the structure that the field takes.
        t: the time to ask at.
        args: handed to the field.

    Raises:
        AssertionError: the field isn't one; the text says why and what to do.

    Example:
        >>> check_field(
        ...     torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)),
        ...     torch.ones(3, 2),
        ... )
    """
    before = [leaf.clone() for leaf in tree_leaves(y)]
    rate = _rate(field, y, t, args)
    _check_shapes(rate, y)
    again = _rate(field, y, t, args)
    assert _equal(tree_leaves(y), before), "The field changed `y` in place. Write `y = y + ...` instead of `y += ...`."
    assert _equal(tree_leaves(rate), tree_leaves(again)), (
        "The field gave two rates for one state. Call `.eval()` if it has dropout; draw noise once a solve, in `args`."
    )
    _check_steps(field, y, t, args)
    _check_slope(field, y, t, args)


def _rate(field: Any, y: Any, t: float, args: Any) -> Any:
    """The rate at t, with gradients enabled, for fields that differentiate inside."""
    with torch.enable_grad():
        return ODE(field).rate(torch.tensor(t, dtype=_time_dtype(y)), y, args)


def _time_dtype(y: Any) -> torch.dtype:
    return torch.float64 if tree_leaves(y)[0].dtype in (torch.float64, torch.complex128) else torch.float32


def _check_shapes(rate: Any, y: Any) -> None:
    (rates, spec), (states, wanted) = tree_flatten(rate), tree_flatten(y)
    assert spec == wanted, f"A field returns dy in the structure of y: expected {wanted}, came {spec}."
    for dy, leaf in zip(rates, states, strict=True):
        assert dy.shape == leaf.shape, (
            f"A field returns dy in the shape of y: {tuple(leaf.shape)}, came {tuple(dy.shape)}."
        )
        assert dy.dtype == leaf.dtype, f"A field returns dy in the dtype of y: {leaf.dtype}, came {dy.dtype}."
        assert dy.device == leaf.device, f"A field returns dy on the device of y: {leaf.device}, came {dy.device}."
        assert bool(torch.isfinite(dy).all()), "A rate is finite; came NaN or infinity. Try a state nearer the data."


def _check_steps(field: Any, y: Any, t: float, args: Any) -> None:
    """A step in both directions, the same with and without gradients."""
    for end in (t + 0.01, t - 0.01):
        with torch.enable_grad():
            taped = pathline.solve(field, y, (t, end), method="rk4", dt=0.01, args=args).y1
        with torch.no_grad():
            plain = pathline.solve(field, y, (t, end), method="rk4", dt=0.01, args=args).y1
        for a, b in zip(tree_leaves(taped), tree_leaves(plain), strict=True):
            assert torch.allclose(a, b), (
                "The rate under `no_grad` differs. Don't ask `torch.is_grad_enabled()` in a field."
            )


def _check_slope(field: Any, y: Any, t: float, args: Any, step: float = 1e-5) -> None:
    """d/ds <w, f(t, y + s v)> at s = 0 for random v and w, by autograd and by a central difference."""
    leaves, spec = tree_flatten(y)
    if not isinstance(field, nn.Module) and leaves[0].dtype != torch.float64:
        return
    twin = copy.deepcopy(field).double() if isinstance(field, nn.Module) else field
    start = [_double(leaf.detach()) for leaf in leaves]
    generator = torch.Generator().manual_seed(0)
    along, onto = ([torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) for x in start] for _ in "vw")

    def projected(s: Tensor) -> Tensor:
        moved = tree_unflatten([x + s * v for x, v in zip(start, along, strict=True)], spec)
        rates = tree_leaves(_rate(twin, moved, t, _double(args)))
        return torch.stack([(w.conj() * r).real.sum() for w, r in zip(onto, rates, strict=True)]).sum()

    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = projected(s)
    slope = float(torch.autograd.grad(value, s)[0]) if value.requires_grad else 0.0
    ahead, behind = (float(projected(torch.tensor(shift, dtype=torch.float64)).detach()) for shift in (step, -step))
    difference = (ahead - behind) / (2.0 * step)
    assert abs(slope - difference) <= 1e-5 * (1.0 + abs(difference)), (
        f"The field's gradient is {slope:.6g} where a finite difference gives {difference:.6g}. "
        "Look for `.detach()`, `.item()`, `.data` or NumPy inside the field, or a kink at this state."
    )


def _double(value: Any) -> Any:
    """Single precision to double, in every tensor of a structure; a module in ``args`` stays itself."""
    leaves, spec = tree_flatten(value)
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    return tree_unflatten([x.to(wide.get(x.dtype, x.dtype)) if isinstance(x, Tensor) else x for x in leaves], spec)


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, z) for x, z in zip(a, b, strict=True))
