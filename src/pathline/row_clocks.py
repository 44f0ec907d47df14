"""Clocks for the per-sample clock: every sample its own time and step.

The arithmetic is that of the shared clock, row by row, so that a sample takes the steps that it would take alone; like
there it is done on the host, in numpy arrays ``(rows,)``. Rows are the samples that are still active; `select` drops
the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.solvers.base import spread
from pathline.solvers.jacobians import transforming
from pathline.status import Status
from pathline.tolerance import Tolerance

if TYPE_CHECKING:
    from pathline.controllers import PID, Setting
    from pathline.solvers.base import Step
    from pathline.terms import Bound

#: Statuses as numbers, for tensors of them.
CODES: tuple[Status, ...] = tuple(Status)
_SUCCESS, _UNDERFLOW, _NON_FINITE, _NEWTON = (
    CODES.index(s) for s in (Status.SUCCESS, Status.STEP_UNDERFLOW, Status.NON_FINITE, Status.NEWTON)
)

#: After so many steps of the least length that all count the solution creeps towards a singularity.
CREEPING = 20

Array = np.ndarray[Any, Any]


class RowGrid:
    """Fixed steps: every step counts; a sample is done after its own number of them.

    Args:
        steps: ``(rows,)``, their numbers.
        at: ``at(k)``, the times of all samples before step ``k``, ``(batch,)``; a sample past its end stays there.

    Attributes:
        t: the times reached, ``(rows,)``; with derivatives where those are wanted.
        done, failure: which samples are at their end, and why a sample cannot go on (an index of `CODES`).
    """

    measures = False

    def __init__(self, steps: Tensor, at: Callable[[int], Tensor]) -> None:
        self.steps, self.at = on_host(steps), at
        self.index: Tensor | None = None
        self.k = 0
        self.t = at(0)
        self.done: Array = self.steps == 0
        self.failure: Array = np.zeros_like(self.steps)

    def times(self, k: int, index: Tensor | None) -> Tensor:
        """The times before step ``k`` of some samples."""
        return self.at(k) if index is None else self.at(k)[index]

    def propose(self) -> Tensor:
        """The ends of the next steps."""
        self.target = self.times(self.k + 1, self.index)
        return self.target

    def judge(self, y0: Tensor, step: Step) -> Array | None:
        """Every finite step counts; None says all of them."""
        self.k += 1
        finite = _finite_rows(step.y1)
        failed = _mask(step.failed, len(y0))
        good = finite & ~failed
        self.done = self.steps == self.k
        if good.all():
            self.t = self.target
            return None
        self.failure = np.where(good, _SUCCESS, np.where(failed, _reasons(step), _NON_FINITE))
        self.t = torch.where(torch.from_numpy(good).to(self.t.device), self.target, self.t)
        return good

    def sided(self, term: Bound) -> tuple[Bound, bool]:
        """Fixed steps know no jumps."""
        return term, False

    def select(self, rows: Array, keep: Tensor) -> None:
        """Drop all other rows."""
        self.index = keep if self.index is None else self.index[keep]
        self.t = self.t[keep]
        self.steps, self.done, self.failure = self.steps[rows], self.done[rows], self.failure[rows]


class RowPID:
    """Adaptive steps, one clock a sample; the attributes are those of `RowGrid`."""

    measures = True

    def __init__(self, config: PID, setting: Setting, y0: Tensor, args: Any, carry: Any) -> None:
        self.config, self.solver, self.term = config, setting.solver, setting.term
        self.tolerance = setting.term.tolerance or Tolerance(0.0, 1.0, per_sample=True)
        self.t: Tensor = setting.times[0].detach().double()
        self.device = self.t.device
        self.now: Array = on_host(self.t)
        self.end: Array = on_host(setting.times[-1].detach().double())
        self.sign = np.where(self.end >= self.now, 1.0, -1.0)
        self.done: Array = self.now == self.end
        self.failure: Array = np.zeros(len(self.now), dtype=np.int64)
        self.stops, self.jumps = self._stops()
        self.gains = config.gains(setting.solver)
        self.exponent: Any = 1.0 / ((setting.solver.embedded_order or 0) + 1)
        self.deadband = getattr(setting.solver, "deadband", 1.0)
        self.max_step, self.min_step = float(config.max_step or math.inf), float(config.min_step or 0.0)
        self.before = self.last = np.ones_like(self.now)
        self.rejected = np.zeros_like(self.done)
        self.hopeless = np.zeros_like(self.done)
        first = on_host(self._first_step(y0, args, carry))
        self.dt = np.clip(first, self.min_step, self.max_step)
        self.resolution = 10 * np.spacing(self.dt)
        self.creeping = np.zeros_like(self.failure)
        self.target = self.now

    def _stops(self) -> tuple[Array | None, Array | None]:
        """``(rows, stops)``, the times to hit in the order they come, the end last; and which of them are jumps."""
        hits, jumps = (_columns(x, len(self.now)) for x in (self.config.must_hit, self.config.jumps))
        given = [x for x in (hits, jumps) if x is not None]
        if not given:
            return None, None
        ahead = np.concatenate([*given, self.end[:, None]], axis=1) * self.sign[:, None]
        inside = (ahead > (self.now * self.sign)[:, None]) & (ahead <= (self.end * self.sign)[:, None])
        return np.sort(np.where(inside, ahead, np.inf), axis=1), jumps

    # --- proposing

    def propose(self) -> Tensor:
        """The ends of the next steps: the stops ahead, or steps of the chosen lengths."""
        now, stop = self.now, self.end
        if self.stops is not None:
            place = (self.stops <= (now * self.sign)[:, None]).sum(1)
            stop = self.stops[np.arange(len(now)), place] * self.sign
        left = np.abs(stop - now)
        # Within a hundredth of the stop the step is stretched to it: a sliver would cost as much as a step.
        reached = (self.dt >= left * 0.99) & (left <= self.max_step)
        target = np.where(reached, stop, now + self.sign * self.dt)
        self.target = np.where(target == now, np.nextafter(now, stop), target)
        return torch.from_numpy(self.target).to(self.device)

    def sided(self, term: Bound) -> tuple[Bound, bool]:
        """The term that sees its own side of a jump only, and whether a step starts at one."""
        if self.jumps is None:
            return term, False
        starts, ends = ((self.jumps == x[:, None]).any(1) for x in (self.now, self.target))
        if not (starts | ends).any():
            return term, False
        both = torch.from_numpy(np.stack([self.now, self.target])).to(self.device, term.dtype)
        t, target = both[0], both[1]
        starts_at, ends_at = (torch.from_numpy(x).to(self.device) for x in (starts, ends))
        first = torch.where(starts_at, torch.nextafter(t, target), t).double()
        last = torch.where(ends_at, torch.nextafter(target, t), target).double()
        return term.between(torch.minimum(first, last), torch.maximum(first, last)), bool(starts.any())

    # --- judging

    @torch.no_grad()
    def judge(self, y0: Tensor, step: Step) -> Array | None:
        """Compare the error estimates with the tolerance, choose the next lengths; None says that every step counts."""
        config = self.config
        h = np.abs(self.target - self.now)
        ratio = self._ratio(y0, step)
        failed = None if step.failed is None or step.failed is False else _mask(step.failed, len(h))
        if failed is not None:
            ratio = np.where(failed, np.inf, ratio)
        accept = ratio <= 1.0
        if config.force_min_step:
            accept |= (h <= self.min_step * (1 + 1e-9)) & np.isfinite(ratio)
        accept &= self.creeping < CREEPING
        exponent = getattr(step, "exponent", None)
        exponent = self.exponent if exponent is None else _numbers(exponent)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            crept, grown = self.creeping, self._grown(h, ratio, exponent, step)
            kept = np.maximum(ratio, 1e-10)
            if accept.all():
                self.before, self.last, self.dt = self.last, kept, grown
                self.now, self.rejected = self.target, np.zeros_like(accept)
                self.done = self.now == self.end
                self.t = torch.from_numpy(self.now).to(self.device)
                return None
            self.creeping = np.where(accept, self.creeping, crept)
            self.before = np.where(accept, self.last, self.before)
            self.last = np.where(accept, kept, self.last)
            self.dt = np.where(accept, grown, self._shrunk(h, ratio, exponent, accept, failed, step))
        self.now = np.where(accept, self.target, self.now)
        self.rejected = ~accept
        self.done = self.now == self.end
        self.t = torch.from_numpy(self.now).to(self.device)
        return accept

    def _grown(self, h: Array, ratio: Array, exponent: Any, step: Step) -> Array:
        config = self.config
        factor = getattr(step, "factor", None)
        factor = self._factor(ratio, exponent) if factor is None else np.broadcast_to(_numbers(factor), h.shape)
        factor = np.where(self.rejected, np.minimum(factor, 1.0), factor)
        if self.deadband > 1.0:
            factor = np.where((factor >= 1.0) & (factor < self.deadband), 1.0, factor)
        grown = h * factor
        short = h < self.dt * 0.99
        if short.any():
            # A step that a stop cut short says little: the length before the cut stands.
            grown = np.where(short, np.maximum(grown, np.minimum(self.dt, h * config.grow)), grown)
        ulp = np.spacing(np.abs(self.target))
        # Where the whole span is but a few roundings, steps of one rounding are all there is.
        least = np.where(np.abs(self.end - self.target) > 1e7 * ulp, 10 * ulp, 0.0)
        grown = np.clip(np.maximum(grown, least), self.min_step, self.max_step)
        self.creeping = np.where((least > 0) & (np.maximum(h, grown) <= 11 * ulp), self.creeping + 1, 0)
        return grown

    def _shrunk(self, h: Array, ratio: Array, exponent: Any, accept: Array, failed: Array | None, step: Step) -> Array:
        config = self.config
        finite = np.isfinite(ratio)
        factor = np.clip(config.safety * ratio**-exponent, config.shrink, 1.0)
        factor = np.where(finite, factor, config.shrink)
        floor = np.maximum(np.maximum(10 * np.spacing(np.abs(self.now)), self.resolution), self.min_step)
        # The end of a step is rounded: one of the least length may be longer than that by an ulp.
        shortest = floor * (1 + 1e-9) + np.spacing(np.maximum(np.abs(self.now), np.abs(self.target)))
        stuck = ~accept & ((h <= shortest) | self.hopeless | (self.creeping >= CREEPING))
        if stuck.any():
            # A finite state with an infinite ratio is the tolerance's doing, not the field's.
            why = np.where(finite | _finite_rows(step.y1), _UNDERFLOW, _NON_FINITE)
            why = why if failed is None else np.where(failed, _reasons(step), why)
            self.failure = np.where(stuck, why, self.failure)
        return np.maximum(h * np.minimum(factor, 0.999), floor)

    def _factor(self, ratio: Array, k: Any) -> Array:
        config, (p, i, d) = self.config, self.gains
        factor = config.safety * ratio ** -((p + i + d) * k)
        if p + 2 * d:
            factor = factor * self.last ** ((p + 2 * d) * k)
        if d:
            factor = factor * self.before ** -(d * k)
        return np.clip(factor, config.shrink, config.grow)  # a ratio of zero gives infinity here, so `grow`

    def _ratio(self, y0: Tensor, step: Step) -> Array:
        ratio = getattr(step, "ratio", None)
        if ratio is not None:
            return on_host(ratio.detach().double())
        error = step.error
        if error is None:
            return np.zeros_like(self.now)
        scale = self.tolerance.scale(y0, step.y1)
        if isinstance(error, Tensor):
            return on_host(self._norm(error / scale))
        # Estimates of orders 5 and 3 combine to one that falls like h^8 (Hairer, Norsett, Wanner, II.10).
        fine, coarse = (on_host(self._norm(e / scale)) for e in error)
        with np.errstate(invalid="ignore"):
            return np.where(fine == 0, fine, fine * fine / np.hypot(fine, 0.1 * coarse))

    def _norm(self, scaled: Tensor) -> Tensor:
        if self.config.norm is None:
            return self.tolerance.norms(scaled)
        norms = torch.as_tensor(self.config.norm(self.term.structure.unravel(scaled))).to(self.t)
        if norms.shape != (len(scaled),):
            raise ValueError(
                f"`norm` returned shape {tuple(norms.shape)} for {len(scaled)} samples. On the per-sample clock it "
                "maps the scaled error, samples first, to one number for each sample."
            )
        return norms

    # --- the first step

    @torch.no_grad()
    def _first_step(self, y0: Tensor, args: Any, carry: Any) -> Tensor:
        span, sign = (torch.from_numpy(x).to(self.device) for x in (np.abs(self.end - self.now), self.sign))
        given = self.config.first_step
        if given is not None:
            given = torch.as_tensor(given, dtype=span.dtype, device=span.device)
            if given.dim() and given.shape != span.shape:
                raise ValueError(
                    f"`first_step` is a number, or has one for each of the {len(span)} samples; its shape is "
                    f"{tuple(given.shape)}."
                )
            return torch.minimum(given.expand_as(span), span)
        if self.solver.needs == "contract":
            raise ValueError(
                f'The first step cannot be chosen for "{self.solver.name}", whose term has no rate dy/dt. '
                "Set controller=PID(first_step=...)."
            )
        f0 = carry if self.solver.carries_slope and carry is not None else self.term.rate(self.t, y0, args)
        scale = self.tolerance.scale(y0, y0)
        d0, d1 = self._norm(y0 / scale), self._norm(f0 / scale)
        known = torch.isfinite(d1)
        self.hopeless = ~_finite_rows(f0)  # no step from here can be finite
        h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h0 = torch.minimum(torch.where(known, h0, 1e-6), span)
        f1 = self.term.rate(self.t + sign * h0, y0 + spread(sign * h0, y0) * f0, args)
        d2 = self._norm((f1 - f0) / scale) / h0
        steepest = torch.maximum(d1, d2)
        h1 = torch.where(steepest <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / steepest) ** self.exponent)
        first = torch.minimum(torch.minimum(100 * h0, h1), span)
        hopeless = torch.from_numpy(self.hopeless).to(self.device)
        return torch.where(torch.isfinite(steepest), first, torch.where(hopeless, span, h0))

    def select(self, rows: Array, keep: Tensor) -> None:
        """Drop all other rows."""
        self.term, self.tolerance = self.term.select(keep), self.tolerance.select(keep)
        for name in _ROWS:
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[rows])
        self.t = torch.from_numpy(self.now).to(self.device)


_ROWS = (
    *("now", "end", "sign", "done", "failure", "stops", "jumps", "before", "last", "rejected", "hopeless", "dt"),
    *("resolution", "creeping", "target"),
)


def _columns(times: Sequence[float] | Tensor | None, rows: int) -> Array | None:
    """``(rows, n)`` of times that all samples share, ``(n,)``, or that are each one's own, ``(n, batch)``."""
    if times is None or len(times) == 0:
        return None
    given = on_host(torch.as_tensor(times, dtype=torch.float64).detach())
    if given.ndim == 1:
        return np.broadcast_to(given, (rows, len(given)))
    if given.ndim != 2 or given.shape[1] != rows:
        raise ValueError(
            f"Times to hit are `(n,)` for all samples or `(n, batch)`; they have shape {given.shape} for {rows} "
            "samples."
        )
    return np.ascontiguousarray(given.T)


def _mask(failed: Any, rows: int) -> Array:
    if isinstance(failed, Tensor):
        return on_host(failed)
    return np.full(rows, bool(failed))


def on_host(x: Tensor) -> Array:
    """A small tensor as an array."""
    if transforming():  # no memory behind a wrapped tensor
        kind = bool if x.dtype == torch.bool else float if x.is_floating_point() else np.int64
        return np.array(x.tolist(), dtype=kind)
    return x.cpu().numpy()


def _reasons(step: Step) -> Any:
    """Why rows failed: the field is to blame where it returned numbers that are not finite."""
    lost = getattr(step, "lost", None)
    return _NEWTON if lost is None else np.where(lost, _NON_FINITE, _NEWTON)


def _numbers(x: Any) -> Any:
    return on_host(x.detach().double()) if isinstance(x, Tensor) else x


@torch.no_grad()
def _finite_rows(y: Tensor) -> Array:
    return on_host(torch.isfinite(y.reshape(len(y), -1)).all(1))
