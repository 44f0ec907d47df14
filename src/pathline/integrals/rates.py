"""The rate of a state and of its costs, from one evaluation of the field."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._random import restore, snapshot
from pathline.gradients.inputs import transforming
from pathline.loop import Problem
from pathline.terms import Bound, PerSample, Term

if TYPE_CHECKING:
    from pathline.solvers.stages import Stages

#: What a cost may ask for beside ``(t, y, dy)``, by the name of a parameter.
WISHES = ("args", "pull", "drawn")


@dataclass
class Cost:
    """A user's function, and what it asks for."""

    name: str
    fn: Any
    wishes: tuple[str, ...]

    @classmethod
    def of(cls, name: str, fn: Any) -> Cost:
        try:
            target = fn.forward if isinstance(fn, torch.nn.Module) else fn
            parameters = inspect.signature(target).parameters.values()
        except (TypeError, ValueError):
            return cls(name, fn, ())
        by_name = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return cls(name, fn, tuple(wish for wish in WISHES if wish in by_name))

    @property
    def draws(self) -> bool:
        return "drawn" in self.wishes

    def draw(self, problem: Problem, y0: Tensor, *, rows: bool) -> Any:
        """What stays the same over the solve; with one clock a sample it goes with its rows."""
        drawn = self.fn.draw(problem.structure.unravel(y0.detach()))
        return PerSample(drawn) if rows else drawn

    def __call__(self, t: Tensor, y: Any, dy: Any, args: Any, pull: Any, drawn: Any) -> Tensor:
        given = {"args": args, "pull": pull, "drawn": drawn.get(self.name)}
        return self.fn(t, y, dy, **{wish: given[wish] for wish in self.wishes})

    def probe(self, own: Bound, t: Any, y: Any, args: Any, drawn: Any) -> tuple[torch.Size, bool]:
        """The shape of the value and whether it is real, without an evaluation of the field: ``y`` stands for dy."""
        device = own.device
        before = snapshot(device)
        try:
            with torch.no_grad():
                given = None if args is None else own.given(args)
                drawn = {k: v.value if isinstance(v, PerSample) else v for k, v in drawn.items()}
                y = pytree.tree_map(torch.Tensor.detach, y)
                value = self(own.time(t), y, y, given, lambda v: v, drawn)
        finally:
            restore(before, device)
        first = pytree.tree_leaves(y)[0]
        if not isinstance(value, Tensor):
            raise TypeError(f"`integrals[{self.name!r}]` returned {type(value).__name__}; it returns a tensor.")
        if own.per_sample and (value.dim() == 0 or len(value) != len(first)):
            raise ValueError(
                f"`integrals[{self.name!r}]` returned {tuple(value.shape)} for {len(first)} samples. On the per-sample "
                "clock it returns one value for each of them, samples first."
            )
        if value.is_complex() and not first.is_complex():
            raise TypeError(f"`integrals[{self.name!r}]` returned {value.dtype} for a real state; it returns reals.")
        return value.shape, not value.is_complex()


