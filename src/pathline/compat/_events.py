"""Solves that end where ``event_fn`` changes sign."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pathline.compat._calls import Call
from pathline.compat._errors import ERRORS, require
from pathline.compat._grids import Steps
from pathline.eventful import solve_eventful
from pathline.events import Event
from pathline.gradients import Gradient
from pathline.status import Status
from pathline.times import Times

#: Steps in all, where the program states no number: an event may never happen.
MOST = 20_000


def until(call: Call, gradient: Gradient, event_fn: Callable[[Tensor, Any], Tensor]) -> tuple[Tensor, Any]:
    """The time of the event and the states at the start and there, with their gradients.

    Raises:
        ValueError: ``t`` has another length than 2.
        MaxStepsError: the event did not happen.
    """
    if len(call.t) != 2:
        raise ValueError(f"We require len(t) == 2 when in event handling mode, but got len(t)={len(call.t)}.")
    controller = call.plan.controller
    if getattr(call.plan.solver, "whole", False):
        raise ValueError("scipy_solver sees no events; dopri5 does.")
    require(
        not isinstance(controller, Steps) or controller.length is not None,
        "Event handling for fixed step solvers currently requires `step_size` to be provided in options.",
    )
    crossing, at_start = combined(call, event_fn)
    if at_start:
        rows = torch.stack([call.flat, call.flat])
        return call.t[0], call.structure.unravel(rows)
    start, ahead = call.t.tolist()
    end = math.inf if ahead > start else -math.inf
    moving = torch.cat([call.t[:1], torch.full_like(call.t[1:], end)])
    limit = MOST if call.plan.max_steps is None else call.plan.max_steps
    problem = call.problem([start, end], max_steps=limit)
    times = Times(problem.times, moving if moving.requires_grad and torch.is_grad_enabled() else None, moving.detach())
    event = {"event": Event(crossing=crossing, tolerance=_room(call.atol))}
    with call.recorded(gradient):
        kept = solve_eventful(gradient, problem, call.flat, times, None, call.func, event)
    if kept.result.status is not Status.EVENT:
        _failed(call, kept.result, limit)
    assert kept.t1 is not None
    return kept.t1.to(call.t), call.structure.unravel(torch.stack([call.flat, kept.y1]))


def combined(call: Call, event_fn: Callable[[Tensor, Any], Tensor]) -> tuple[Callable[[Tensor, Any], Tensor], bool]:
    """One crossing for all elements of ``event_fn``: each is turned to begin above zero, and the least of them counts.

    Also returned is whether the event happens at the start.
    """
    bound, y0 = call.bound, call.structure.unravel(call.flat)
    with torch.no_grad():
        first = torch.as_tensor(event_fn(bound.time(call.t[0].item()), y0))
        signs = torch.sign(first)

    def crossing(t: Tensor, y: Any) -> Tensor:
        return torch.min(event_fn(t, y) * signs)

    return crossing, bool((first * signs).min() == 0)


def _room(atol: float | Tensor) -> float | None:
    least = float(atol.min()) if isinstance(atol, Tensor) else atol
    return least or None


def _failed(call: Call, result: Any, limit: int) -> None:
    status = result.status
    if status is Status.MAX_STEPS:
        message = (
            f"`event_fn` kept its sign over {limit} steps, up to t = {result.t1:g}. Does it cross zero from here, "
            "in this direction of time? A slow approach may need more steps, "
            'options={"max_num_steps": ...}, or a looser rtol.'
        )
    else:
        message = f"The solve ended at t = {result.t1:g} before `event_fn` crossed zero ({status.value})."
    raise ERRORS[status](message, None, status)
