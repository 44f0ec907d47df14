"""A whole adaptive solve without gradient as one compiled graph: step, controller and dense output in one loop.

The host loop of compiled steps costs some fifty microseconds a step, which is more than the step of a small field. Here
the loop itself is compiled. It writes the curve of every accepted step into buffers, from which all rows are read at
once behind it. What it cannot serve, and every solve that fails, runs as single steps, which explain themselves.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pathline.compiled.capture import Reading, Untraceable
from pathline.compiled.kernels import Batched, Kernel, built, while_loop
from pathline.compiled.programs import Field, StepProgram, _spread, _sum
from pathline.compiled.solver import Compiled
from pathline.controllers import PID, PIDClock, Setting
from pathline.gradients.base import Kept
from pathline.hooks import Hooks
from pathline.loop import Problem, Result
from pathline.row_clocks import CREEPING
from pathline.saving import Save
from pathline.solvers.base import sparse
from pathline.solvers.runge_kutta import RungeKutta
from pathline.status import Status

Now = dict[str, Tensor]

#: What a step of the loop hands to the next, beside state and slope: start, end and length of the next step, the
#: last two error ratios, and counts.
STATE = ("t", "target", "dt", "before", "last", "rejected", "creeping", "steps", "accepted", "failed")
#: In place of a program: Inductor could not compile the loop of a field.
REFUSED = "no loop"
#: Elements of the largest state: the steps of larger ones take longer than what the loop saves.
LARGEST = 2**14
#: Steps of one call of the loop: an interrupt is heard between calls, and so many curves are kept.
STEPS = 128


def looped(problem: Problem, y0: Tensor, t: Tensor | None, args: Any) -> Kept | None:
    """The solve in one compiled loop; None where it has to go step by step.

    Args:
        problem: the solve.
        y0: the flat start.
        t: the requested times where they carry a gradient.
        args: what the field receives beside time and state.
    """
    solver, before = problem.solver, replace(problem.stats)
    if t is not None or not isinstance(solver, Compiled) or not _served(problem, solver, y0):
        return None
    reading = solver.reading(problem.term, problem.times[0], y0, args)
    if reading is None or reading.graph.programs.get(REFUSED):
        return None
    if torch.is_grad_enabled() and any(x.requires_grad for x in (y0, *reading.inputs)):
        return None
    kept = _Run(problem, solver, reading, y0, args).solve()
    if kept is None:
        problem.stats.__dict__.update(before.__dict__)
    return kept


def _served(problem: Problem, solver: Compiled, y0: Tensor) -> bool:
    control = problem.controller
    plain = type(control) is PID and control.jumps is None and control.must_hit is None and not control.force_min_step
    unseen = problem.save == Save() and problem.hooks == Hooks() and problem.watch is None
    method = solver.error == "ratio" and solver.base.fsal and (solver.base.free_dense or not solver.inner)
    state = y0.device.type == "cpu" and 0 < y0.numel() <= LARGEST and not problem.at_rest
    return plain and unseen and method and state and problem.max_steps is not None


class _Run:
    """One solve."""

    def __init__(self, problem: Problem, solver: Compiled, reading: Reading, y0: Tensor, args: Any) -> None:
        self.problem, self.solver, self.reading, self.args = problem, solver, reading, args
        self.y0 = y0.clone(memory_format=torch.contiguous_format)

    def solve(self) -> Kept | None:
        """Start the clock, loop until the end is reached, read off the rows."""
        problem, solver, y = self.problem, self.solver, self.y0
        term, times, ahead, most = problem.term, problem.times, solver.ahead, problem.max_steps or 0
        slope = solver.init(term, times[0], y, self.args)
        clock: Any = problem.controller.clock(Setting(term, problem.solver, times), y, self.args, slope)
        if slope is None or clock.hopeless:
            return None
        slope = slope.clone(memory_format=torch.contiguous_format)
        buffers, tolerance, law = self._buffers(), solver._tolerance(term), Law.of(clock)
        given = [*tolerance, *buffers, *self.reading.inputs]
        function = LoopProgram(solver.base, Field(self.reading, term), law, len(buffers))
        key = ("loop", law, *(tuple(x.shape) for x in tolerance), len(buffers))
        state = torch.tensor([clock.t, clock.propose(), clock.dt, *clock.ratios, *[0.0] * 5], dtype=torch.float64)
        rows = [y.unsqueeze(0)] * bisect_right(ahead, ahead[0])
        done, last, steps, accepted = len(rows), bisect_left(ahead, ahead[-1]), 0, 0
        while steps < most:
            limit = float(min(steps + STEPS, most))
            bounds = torch.tensor([clock.end, term.low, term.high, limit, clock.resolution], dtype=torch.float64)
            tensors = [y, slope, state, bounds, *given]
            one = torch.cat([bounds[:3], state.new_ones(1), bounds[4:]])  # compared with plain operations over one step
            examples = [y, slope, state, one, *given]
            found = self._call(key, function, tensors, examples, self._batched(len(buffers)), (0, 1))
            if found is None:
                return None
            y, slope, state = found
            now = dict(zip(STATE, state.tolist(), strict=True))
            until = min(bisect_right(ahead, now["t"] * solver.sign), last)
            if buffers and until > done:
                inner = self._read(buffers, int(now["accepted"]), solver.times[done:until])
                if inner is None:
                    return None
                rows.append(inner)
                done = until
            steps, accepted = int(now["steps"]), accepted + int(now["accepted"])
            if now["failed"]:
                return None
            if now["t"] == clock.end:
                self._count(steps, accepted)
                rows += [y.unsqueeze(0)] * (len(times) - last)
                result = Result(Status.SUCCESS, y, clock.end, (), valid=len(times), dt=now["dt"])
                return Kept((torch.cat(rows),), None, y, result)
            state[STATE.index("accepted")] = 0.0
        return None

    def _count(self, steps: int, accepted: int) -> None:
        stats = self.problem.stats
        stats.steps += steps
        stats.accepted += accepted
        stats.rejected += steps - accepted
        stats.evaluations += steps * (self.solver.base.stages - 1)
        stats.compiled = True

    def _buffers(self) -> list[Tensor]:
        """For the states at the starts of steps, their curves, and their ends in time."""
        if not self.solver.inner:
            return []
        y, degree = self.y0, len(self.solver.base._polynomial)
        ends = torch.empty(STEPS, 2, dtype=torch.float64)
        return [y.new_empty(STEPS, *y.shape), y.new_empty(STEPS, degree, *y.shape), ends]

    def _read(self, buffers: list[Tensor], accepted: int, due: list[float]) -> Tensor | None:
        """``(len(due), *state)``: the rows inside the steps of the last call."""
        sign, times = self.solver.sign, torch.tensor([*due, due[-1]], dtype=torch.float64)  # two at least
        place = torch.searchsorted(buffers[2][:accepted, 1].contiguous() * sign, times * sign)
        other = sum(self.y0.shape[:1]) + 2  # a size that is not that of the batch
        examples = [*buffers, place.new_zeros(other), times.new_zeros(other)]
        batched = {3: [0], 4: [0], **({0: [1], 1: [2]} if self.reading.graph.batched else {})}
        found = self._call(("rows",), read_rows, [*buffers, place, times], examples, batched)
        return None if found is None else found[0][:-1]

    def _batched(self, buffers: int) -> Batched:
        """The dimensions that vary with the batch."""
        known = self.reading.graph.batched
        if not known:
            return {}
        free = [i for i, x in enumerate(self.reading.tensors) if x is not None]
        inputs = {6 + buffers + j: known.get(i, []) for j, i in enumerate(free)}
        return {0: [0], 1: [0], **({6: [1], 7: [2]} if buffers else {}), **inputs}

    def _call(
        self,
        key: Any,
        function: Any,
        tensors: list[Tensor],
        examples: list[Tensor],
        batched: Batched,
        checked: Collection[int] = (),
    ) -> Any:
        """Call the program of this name, compiled at its first call; None where Inductor cannot."""
        solver, programs = self.solver, self.reading.graph.programs
        label = f"the {key[0]} of {solver.base.name} for a state {tuple(self.y0.shape)}"
        make = functools.partial(Kernel, function, examples, batched, solver.options, label, checked=checked)
        try:
            program = built(programs, (solver.base, *key), make)
        except Untraceable as error:  # whatever fails here, the steps are there
            programs[REFUSED] = error
            return None
        return program(*tensors)  # pyright: ignore[reportCallIssue]


# --- what is compiled


@dataclass(frozen=True)
class Law:
    """The numbers of a `PIDClock` that stay the same during a solve."""

    gains: tuple[float, ...]
    exponent: float
    deadband: float
    safety: float
    shrink: float
    grow: float
    min_step: float
    max_step: float

    @classmethod
    def of(cls, clock: PIDClock) -> Law:
        """Of a clock."""
        control = clock.config
        limits = (control.safety, control.shrink, control.grow, clock.min_step, clock.max_step)
        return cls(tuple(clock.gains), clock.exponent, clock.deadband, *limits)


class LoopProgram:
    """Steps until the end, a failure, the last step allowed, or full buffers.

    Args:
        base: the method.
        field: the captured field.
        law: of the step sizes.
        buffers: how many there are, into which the curves of the accepted steps are written.
    """

    def __init__(self, base: RungeKutta, field: Field, law: Law, buffers: int) -> None:
        self.base, self.law, self.buffers = base, law, buffers
        self.step = StepProgram(base, field, "ratio", False, True)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Takes y, the slope there, `STATE`, bounds, tolerances, buffers and inputs; returns the first three."""
        y, slope, state, *fixed = tensors
        return while_loop(self._goes_on, self._advance, (y, slope, state), tuple(fixed))

    def _goes_on(self, y: Tensor, slope: Tensor, state: Tensor, bounds: Tensor, *fixed: Tensor) -> Tensor:
        now: Now = dict(zip(STATE, state.unbind(), strict=True))
        end, _, _, limit, _ = bounds.unbind()
        return (now["t"] != end) & (now["failed"] == 0.0) & (now["steps"] < limit)

    def _advance(
        self, y: Tensor, slope: Tensor, state: Tensor, bounds: Tensor, rtol: Tensor, atol: Tensor, *fixed: Tensor
    ) -> tuple[Tensor, ...]:
        """One step, and the verdict of `PIDClock.judge` on it."""
        now: Now = dict(zip(STATE, state.unbind(), strict=True))
        end, low, high, _, resolution = bounds.unbind()
        t, target = now["t"], now["target"]
        buffers, inputs = fixed[: self.buffers], fixed[self.buffers :]
        h, field = _spread(target - t, y), self.step.field.reads(inputs, low, high)
        y1, slopes = self.step._stages(field, t, target, y, h, slope)
        (ratio,) = self.step._errors(y, y1, h, slopes, rtol, atol)
        if buffers:
            curve = [_sum(sparse(weights), slopes) * h for weights in self.base._polynomial.tolist()]
            place = (now["accepted"].long(),)  # a step that is rejected is written over by the next
            for buffer, value in zip(buffers, (y, torch.stack(curve), torch.stack([t, target])), strict=True):
                buffer.index_put_(place, value)
        ratio = ratio.double()
        counts = (ratio <= 1.0) & (now["creeping"] < CREEPING)
        ahead, back = self._accepted(now, ratio, end), self._rejected(now, ratio, resolution)
        new: Now = {name: torch.where(counts, ahead[name], back[name]) for name in STATE}
        new["target"] = self._target(new["t"], new["dt"], end)
        ends = [torch.where(counts, y1, y), torch.where(counts, slopes[-1], slope)]
        return *(x.clone(memory_format=torch.contiguous_format) for x in ends), _packed(new)

    def _target(self, t: Tensor, dt: Tensor, end: Tensor) -> Tensor:
        """As `PIDClock.propose`."""
        left = (end - t).abs()
        reached = (dt >= left * 0.99) & (left <= self.law.max_step)
        target = torch.where(reached, end, t + torch.sign(end - t) * dt)
        return torch.where(target == t, torch.nextafter(t, end), target)

    def _accepted(self, now: Now, ratio: Tensor, end: Tensor) -> Now:
        """As the second half of `PIDClock.judge`."""
        law, target = self.law, now["target"]
        h = (target - now["t"]).abs()
        factor = self._factor(now, ratio)
        factor = torch.where(now["rejected"] > 0.0, factor.clamp(max=1.0), factor)
        factor = torch.where((factor >= 1.0) & (factor < law.deadband), 1.0, factor)
        cut = torch.maximum(h * factor, torch.minimum(now["dt"], h * law.grow))
        grown = torch.where(h >= now["dt"] * 0.99, h * factor, cut)
        ulp = _ulp(target)
        least = torch.where((end - target).abs() > 1e7 * ulp, 10 * ulp, 0.0)
        dt = torch.maximum(grown, least).clamp(law.min_step, law.max_step)
        creeps = (least > 0.0) & (torch.maximum(h, dt) <= least + ulp)
        return {
            "t": target,
            "target": target,
            "dt": dt,
            "before": now["last"],
            "last": ratio.clamp(min=1e-10),
            "rejected": torch.zeros_like(h),
            "creeping": torch.where(creeps, now["creeping"] + 1.0, 0.0),
            "steps": now["steps"] + 1.0,
            "accepted": now["accepted"] + 1.0,
            "failed": now["failed"],
        }

    def _rejected(self, now: Now, ratio: Tensor, resolution: Tensor) -> Now:
        """As `PIDClock._reject`; why no further step can be made is left to that."""
        law, t, target = self.law, now["t"], now["target"]
        h = (target - t).abs()
        factor = (law.safety * ratio**-law.exponent).clamp(law.shrink, 0.999)
        factor = torch.where(torch.isfinite(ratio), factor, law.shrink)
        floor = torch.maximum(10 * _ulp(t), resolution).clamp(min=law.min_step)
        shortest = floor * (1 + 1e-9) + _ulp(torch.maximum(t.abs(), target.abs()))
        stuck = (h <= shortest) | (now["creeping"] >= CREEPING)
        changed = {"dt": torch.maximum(h * factor, floor), "steps": now["steps"] + 1.0, "failed": stuck.double()}
        return {**now, **changed, "rejected": torch.ones_like(h)}

    def _factor(self, now: Now, ratio: Tensor) -> Tensor:
        """As `PIDClock._factor`."""
        law, (p, i, d), k = self.law, self.law.gains, self.law.exponent
        factor = law.safety * ratio ** -((p + i + d) * k)
        if p + 2 * d:
            factor = factor * now["last"] ** ((p + 2 * d) * k)
        if d:
            factor = factor * now["before"] ** -(d * k)
        return torch.where(ratio == 0.0, law.grow, factor.clamp(law.shrink, law.grow))


def _packed(now: Now) -> Tensor:
    """One vector, made by one kernel."""
    place = torch.arange(len(STATE))
    values = iter(now[name] for name in STATE)
    packed = next(values).expand(len(STATE))
    for i, value in enumerate(values, 1):
        packed = torch.where(place == i, value, packed)
    return packed.clone()


def _ulp(t: Tensor) -> Tensor:
    """The distance to the next number."""
    return torch.nextafter(t.abs(), torch.full_like(t, math.inf)) - t.abs()


def read_rows(starts: Tensor, curves: Tensor, ends: Tensor, place: Tensor, times: Tensor) -> tuple[Tensor]:
    """``(n, *state)``: the curves of the steps in these places at these times."""
    t0, t1 = ends[place].unbind(1)
    theta = ((times - t0) / (t1 - t0)).to(starts.dtype).reshape(-1, *(1,) * (starts.dim() - 1))
    rows = torch.zeros_like(theta)
    for power in reversed(range(curves.shape[1])):
        rows = theta * (rows + curves[place, power])
    return (starts[place] + rows,)
