"""Solvers and controllers whose every move is known, to count what the loop does."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from pathline.status import Status


class LineStep:
    """A step along a line: y moves by the length of the step, whatever the field says."""

    failed = None

    def __init__(self, t0, t1, y, error, log):
        self.t0, self.t1, self.y0, self.log = t0, t1, y, log
        self.y1 = y + (t1 - t0)
        self.error = error
        self.carry = torch.full_like(y, len(log))

    def rows(self, times):
        times = torch.as_tensor(times, dtype=self.y0.dtype)
        self.log.append(("rows", times.tolist()))
        shape = (-1,) + (1,) * self.y0.dim()
        return self.y0 + (times - self.t0).reshape(shape)

    def coefficients(self):
        self.log.append(("coefficients",))
        return torch.stack((self.y0, torch.full_like(self.y0, self.t1 - self.t0)))


class LineSolver:
    """Calls the field twice a step, once in `init`; writes down what it was handed."""

    name = "line"
    needs = "rate"
    order = 1
    embedded_order = 1
    carries_slope = False

    def __init__(self, *, adaptive=True, errors=(), failures=()):
        self.adaptive = adaptive
        self.errors, self.failures = list(errors), list(failures)
        self.log: list[Any] = []
        self.carries: list[Any] = []

    def init(self, term, t0, y0, args):
        self.log.append(("init", t0))
        term.rate(t0, y0, args)
        return "first carry"

    def step(self, term, t0, t1, y, args, carry):
        self.log.append(("step", t0, t1))
        self.carries.append(carry)
        term.rate(t0, y, args)
        term.rate(t1, y, args)
        size = self.errors.pop(0) if self.errors else 0.0
        step = LineStep(t0, t1, y, torch.full_like(y, size) if self.adaptive else None, self.log)
        if self.failures:
            step.failed = self.failures.pop(0)
        return step

    def steps(self):
        """The steps tried, as (t0, t1)."""
        return [entry[1:] for entry in self.log if entry[0] == "step"]

    def count(self, kind):
        return sum(entry[0] == kind for entry in self.log)


@dataclass
class Script:
    """A controller that reads from a script: pairs of a length and a verdict."""

    moves: list[tuple[float, bool]]
    fails: Status | None = None
    exact_times: bool = False
    clocks: list[Any] = field(default_factory=list)

    def clock(self, setting, y0, args, carry):
        clock = ScriptClock(self, [getattr(t, "item", lambda t=t: t)() for t in setting.times])
        self.clocks.append(SimpleNamespace(clock=clock, setting=setting, y0=y0, args=args, carry=carry))
        return clock


class ScriptClock:
    measures = True
    failure = None

    def __init__(self, script, times):
        self.script, self.t, self.end = script, times[0], times[-1]
        self.sign = 1.0 if self.end >= self.t else -1.0
        self.moves = list(script.moves)
        self.done = self.t == self.end
        self.judged: list[Any] = []

    def propose(self):
        self.length, self.verdict = self.moves.pop(0)
        target = self.t + self.sign * self.length
        self.target = self.end if abs(target - self.end) < 1e-12 else target
        return self.target

    def judge(self, y0, step):
        self.judged.append((y0, step))
        if self.verdict:
            self.t = self.target
            self.done = self.t == self.end
        elif not self.moves:
            self.failure = self.script.fails
        return self.verdict

    def sided(self, term):
        return term