class Rates(Term):
    """``d/dt (y, {name: q}) = (f, {name: fn(t, y, f)})``, from one evaluation of ``f``."""

    def __init__(self, inner: Term, own: Bound, costs: dict[str, Cost], shapes: dict[str, Any], seen: int) -> None:
        self.inner, self.costs = inner, costs
        self.shapes, self.seen = shapes, seen
        self.plain, self.rows, self.dim = own.structure.plain, own.per_sample, own.empty().dim()
        self.check = own._checked
        self.pulls = any("pull" in cost.wishes for cost in costs.values())
        timeless = all(getattr(cost.fn, "timeless", False) for cost in costs.values())
        takes = getattr(inner, "takes", 3)
        self.takes = takes if timeless or takes != 1 else 2

    def rate(self, t: Tensor, state: Any, args: Any) -> Any:
        """The rate of the state and of its costs."""
        y, _ = state
        given, drawn = args
        if self.plain:
            t = own_time(t, y)
        if self.pulls:
            dy, pull = linear(lambda x: self._inner(t, x, given), y)
        else:
            dy, pull = self._inner(t, y, given), None
        return dy, self._rates(t, y, dy, given, pull, drawn)

    def settle(self, stages: Stages, z: Tensor) -> Tensor:
        """Stages whose states an iteration has found, with the costs of these states.

        Newton's iteration ends when the state has converged; costs, which are not linear in it, would lag behind. Their
        rates follow from the slopes that the equations imply, without an evaluation unless one must be differentiated.
        """
        term, systems = stages.term, stages.systems
        unravel, ravel = term.structure.unravel, term.structure.ravel
        with torch.no_grad():
            if self.pulls:
                slopes = stages.slopes(z)
            else:
                given, drawn = term.given(stages.args)
                implied = torch.matmul(stages.spectrum.tensor("inverse", z), z) / stages.step
                slopes = []
                for i, t in enumerate(stages.times):
                    y, _ = unravel(systems.state(stages.base + z[:, i]))
                    dy, _ = unravel(systems.state(implied[:, i]))
                    when = own_time(term.time(t), y) if self.plain else term.time(t)
                    slopes.append(systems.flat(ravel((dy, self._rates(when, y, dy, given, None, drawn)))))
                slopes = torch.stack(slopes, 1)
            settled = stages.step * torch.matmul(stages.spectrum.tensor("a", z), slopes)
            whole = systems.state(z[:, 0])
            cost = torch.zeros_like(whole.real if whole.is_complex() else whole)
            cost[..., self.seen :] = 1
            return torch.where(systems.scale(cost).unsqueeze(1) > 0, settled, z)

    def _rates(self, t: Tensor, y: Any, dy: Any, given: Any, pull: Any, drawn: Any) -> dict[str, Tensor]:
        first = y if self.plain else pytree.tree_leaves(y)[0]
        lead, rates = first.shape[:1] if self.rows else torch.Size(), {}
        for name, shape in self.shapes.items():
            cost = self.costs.get(name)
            if cost is None:  # one of steps
                rates[name] = first.new_zeros(lead + shape)
                continue
            value = cost(t, y, dy, given, pull, drawn)
            if value.shape != lead + shape:
                raise ValueError(
                    f"`integrals[{name!r}]` returned shape {tuple(value.shape)}; at the start of the solve it was "
                    f"{tuple(lead + shape)}. It keeps its shape."
                )
            rates[name] = value.to(first.dtype)
        return rates

    def _inner(self, t: Tensor, y: Any, args: Any) -> Any:
        dy = self.inner.rate(t, y, args)  # pyright: ignore[reportAttributeAccessIssue]
        if self.plain and (dy.__class__ is not Tensor or dy.shape != y.shape or dy.dtype != y.dtype):
            return self.check(dy, t, y)
        return dy


def own_time(t: Tensor, y: Tensor) -> Tensor:
    """The time as a field of the plain state ``y`` receives it."""
    return t if t.dim() == 0 else t.reshape(-1, *(1,) * (y.dim() - 1))


def linear(f: Callable[[Any], Any], y: Any) -> tuple[Any, Callable[[Any], Any]]:
    """``f(y)`` and its vector-Jacobian product, under every mode of differentiation and under none.

    The product carries a gradient where the caller records one.
    """
    if transforming():
        dy, pull = torch.func.vjp(f, y)  # pyright: ignore[reportAssignmentType]
        return dy, lambda v: pull(v)[0]
    recording = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        leaves, spec = pytree.tree_flatten(y)
        names = [_name(x, recording) for x in leaves]
        dy = f(pytree.tree_unflatten(names, spec))
    if recording and not any(x.requires_grad for x in leaves):
        recording = _leads_beyond(pytree.tree_leaves(dy), names)

    def pull(v: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            pairs = [
                (a, b.clone() if b.is_inference() else b)
                for a, b in zip(pytree.tree_leaves(dy), pytree.tree_leaves(v), strict=True)
                if a.requires_grad
            ]
            outputs, cotangents = [a for a, _ in pairs], [b for _, b in pairs]
            found: Any = [None] * len(names)
            if outputs:
                found = torch.autograd.grad(
                    outputs, names, cotangents, create_graph=recording, retain_graph=True, allow_unused=True
                )
        grads = [torch.zeros_like(x) if g is None else g for x, g in zip(names, found, strict=True)]
        return pytree.tree_unflatten(grads if recording else [g.detach() for g in grads], spec)

    return dy if recording else pytree.tree_map(torch.Tensor.detach, dy), pull


def _leads_beyond(outputs: list[Tensor], names: list[Tensor]) -> bool:
    """Whether the outputs depend on a tensor that requires grad beside those made here."""
    here = {id(x) for x in names}
    stack, seen = [x.grad_fn for x in outputs if x.grad_fn is not None], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in here:
            return True
        stack += [edge for edge, _ in node.next_functions if edge is not None]
    return False


def _name(x: Tensor, recording: bool) -> Tensor:
    if recording and x.requires_grad:
        return x.view_as(x)
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()
