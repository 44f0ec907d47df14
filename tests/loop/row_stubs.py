"""A solver and a controller for the loop of one clock a sample, whose every move is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pathline.row_clocks import CODES
from pathline.solvers.base import Memory, spread
from pathline.status import Status


class RowLineStep:
    """A step along a line: y moves by the length of the step. The carry counts a sample's tries and its steps."""

    error = failed = None

    def __init__(self, t0, t1, y, carry, log, known):
        self.t0, self.t1, self.y0, self.log = t0, t1, y, log
        self.y1 = y + spread(t1 - t0, y)
        tries, steps = carry if carry is not None else (torch.zeros(len(y)), torch.zeros(len(y)))
        self.carry = (tries + 1, steps + 1, Memory(known))
        self.retry = (tries + 1, steps, Memory(known))

    def coefficients(self, rows=None):
        y0, length = self.y0, spread(self.t1 - self.t0, self.y0) + 0 * self.y0
        self.log.append(("coefficients", None if rows is None else rows.tolist()))
        whole = torch.stack((y0, length))
        return whole if rows is None else whole[:, rows]


class RowLineSolver:
    """Calls the field twice a step, once in `init`; writes down what it was handed."""

    name = "row line"
    needs = "rate"
    order = 1
    embedded_order = 1
    carries_slope = False
    adaptive = True

    def __init__(self, *, free_dense=False):
        self.free_dense = free_dense
        self.log: list[Any] = []
        self.carries: list[Any] = []

    def init(self, term, t0, y0, args):
        self.log.append(("init", t0.tolist()))
        term.rate(t0, y0, args)
        return torch.zeros(len(y0)), torch.zeros(len(y0)), Memory(torch.zeros(len(y0)))

    def step(self, term, t0, t1, y, args, carry):
        self.log.append(("step", t0.tolist(), t1.tolist()))
        tries, steps, memory = (None, None, None) if carry is None else carry
        known = None if memory is None else memory.tree
        self.carries.append(None if carry is None else (tries.tolist(), steps.tolist(), known))
        term.rate(t0, y, args)
        term.rate(t1, y, args)
        return RowLineStep(t0, t1, y, None if carry is None else (tries, steps), self.log, torch.ones(len(y)))

    def steps(self):
        """The steps tried, as (t0s, t1s)."""
        return [entry[1:] for entry in self.log if entry[0] == "step"]

    def count(self, kind):
        return sum(entry[0] == kind for entry in self.log)


@dataclass
class RowScript:
    """A controller that reads from scripts: for each sample pairs of a length and a verdict."""

    moves: list[list[tuple[float, bool]]]
    fails: Status = Status.STEP_UNDERFLOW
    jumps: tuple[float, ...] = ()
    exact_times: bool = False
    told: list[Any] = field(default_factory=list)

    def clock(self, setting, y0, args, carry):
        raise AssertionError("the shared clock was asked for")

    def rows(self, setting, y0, args, carry):
        self.told.append((setting, y0, args, carry))
        return RowScriptClock(self, setting.times)


class RowScriptClock:
    """The clocks of all active samples."""

    measures = True

    def __init__(self, script, times):
        self.script = script
        self.t, self.end = times[0].clone(), times[-1]
        self.sign = torch.where(self.end >= self.t, 1.0, -1.0)
        self.moves = [list(moves) for moves in script.moves]
        self.done = (self.t == self.end).numpy()
        self.failure = np.zeros(len(self.t), dtype=np.int64)

    def propose(self):
        lengths, verdicts = zip(*(moves.pop(0) for moves in self.moves), strict=True)
        self.good = torch.tensor(verdicts)
        self.target = self.t + self.sign * torch.tensor(lengths, dtype=self.t.dtype)
        return self.target

    def sided(self, term):
        return term, any(bool((self.t == jump).any()) for jump in self.script.jumps)

    def judge(self, y0, step):
        assert len(y0) == len(step.y1) == len(self.t)
        self.t = torch.where(self.good, self.target, self.t)
        self.done = (self.t == self.end).numpy()
        stuck = np.array([not good and not moves for good, moves in zip(self.good.tolist(), self.moves, strict=True)])
        self.failure = np.where(stuck, CODES.index(self.script.fails), 0)
        return None if bool(self.good.all()) else self.good.numpy()

    def select(self, rows, keep):
        assert rows.tolist() == keep.tolist()
        self.t, self.end, self.sign = self.t[keep], self.end[keep], self.sign[keep]
        self.moves = [self.moves[i] for i in rows]
        self.done, self.failure = self.done[rows], self.failure[rows]
