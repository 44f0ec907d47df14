"""One call of the original's functions, checked as it checks and put in the terms of the core."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pathline._structure import Structure
from pathline.compat._errors import ERRORS, require
from pathline.compat._methods import CALLBACKS, Plan, plan
from pathline.compat._record import RECORD
from pathline.finishing import finish
from pathline.gradients import Kept
from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Gradient
from pathline.hooks import Hooks
from pathline.loop import Problem
from pathline.saving import Save
from pathline.solution import Solution
from pathline.stats import Stats
from pathline.status import Status
from pathline.terms import Bound, Term
from pathline.times import Times
from pathline.tolerance import Tolerance

NO_HOOKS = Hooks()
ROWS = Save()


class Field(Term):
    """``func(t, y)``; what it returns is brought to the dtype and shape of the state, as the original does."""

    def __init__(self, func: Callable[[Tensor, Any], Any], *, parts: bool) -> None:
        self.func, self.parts = func, parts

    def rate(self, t: Tensor, y: Any, args: Any) -> Any:
        """The slope at ``(t, y)``."""
        dy = self.func(t, y)
        if self.parts:
            return tuple(_alike(a, b) for a, b in zip(dy, y, strict=True))
        return dy if dy.__class__ is Tensor and dy.dtype == y.dtype and dy.shape == y.shape else _alike(dy, y)


def _alike(dy: Any, y: Tensor) -> Any:
    if not isinstance(dy, Tensor):
        return dy
    if dy.shape != y.shape:
        if dy.numel() != y.numel():
            raise RuntimeError(
                f"`func` returned shape {tuple(dy.shape)} for a state of shape {tuple(y.shape)}. It returns dy in the "
                "shape of y."
            )
        dy = dy.reshape(y.shape)
    return dy if dy.dtype == y.dtype else dy.to(y.dtype)


class Call:
    """A checked call.

    Args:
        func, y0, t, rtol, atol, method, options: as the original takes them.

    Attributes:
        flat: the start as one tensor.
        given: the options, with the norm in force.
    """

    def __init__(
        self, func: Any, y0: Any, t: Any, rtol: Any, atol: Any, method: str | None, options: dict[str, Any] | None
    ) -> None:
        self.func, self.parts = func, not isinstance(y0, Tensor)
        state = _state(y0) if self.parts else y0
        self.structure = Structure(state)
        self.flat = self.structure.ravel(state) if self.parts else y0.clone()
        self.t = _checked_times(t, self.flat)
        self.rtol, self.atol = (self.tolerance(*pair) for pair in (("rtol", rtol), ("atol", atol)))
        exact = isinstance(self.rtol, float) and isinstance(self.atol, float) and self.rtol == self.atol == 0.0
        require(not exact, "rtol and atol are both 0, which no step can meet")
        self.given = dict(options or {})
        self.norm = self.given.get("norm")
        self.stats = Stats()
        norm = self.norm if self.norm is not None or not self.parts else mixed_norm
        rate = self._rate if self.given.get("grid_constructor") is not None else None
        self.plan = plan(method, self.given, self.rtol, self.atol, norm, self.t.dtype, rate)
        tolerance = Tolerance(self.rtol, self.atol) if self.plan.measures else None
        self.bound = Bound(Field(func, parts=self.parts), self.structure, self.flat, self.stats, tolerance)

    def _rate(self, t: Any, y: Tensor) -> Tensor:
        return self.bound.rate(t, y, None)

    def tolerance(self, name: str, value: Any) -> float | Tensor:
        """For every element of the state."""
        if isinstance(value, float):
            return value
        if isinstance(value, Tensor):
            require(not value.requires_grad, f"{name} cannot require gradient")
        if self.parts and (isinstance(value, tuple | list) or (isinstance(value, Tensor) and value.dim())):
            count = len(self.structure.shapes)
            require(len(value) == count, f"If using tupled {name} it must have the same length as the tuple y0")
            value = tuple(value)
        elif not isinstance(value, Tensor):
            value = float(value)
        return self.structure.broadcast(value, self.flat, name)

    def problem(self, times: list[float], save: Save = ROWS, **more: Any) -> Problem:
        """The problem for these times."""
        plan = self.plan
        limit = None if plan.max_steps is None else plan.max_steps * max(len(times) - 1, 1)
        settings = {"max_steps": limit, "hooks": hooks(self.func, plan, "", self.structure.unravel), **more}
        return Problem(
            term=self.bound,
            solver=plan.solver,
            controller=plan.controller,
            structure=self.structure,
            times=times,
            rtol=self.rtol,
            atol=self.atol,
            save=save,
            stats=self.stats,
            **settings,
        )

    def run(self, gradient: Gradient, problem: Problem) -> Kept:
        """Solve; a failure raises with the partial solution."""
        with self.recorded(gradient):
            moving = self.t if self.t.requires_grad and torch.is_grad_enabled() else None
            kept = gradient.solve(problem, self.flat, moving, None, self.func)
        if not kept.result.status:
            self.solution(problem, kept)
        return kept

    @contextmanager
    def recorded(self, gradient: Gradient) -> Iterator[None]:
        """Counted and timed; scipy leaves no graph for autograd to follow."""
        graph = torch.is_grad_enabled() and (self.plan.name != "scipy_solver" or not isinstance(gradient, Backprop))
        with RECORD.forward(self.stats), torch.set_grad_enabled(graph):
            yield

    def solution(self, problem: Problem, kept: Kept) -> Solution:
        """The whole solution; raises where the solve failed."""
        times = Times(problem.times, None, self.t.detach())
        solution = finish(problem, kept, times, None, "return")
        if not solution.status:
            status = problem_status(solution)
            raise ERRORS[status](solution.message, solution, status)
        return solution


def problem_status(solution: Solution) -> Status:
    """How a solve on the shared clock ended."""
    assert isinstance(solution.status, Status)
    return solution.status


def _state(y0: Any) -> tuple[Tensor, ...]:
    require(isinstance(y0, tuple), "y0 must be either a torch.Tensor or a tuple")
    dtype = y0[0].dtype
    for leaf in y0[1:]:
        dtype = torch.promote_types(dtype, leaf.dtype)
    return tuple(leaf.to(dtype) for leaf in y0)


def _checked_times(t: Any, y0: Tensor) -> Tensor:
    require(isinstance(t, Tensor), "t must be a torch.Tensor")
    if not t.is_floating_point():
        raise TypeError(f"`t` must be a floating point Tensor but is a {t.type()}")
    require(t.dim() == 1, "t must be one dimensional")
    if t.device != y0.device:
        warnings.warn("t is not on the same device as y0. Coercing to y0.device.", stacklevel=4)
        t = t.to(y0.device)
    return t


def monotone(t: Tensor) -> list[float]:
    """The times as floats.

    Raises:
        ArgumentError: they are not strictly increasing or decreasing.
    """
    times: list[float] = t.tolist()
    ahead = times[-1] > times[0]
    require(
        all((b > a) if ahead else (b < a) for a, b in pairwise(times)),
        "t must be strictly increasing or decreasing",
    )
    return times


def mixed_norm(parts: tuple[Tensor, ...]) -> Tensor:
    """The largest root mean square of the parts."""
    found = [torch.linalg.vector_norm(x) / x.numel() ** 0.5 for x in parts if x.numel()]
    return torch.stack(found).max() if len(found) > 1 else found[0]


def hooks(func: Any, plan: Plan, suffix: str, unravel: Callable[[Any], Any]) -> Hooks:
    """The callbacks that ``func`` holds as attributes, as hooks of the loop."""
    found = {name: getattr(func, name + suffix) for name in CALLBACKS if hasattr(func, name + suffix)}
    unknown = {name + suffix for name in found if name not in plan.callbacks}
    if unknown:
        warnings.warn(f"Solver '{plan.name}' does not support callbacks {unknown}", stacklevel=4)

    def adapted(callback: Any) -> Any:
        def hook(t0: Any, t1: Any, y0: Tensor, *step: Any) -> None:
            start, end = (torch.as_tensor(t, dtype=torch.float64) for t in (t0, t1))
            callback(start, unravel(y0), (end - start).abs())

        return hook

    known = {"on" + name.removeprefix("callback"): call for name, call in found.items() if name in plan.callbacks}
    names = {"on_step": "on_step", "on_accept_step": "on_accept", "on_reject_step": "on_reject"}
    given = {names[name]: adapted(call) for name, call in known.items()}
    if plan.name in ("implicit_adams", "fixed_adams"):
        given["on_accept"] = _say_unconverged
    return Hooks(**given) if given else NO_HOOKS


def _say_unconverged(t0: Any, t1: Any, y0: Tensor, step: Any) -> None:
    if not getattr(step, "converged", True):
        warnings.warn("Functional iteration did not converge. Solution may be incorrect.", stacklevel=2)
