"""Running costs integrated beside the state: ``q' = fn(t, y, dy)``, ``q(t0) = 0``.

The solve then has the state ``(y, {name: q})``. Its term evaluates the field once and the costs from what came back;
error control sees ``y`` alone. Everything of the user's own (fields, events, ``Save``, norms, hooks, the solution) is
shown ``y`` alone, by adapters which are objects, so that the search for tensors finds what they hold.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._random import restore, snapshot
from pathline._structure import Structure
from pathline.controllers import PID
from pathline.events import Event
from pathline.gradients import Backprop, Checkpointed
from pathline.gradients.inputs import transforming
from pathline.hooks import Hooks
from pathline.loop import Problem
from pathline.stepwise import StepCost, Stepwise
from pathline.terms import ODE, Bound, PerSample, Term
from pathline.tolerance import Tolerance

if TYPE_CHECKING:
    from pathline.solvers.stages import Stages

#: What a cost may ask for beside ``(t, y, dy)``, by the name of a parameter.
WISHES = ("args", "pull", "drawn")


@dataclass(frozen=True)
class Accruing:
    """A solve with costs: what the front door hands to the gradients in place of the plain one.

    Attributes:
        problem: of the state ``(y, {name: q})``.
        start: its flat start.
        args: ``(args, drawn)``, the user's and what the costs have drawn.
        field: where gradients look for tensors.
        events: as they see the whole state.
    """

    problem: Problem
    start: Tensor
    args: Any
    field: Any
    events: dict[Any, Event]


def accrue(
    problem: Problem, y0: Tensor, args: Any, costs: Any, events: Mapping[Any, Event], differentiate: Any
) -> Accruing:
    """The same solve with costs beside its state.

    Args:
        problem: of the state alone.
        y0: its flat start.
        args: handed to the field.
        costs: ``integrals`` as the user passed them.
        events: by name.
        differentiate: the gradient.
    """
    costs = _checked(costs, problem)
    stepwise = {name: cost for name, cost in costs.items() if isinstance(cost, StepCost)}
    rates = {name: _Cost.of(name, cost) for name, cost in costs.items() if name not in stepwise}
    own, rows = problem.term, problem.per_sample
    drawn = {name: cost.draw(problem, y0, rows=rows) for name, cost in rates.items() if cost.draws}
    state = problem.structure.unravel(y0)
    shapes = {name: cost.probe(own, problem.times[0], state, args, drawn) for name, cost in rates.items()}
    for name in stepwise:
        shapes[name] = (torch.Size([len(y0)] if rows else []), False)
    zeros = {name: y0.new_zeros(shape) for name, (shape, _) in shapes.items()}
    structure = _layout(state, zeros, problem)
    start = structure.ravel((state, zeros))
    seen = sum(structure.widths[: len(structure.widths) - len(zeros)])
    term = _Rates(own.term, own, rates, {name: z.shape[1:] if rows else z.shape for name, z in zeros.items()}, seen)
    rtol, atol = (_wide(x, start, y0, seen, rest) for x, rest in ((problem.rtol, 0.0), (problem.atol, math.inf)))
    tolerance = None if own.tolerance is None else Seen(rtol, atol, rows, seen=seen, width=start.shape[-1])
    places = dict(zip(zeros, accumulate(structure.widths[-len(zeros) :], initial=seen), strict=False))
    solver: Any = problem.solver
    if stepwise:
        _check_steps(differentiate)
        solver = Stepwise(solver, {places[name]: cost for name, cost in stepwise.items()}, seen, rows=rows)
    bound = Bound(term, structure, start, problem.stats, tolerance)
    save, controller = problem.save, problem.controller
    inner = replace(
        problem,
        term=bound,
        solver=solver,
        structure=structure,
        rtol=rtol,
        atol=atol,
        save=save if save.fn is None else replace(save, fn=_Shown(save.fn, own)),
        controller=_controller(controller),
        hooks=_hooks(problem.hooks, own, structure),
        shown=Unwrap(frozenset(name for name, (_, real) in shapes.items() if real)),
    )
    watched = {name: _event(event, own) for name, event in events.items()}
    return Accruing(inner, start, (args, drawn), term, watched)


def _checked(costs: Any, problem: Problem) -> dict[str, Any]:
    if not isinstance(costs, Mapping):
        raise TypeError(
            f"`integrals` maps names to functions fn(t, y, dy); it is {costs!r}. "
            'Pass {"energy": pathline.KineticEnergy()}, for example.'
        )
    for name, cost in costs.items():
        if not isinstance(name, str) or not (callable(cost) or isinstance(cost, StepCost)):
            raise TypeError(f"`integrals` maps names to functions fn(t, y, dy); it holds {name!r}: {cost!r}.")
    solver = problem.solver
    if solver.needs != "rate":
        raise ValueError(
            f'`integrals` needs the rate of the whole state, and "{solver.name}" never asks for it: it takes the field '
            'in parts. Use a method that evaluates it whole, such as "tsit5", "implicit_midpoint" or "kvaerno5".'
        )
    return dict(costs)


def _check_steps(differentiate: Any) -> None:
    if torch.is_grad_enabled() and not isinstance(differentiate, Backprop | Checkpointed):
        raise ValueError(
            "Costs of steps, such as ErrorEstimate, have a gradient where the steps themselves are differentiated: use "
            f'gradient="backprop" or "checkpointed". {type(differentiate).__name__} is another.'
        )


# --- how the whole lies in one tensor ----------------------------------------------------------------------------


class _Aligned(Structure):
    """The leaves side by side along their common first dimension, on either clock: a batch keeps its rows."""

    def __init__(self, example: Any, *, rows: bool) -> None:
        super().__init__(example, rows=True)
        self.rows = rows


def _layout(state: Any, zeros: dict[str, Tensor], problem: Problem) -> Structure:
    if problem.per_sample:
        return Structure((state, zeros), rows=True)
    if problem.structure.plain and state.dim() > 1 and all(z.dim() and len(z) == len(state) for z in zeros.values()):
        return _Aligned((state, zeros), rows=False)  # implicit methods find the samples of a batch in its rows
    return Structure((state, zeros))


@dataclass(frozen=True)
class Seen(Tolerance):
    """A tolerance that looks at the first ``seen`` of ``width`` entries of the last dimension alone."""

    seen: int = 0
    width: int = 0

    def scale(self, y0: Tensor, y1: Tensor) -> Tensor:
        """That of the entries that count; without bound for the others."""
        n = self.seen
        rtol, atol = (x[..., :n] if isinstance(x, Tensor) else x for x in (self.rtol, self.atol))
        part = Tolerance(rtol, atol).scale(y0[..., :n], y1[..., :n])
        rest = part.new_full((*part.shape[:-1], self.width - n), torch.finfo(part.dtype).max / 4)
        return torch.cat([part, rest], dim=-1)

    def resolution(self, y: Tensor) -> Tensor:
        """Such that a mean over all entries is that over the ones that count."""
        return self.scale(y, y) * math.sqrt(self.seen / self.width if self.width else 1.0)

    def norm(self, scaled: Tensor) -> float | Tensor:
        """Of the entries that count."""
        return super().norm(scaled) if self.per_sample else super().norm(self._counting(scaled))

    def norms(self, scaled: Tensor) -> Tensor:
        """Of the entries that count, for each row."""
        return super().norms(self._counting(scaled))

    def _counting(self, scaled: Tensor) -> Tensor:
        return scaled[..., : self.seen].contiguous()  # added up in the order of a solve without costs


def _wide(value: float | Tensor, start: Tensor, y0: Tensor, seen: int, rest: float) -> float | Tensor:
    """A tolerance of the state alone, for the whole in its layout."""
    if not isinstance(value, Tensor):
        return value
    if start.dim() == 1:
        part = value.expand(y0.shape).reshape(-1)
    else:
        lead = len(value) if value.dim() == y0.dim() else 1
        part = value.expand(lead, *y0.shape[1:]).reshape(lead, seen)
    return torch.cat([part, part.new_full((*part.shape[:-1], start.shape[-1] - seen), rest)], dim=-1)


# --- the rate of the whole ---------------------------------------------------------------------------------------


@dataclass
class _Cost:
    """A user's function, and what it asks for."""

    name: str
    fn: Any
    wishes: tuple[str, ...]

    @classmethod
    def of(cls, name: str, fn: Any) -> _Cost:
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


