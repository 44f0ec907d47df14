"""Facts about the field of a training step, those that can be had in a short time."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline.advising.advice import Facts
from pathline.advising.looking import Rate, kinked_layers, looks_smooth, steepness
from pathline.advising.tasks import Task, until
from pathline.solution import Solution
from pathline.solving import solve
from pathline.terms import ODE, Term, unwrapped

#: States of the solution that are looked at.
POINTS = 5
#: Explicit steps of this length, in units of the fastest rate, for this number of steps, are held by stability.
EDGE, HELD = 1.5, 20


def facts_of(task: Task, seconds: float) -> Facts:
    """Look at the field along a solution."""
    found: dict[str, Any] = {"kinks": kinked_layers(task.f, task.args)}
    end = time.perf_counter() + seconds
    first, last = float(task.t[0]), float(task.t[-1])
    points = torch.linspace(first, last, POINTS, dtype=torch.float64, device=task.t.device).to(task.t.dtype)
    try:
        ahead = _solve(task, task.y0, points, seconds)
    except Exception:  # noqa: BLE001  (the rows of the table will say what is wrong)
        return Facts(**found)
    look = _Look(task, ahead, points.tolist())
    for estimate in (look.back_again, look.steep, look.smooth):
        left = end - time.perf_counter()
        if left <= 0:
            break
        try:
            found |= estimate(left)
        except Exception:  # noqa: BLE001  (an estimate that this field does not allow)
            continue
    return Facts(**found)


def _solve(task: Task, y0: Any, t: Any, seconds: float, **options: Any) -> Solution:
    with torch.no_grad():
        return solve(task.f, y0, t, args=task.args, rtol=task.rtol, atol=task.atol, hooks=until(seconds), **options)


class _Look:
    """A solution and its field, as functions of flat states."""

    def __init__(self, task: Task, ahead: Solution, times: list[float]) -> None:
        self.task, self.ahead, self.times = task, ahead, times
        term: Any = task.f if isinstance(task.f, Term) else ODE(task.f)
        start = pytree.tree_map(torch.Tensor.detach, task.y0)
        args = None if task.args is None else unwrapped(task.args, None)
        self.rate = Rate(lambda t, y: term.rate(t, y, args), start)
        rows = [pytree.tree_map(lambda x, i=i: x[i], ahead.ys) for i in range(len(times))]
        self.states: list[Tensor] = [self.rate.flat(y) for y in rows]

    def back_again(self, seconds: float) -> dict[str, Any]:
        """The way back."""
        ends, most = [self.times[-1], self.times[0]], 20 * self.ahead.stats.steps + 100
        back = _solve(self.task, self.ahead.y1, ends, seconds, on_failure="return", max_steps=most)
        size = torch.stack([z.abs().max() for z in self.states]).max()
        missed = (self.rate.flat(back.y1) - self.states[0]).abs().max() / size
        return {"back_again": float(missed) if back.status else math.inf}

    def steep(self, seconds: float) -> dict[str, Any]:
        """The Jacobian."""
        pairs = [steepness(self.rate, t, z) for t, z in zip(self.times, self.states, strict=True)]
        lipschitz, fastest = (max(x) for x in zip(*pairs, strict=True))
        accepted = self.ahead.stats.accepted
        stiffness = fastest * self.task.span / max(accepted, 1)
        stiff = stiffness > EDGE and accepted > HELD
        return {"lipschitz": lipschitz, "fastest": fastest, "stiffness": stiffness, "stiff": stiff}

    def smooth(self, seconds: float) -> dict[str, Any]:
        """Kinks that layers show, or that are felt."""
        known = kinked_layers(self.task.f, self.task.args)
        return {"smooth": not known and looks_smooth(self.rate, self.times, self.states)}
