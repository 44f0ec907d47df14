"""A solve with costs, made from one without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from pathline.events import Event
from pathline.gradients import Backprop, Checkpointed
from pathline.integrals.layout import Seen, layout, wide
from pathline.integrals.rates import Cost, Rates
from pathline.integrals.showing import Shown, Unwrap, controlled, hooked, seeing
from pathline.loop import Problem
from pathline.stepwise import StepCost, Stepwise
from pathline.terms import Bound


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
    rates = {name: Cost.of(name, cost) for name, cost in costs.items() if name not in stepwise}
    own, rows = problem.term, problem.per_sample
    drawn = {name: cost.draw(problem, y0, rows=rows) for name, cost in rates.items() if cost.draws}
    state = problem.structure.unravel(y0)
    shapes = {name: cost.probe(own, problem.times[0], state, args, drawn) for name, cost in rates.items()}
    for name in stepwise:
        shapes[name] = (torch.Size([len(y0)] if rows else []), True)
    zeros = {name: y0.new_zeros(shape) for name, (shape, _) in shapes.items()}
    structure = layout(state, zeros, problem)
    start = structure.ravel((state, zeros))
    seen = sum(structure.widths[: len(structure.widths) - len(zeros)])
    term = Rates(own.term, own, rates, {name: z.shape[1:] if rows else z.shape for name, z in zeros.items()}, seen)
    rtol, atol = (wide(x, start, y0, seen, rest) for x, rest in ((problem.rtol, None), (problem.atol, math.inf)))
    tolerance = None if own.tolerance is None else Seen(rtol, atol, rows, seen=seen, width=start.shape[-1])
    places = dict(zip(zeros, accumulate(structure.widths[-len(zeros) :], initial=seen), strict=False))
    solver: Any = problem.solver
    if stepwise:
        _check_steps(differentiate)
        solver = Stepwise(solver, {places[name]: cost for name, cost in stepwise.items()}, seen, rows=rows)
    bound = Bound(term, structure, start, problem.stats, tolerance)
    save = problem.save
    inner = replace(
        problem,
        term=bound,
        solver=solver,
        structure=structure,
        rtol=rtol,
        atol=atol,
        save=save if save.fn is None else replace(save, fn=Shown(save.fn, own)),
        controller=controlled(problem.controller),
        hooks=hooked(problem.hooks, own, structure),
        shown=Unwrap(frozenset(name for name, (_, real) in shapes.items() if real)),
    )
    watched = {name: seeing(event, own) for name, event in events.items()}
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
        if isinstance(cost, type):
            raise TypeError(f"`integrals` holds the class {cost.__name__} under {name!r}. Pass {cost.__name__}().")
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