class _Rates(Term):
    """``d/dt (y, {name: q}) = (f, {name: fn(t, y, f)})``, from one evaluation of ``f``."""

    def __init__(self, inner: Term, own: Bound, costs: dict[str, _Cost], shapes: dict[str, Any], seen: int) -> None:
        self.inner, self.costs = inner, list(costs.values())
        self.shapes, self.seen = shapes, seen
        self.plain, self.rows, self.dim = own.structure.plain, own.per_sample, own.empty().dim()
        self.check = own._checked
        self.pulls = any("pull" in cost.wishes for cost in self.costs)
        timeless = all(getattr(cost.fn, "timeless", False) for cost in self.costs)
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
        first = pytree.tree_leaves(y)[0]
        rates = {name: first.new_zeros(first.shape[:1] * self.rows + shape) for name, shape in self.shapes.items()}
        for cost in self.costs:
            value = cost(t, y, dy, given, pull, drawn)
            if value.shape != rates[cost.name].shape:
                raise ValueError(
                    f"`integrals[{cost.name!r}]` returned shape {tuple(value.shape)}; at the start of the solve it was "
                    f"{tuple(rates[cost.name].shape)}. It keeps its shape."
                )
            rates[cost.name] = value.to(first.dtype)
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


# --- what the user's own functions see ---------------------------------------------------------------------------


