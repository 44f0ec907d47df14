"""A training step that is taken again and again: what of, in which time, and what came out."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pathline.gradients import Adjoint
from pathline.gradients.inputs import find
from pathline.hooks import Hooks
from pathline.solution import Solution
from pathline.solvers import METHODS, Reversible
from pathline.solving import solve
from pathline.testing.memory import TensorMemory

#: Objects that are tried beside the names, by the expression that makes them.
OBJECTS: dict[str, Any] = {
    'pathline.Reversible("tsit5")': Reversible("tsit5"),
    'pathline.Adjoint(state="dense")': Adjoint(state="dense"),
}
#: Steps that a trial may take, at most.
MOST = 20_000
#: Steps of a method that takes equal ones.
STEPS = 100


@dataclass(frozen=True)
class Task:
    """A training step: what is solved, and what it is differentiated by."""

    f: Any
    y0: Any
    t: Tensor
    args: Any
    loss: Callable[[Any], Tensor]
    rtol: float
    atol: float

    def leaves(self) -> list[Tensor]:
        """The tensors to differentiate by: the start, then what the field reads."""
        starts = [x for x in pytree.tree_leaves(self.y0) if x.requires_grad]
        inputs = find(self.f, self.args).tensors
        return [*starts, *(x for x in inputs if not any(x is y for y in starts))]

    def precisely(self) -> Task | None:
        """The same in double precision; None where the field cannot be converted."""
        module = isinstance(self.f, nn.Module)
        kinds = {x.dtype for x in pytree.tree_leaves(self.y0)}
        if kinds <= {torch.float64, torch.complex128}:
            return self
        if not module:
            return None
        if pytree.tree_any(lambda x: isinstance(x, nn.Module), self.args):
            return None
        args = pytree.tree_map(lambda x: _double(x) if isinstance(x, Tensor) else x, self.args)
        f = copy.deepcopy(self.f).double()
        return replace(self, f=f, y0=pytree.tree_map(_double, self.y0), t=self.t.double(), args=args)

    @property
    def span(self) -> float:
        """From the first time to the last."""
        return abs(float(self.t[-1] - self.t[0]))

    @property
    def exact(self) -> bool:
        """Whether it is in double precision."""
        return pytree.tree_leaves(self.y0)[0].dtype in (torch.float64, torch.complex128)

    def step(
        self, method: str, gradient: str, seconds: float, rtol: float | None = None, atol: float | None = None
    ) -> tuple[Tensor, Tensor, Solution]:
        """A training step: all rows, the whole gradient, and the solution.

        Args:
            method: a name, or one of `OBJECTS`.
            gradient: alike.
            seconds: after which the solve is given up.
            rtol: in place of the task's own.
            atol: alike.

        Raises:
            OutOfTime: it took longer.
        """
        solver = solver_of(method)
        options: dict[str, Any] = {"method": solver, "gradient": OBJECTS.get(gradient, gradient), "args": self.args}
        if solver.adaptive:
            options |= {"rtol": self.rtol if rtol is None else rtol, "atol": self.atol if atol is None else atol}
        else:
            options["dt"] = self.span / STEPS
        with torch.enable_grad():
            solution = solve(self.f, self.y0, self.t, max_steps=MOST, hooks=until(seconds), **options)
            leaves = self.leaves()
            grads = torch.autograd.grad(self.loss(solution.ys), leaves, allow_unused=True)
        found = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
        return joined(pytree.tree_leaves(solution.ys)), joined(found), solution


def solver_of(method: str) -> Any:
    """The solver for a name or an expression."""
    return OBJECTS[method] if method in OBJECTS else METHODS[method]


def _double(x: Tensor) -> Tensor:
    if not (x.is_floating_point() or x.is_complex()):
        return x
    return x.detach().to(torch.complex128 if x.is_complex() else torch.float64).requires_grad_(x.requires_grad)


def mean_square(ys: Any) -> Tensor:
    """The mean of the squares of all numbers."""
    leaves = pytree.tree_leaves(ys)
    total = torch.stack([x.abs().square().sum() for x in leaves]).sum()
    return total / sum(x.numel() for x in leaves)


# --- time and memory ---------------------------------------------------------------------------------------------


class OutOfTime(Exception):
    """The time for this piece of work is over."""


def until(seconds: float) -> Hooks:
    """Hooks that end a solve when its time is over."""
    end = time.perf_counter() + seconds

    def check(*_: Any) -> None:
        if time.perf_counter() > end:
            raise OutOfTime

    return Hooks(on_step=check)


class Watched(TensorMemory):
    """Memory, and an end to work that takes too long, in whatever pass."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = time.perf_counter() + seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.perf_counter() > self.end:
            raise OutOfTime
        return super().__torch_dispatch__(func, types, args, kwargs)


# --- what came out -----------------------------------------------------------------------------------------------


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of double precision; a complex number counts as two."""
    parts = [torch.view_as_real(x.detach()) if x.is_complex() else x.detach() for x in tensors]
    return torch.cat([x.reshape(-1).double() for x in parts])


def distance(a: Tensor, b: Tensor, order: float, least: float = 0.0) -> float:
    """The norm of the difference, relative to that of ``b`` or to ``least``."""
    size = torch.linalg.vector_norm(b, ord=order).clamp_min(max(least, 1e-300))
    return float(torch.linalg.vector_norm(a - b, ord=order) / size)


def slope(loss: Callable[[Any], Tensor], ys: Any) -> float:
    """The size of the derivative of a loss by the states."""
    leaves, spec = pytree.tree_flatten(ys)
    leaves = [x.detach().requires_grad_() for x in leaves]
    with torch.enable_grad():
        grads = torch.autograd.grad(loss(pytree.tree_unflatten(leaves, spec)), leaves, allow_unused=True)
    return float(torch.linalg.vector_norm(joined([g for g in grads if g is not None])))