class _Own:
    """A user's function of ``(t, y, args)``, called with ``(t, (y, q), (args, drawn))``."""

    def __init__(self, fn: Any, own: Bound) -> None:
        self.ode, self.plain = ODE(fn), own.structure.plain

    def __call__(self, t: Tensor, state: Any, args: Any) -> Any:
        return self.ode.rate(own_time(t, state[0]) if self.plain else t, state[0], args[0])


class _Reset(_Own):
    """The same, giving a state to go on from; costs go on as they are."""

    def __call__(self, t: Tensor, state: Any, args: Any) -> Any:
        return super().__call__(t, state, args), state[1]


class _Shown:
    """``Save(fn=...)`` of the state, with the costs beside it."""

    def __init__(self, fn: Any, own: Bound) -> None:
        self.fn, self.plain = fn, own.structure.plain

    def __call__(self, t: Tensor, state: Any) -> Any:
        return self.fn(own_time(t, state[0]) if self.plain else t, state[0]), state[1]


class First:
    """A function whose result is a pair, for the first of it."""

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn

    def __call__(self, x: Any) -> Any:
        return self.fn(x)[0]


class _Norm:
    """A norm of the scaled error of the state."""

    def __init__(self, norm: Any) -> None:
        self.norm = norm

    def __call__(self, scaled: Any) -> Any:
        return self.norm(scaled[0])


def _event(event: Event, own: Bound) -> Event:
    crossing, reset = event.crossing, event.reset
    return replace(
        event,
        crossing=None if crossing is None else _Own(crossing, own),
        reset=None if reset is None else _Reset(reset, own),
    )


def _controller(controller: Any) -> Any:
    if isinstance(controller, PID) and controller.norm is not None:
        return replace(controller, norm=_Norm(controller.norm))
    return controller


def _hooks(hooks: Hooks, own: Bound, structure: Structure) -> Hooks:
    """Hooks see the flat state of the solve without costs."""
    ravel = own.structure.ravel
    if hooks == Hooks():
        return hooks
    return Hooks(
        lambda t0, t1, y: hooks.on_step(t0, t1, ravel(structure.unravel(y)[0])),
        lambda t0, t1, y, step: hooks.on_accept(t0, t1, ravel(structure.unravel(y)[0]), step),
        lambda t0, t1, y, step: hooks.on_reject(t0, t1, ravel(structure.unravel(y)[0]), step),
    )


@dataclass(frozen=True)
class Unwrap:
    """From a solution of the whole to one of the state, with its costs.

    Attributes:
        real: the costs that are real whatever the state.
    """

    real: frozenset[str]

    def __call__(self, solution: Any) -> Any:
        """The solution as the user sees it."""
        ys, rows = solution.ys
        y1, last = solution.y1
        events = {
            name: replace(record, before=record.before[0], after=record.after[0])
            for name, record in solution.events.items()
        }
        return replace(
            solution,
            ys=ys,
            y1=y1,
            events=events,
            integrals=self._shown(rows),
            integrals1=self._shown(last),
            unravel=First(solution.unravel),
        )

    def _shown(self, costs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.real if name in self.real and x.is_complex() else x for name, x in costs.items()}
