"""Clocks for the per-sample clock: every sample its own time and step, as float64 tensors ``(rows,)``.

The arithmetic is that of the shared clock, row by row, so that a sample takes the steps that it would take alone. Rows
are the samples that are still active; `select` drops the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pathline.solvers.base import spread
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


class RowGrid:
    """Fixed steps: every step counts; a sample is done after its own number of them.

    Args:
        steps: ``(rows,)``, their numbers.
        at: ``at(k)``, the times of all samples before step ``k``, ``(batch,)``; a sample past its end stays there.
    """

    measures = False

    def __init__(self, steps: Tensor, at: Callable[[int], Tensor]) -> None:
        self.steps, self.at = steps, at
        self.index: Tensor | None = None
        self.k = 0
        self.t = at(0)
        self.done: Tensor = torch.eq(steps, 0)
        self.failure = torch.zeros_like(steps)

    def times(self, k: int, index: Tensor | None) -> Tensor:
        """The times before step ``k`` of some samples."""
        return self.at(k) if index is None else self.at(k)[index]

    def propose(self) -> Tensor:
        """The ends of the next steps."""
        self.target = self.times(self.k + 1, self.index)
        return self.target

    def judge(self, y0: Tensor, step: Step) -> Tensor | None:
        """Every finite step counts; None says all of them."""
        self.k += 1
        with torch.no_grad():
            finite = torch.isfinite(step.y1.reshape(len(y0), -1)).all(1)
            failed = _mask(step.failed, finite)
            good = finite & ~failed
            self.done = torch.eq(self.steps, self.k)
            if bool(good.all()):
                self.t = self.target
                return None
            self.failure = torch.where(good, _SUCCESS, torch.where(failed, _NEWTON, _NON_FINITE))
            self.t = torch.where(good, self.target, self.t)
        return good

    def sided(self, term: Bound) -> tuple[Bound, bool]:
        """Fixed steps know no jumps."""
        return term, False

    def select(self, keep: Tensor) -> None:
        """Drop all other rows."""
        self.index = keep if self.index is None else self.index[keep]
        self.steps, self.t, self.done, self.failure = (x[keep] for x in (self.steps, self.t, self.done, self.failure))


class RowPID:
    """Adaptive steps, one clock a sample."""

    measures = True

    def __init__(self, config: PID, setting: Setting, y0: Tensor, args: Any, carry: Any) -> None:
        self.config, self.solver, self.term = config, setting.solver, setting.term
        self.tolerance = setting.term.tolerance or Tolerance(0.0, 1.0, per_sample=True)
        self.t: Tensor = setting.times[0].detach().double()
        self.end: Tensor = setting.times[-1].detach().double()
        self.sign = torch.where(self.end >= self.t, 1.0, -1.0).to(self.t)
        self.done = self.t == self.end
        self.failure = torch.zeros_like(self.t, dtype=torch.long)
        self.stops, self.jumps = self._stops()
        self.gains = config.gains(setting.solver)
        self.exponent: Any = 1.0 / ((setting.solver.embedded_order or 0) + 1)
        self.deadband = getattr(setting.solver, "deadband", 1.0)
        self.max_step, self.min_step = float(config.max_step or math.inf), float(config.min_step or 0.0)
        self.before = self.last = torch.ones_like(self.t)
        self.rejected = torch.zeros_like(self.done)
        self.hopeless = torch.zeros_like(self.done)
        self.dt = self._first_step(y0, args, carry).clamp(self.min_step, self.max_step)
        self.resolution = 10 * _ulp(self.dt)
        self.target = self.t

    def _stops(self) -> tuple[Tensor | None, Tensor | None]:
        """``(rows, stops)``, the times to hit in the order they come, the end last; and which of them are jumps."""
        hits, jumps = (_columns(x, self.t) for x in (self.config.must_hit, self.config.jumps))
        if hits is None and jumps is None:
            return None, None
        given = [x for x in (hits, jumps) if x is not None]
        ahead = torch.cat([*given, self.end[:, None]], dim=1) * self.sign[:, None]
        inside = (ahead > (self.t * self.sign)[:, None]) & (ahead <= (self.end * self.sign)[:, None])
        stops = torch.where(inside, ahead, math.inf).sort(dim=1).values
        return stops, jumps

    # --- proposing

    def propose(self) -> Tensor:
        """The ends of the next steps: the stops ahead, or steps of the chosen lengths."""
        stop = self.end
        if self.stops is not None:
            place = torch.searchsorted(self.stops, (self.t * self.sign)[:, None], right=True)
            stop = self.stops.gather(1, place)[:, 0] * self.sign
        left = (stop - self.t).abs()
        # Within a hundredth of the stop the step is stretched to it: a sliver would cost as much as a step.
        reached = (self.dt >= left * 0.99) & (left <= self.max_step)
        target = torch.where(reached, stop, self.t + self.sign * self.dt)
        self.target = torch.where(target == self.t, torch.nextafter(self.t, stop), target)
        return self.target

    def sided(self, term: Bound) -> tuple[Bound, bool]:
        """The term that sees its own side of a jump only, and whether a step starts at one."""
        if self.jumps is None:
            return term, False
        starts, ends = ((self.jumps == x[:, None]).any(1) for x in (self.t, self.target))
        if not bool((starts | ends).any()):
            return term, False
        t, target = self.t.to(term.dtype), self.target.to(term.dtype)
        first = torch.where(starts, torch.nextafter(t, target), t).double()
        last = torch.where(ends, torch.nextafter(target, t), target).double()
        return term.between(torch.minimum(first, last), torch.maximum(first, last)), bool(starts.any())

    # --- judging

    @torch.no_grad()
    def judge(self, y0: Tensor, step: Step) -> Tensor | None:
        """Compare the error estimates with the tolerance, choose the next lengths; None says that every step counts."""
        config = self.config
        h = (self.target - self.t).abs()
        ratio = self._ratio(y0, step)
        failed = _mask(step.failed, self.done)
        ratio = torch.where(failed, math.inf, ratio)
        accept = ratio <= 1.0
        if config.force_min_step:
            accept |= (h <= self.min_step * (1 + 1e-9)) & torch.isfinite(ratio)
        exponent = getattr(step, "exponent", None)
        exponent = self.exponent if exponent is None else exponent
        every = bool(accept.all())
        grown = self._grown(h, ratio, exponent, step)
        if every:
            self.before, self.last, self.dt = self.last, ratio.clamp(min=1e-10), grown
            self.t, self.rejected = self.target, torch.zeros_like(accept)
        else:
            self.before = torch.where(accept, self.last, self.before)
            self.last = torch.where(accept, ratio.clamp(min=1e-10), self.last)
            shrunk = self._shrunk(h, ratio, exponent, accept, failed, step)
            self.dt = torch.where(accept, grown, shrunk)
            self.t = torch.where(accept, self.target, self.t)
            self.rejected = ~accept
        self.done = self.t == self.end
        return None if every else accept

    def _grown(self, h: Tensor, ratio: Tensor, exponent: Any, step: Step) -> Tensor:
        config = self.config
        factor = getattr(step, "factor", None)
        factor = self._factor(ratio, exponent) if factor is None else torch.as_tensor(factor).to(h)
        factor = torch.where(self.rejected, factor.clamp(max=1.0), factor)
        if self.deadband > 1.0:
            factor = torch.where((factor >= 1.0) & (factor < self.deadband), 1.0, factor)
        # A step that a stop cut short says little: the length before the cut stands.
        cut = torch.maximum(h * factor, torch.minimum(self.dt, h * config.grow))
        return torch.where(h >= self.dt * 0.99, h * factor, cut).clamp(self.min_step, self.max_step)

    def _shrunk(self, h: Tensor, ratio: Tensor, exponent: Any, accept: Tensor, failed: Tensor, step: Step) -> Tensor:
        config = self.config
        finite = torch.isfinite(ratio)
        factor = (config.safety * ratio**-exponent).clamp(config.shrink, 1.0)
        factor = torch.where(finite, factor, config.shrink)
        floor = torch.maximum(10 * _ulp(self.t), self.resolution).clamp(min=self.min_step)
        stuck = ~accept & ((h <= floor * (1 + 1e-9)) | self.hopeless)
        if bool(stuck.any()):
            # A finite state with an infinite ratio is the tolerance's doing, not the field's.
            tight = finite | torch.isfinite(step.y1.reshape(len(h), -1)).all(1)
            why = torch.where(failed, _NEWTON, torch.where(tight, _UNDERFLOW, _NON_FINITE))
            self.failure = torch.where(stuck, why, self.failure)
        return torch.maximum(h * factor.clamp(max=0.999), floor)

    def _factor(self, ratio: Tensor, k: Any) -> Tensor:
        config, (p, i, d) = self.config, self.gains
        factor = config.safety * ratio ** -((p + i + d) * k)
        if p + 2 * d:
            factor = factor * self.last ** ((p + 2 * d) * k)
        if d:
            factor = factor * self.before ** -(d * k)
        return factor.clamp(config.shrink, config.grow)  # a ratio of zero gives infinity here, so `grow`

    def _ratio(self, y0: Tensor, step: Step) -> Tensor:
        error = step.error
        if error is None:
            return torch.zeros_like(self.t)
        scale = self.tolerance.scale(y0, step.y1)
        if isinstance(error, Tensor):
            return self._norm(error / scale)
        # Estimates of orders 5 and 3 combine to one that falls like h^8 (Hairer, Norsett, Wanner, II.10).
        fine, coarse = (self._norm(e / scale) for e in error)
        return torch.where(fine == 0, fine, fine * fine / torch.hypot(fine, 0.1 * coarse))

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
        span = (self.end - self.t).abs()
        given = self.config.first_step
        if given is not None:
            return torch.minimum(torch.as_tensor(given, dtype=span.dtype, device=span.device).expand_as(span), span)
        if self.solver.needs == "contract":
            raise ValueError(
                f'The first step cannot be chosen for "{self.solver.name}", whose term has no rate dy/dt. '
                "Set controller=PID(first_step=...)."
            )
        f0 = carry if self.solver.carries_slope and carry is not None else self.term.rate(self.t, y0, args)
        scale = self.tolerance.scale(y0, y0)
        d0, d1 = self._norm(y0 / scale), self._norm(f0 / scale)
        known = torch.isfinite(d1)
        self.hopeless = ~torch.isfinite(f0.reshape(len(f0), -1)).all(1)  # no step from here can be finite
        h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h0 = torch.minimum(torch.where(known, h0, 1e-6), span)
        f1 = self.term.rate(self.t + self.sign * h0, y0 + spread(self.sign * h0, y0) * f0, args)
        d2 = self._norm((f1 - f0) / scale) / h0
        steepest = torch.maximum(d1, d2)
        h1 = torch.where(steepest <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / steepest) ** self.exponent)
        first = torch.minimum(torch.minimum(100 * h0, h1), span)
        return torch.where(torch.isfinite(steepest), first, torch.where(self.hopeless, span, h0))

    def select(self, keep: Tensor) -> None:
        """Drop all other rows."""
        self.term, self.tolerance = self.term.select(keep), self.tolerance.select(keep)
        for name in _ROWS:
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[keep])


_ROWS = (
    *("t", "end", "sign", "done", "failure", "stops", "jumps", "before", "last", "rejected", "hopeless", "dt"),
    *("resolution", "target"),
)


def _columns(times: Sequence[float] | Tensor | None, like: Tensor) -> Tensor | None:
    """``(rows, n)`` of times that all samples share, ``(n,)``, or that are each one's own, ``(n, batch)``."""
    if times is None or len(times) == 0:
        return None
    given = torch.as_tensor(times, dtype=like.dtype, device=like.device).detach()
    if given.dim() == 1:
        return given.expand(len(like), -1)
    if given.dim() != 2 or given.shape[1] != len(like):
        raise ValueError(
            f"Times to hit are `(n,)` for all samples or `(n, batch)`; they have shape {tuple(given.shape)} for "
            f"{len(like)} samples."
        )
    return given.T.contiguous()


def _mask(failed: Any, like: Tensor) -> Tensor:
    if isinstance(failed, Tensor):
        return failed
    return torch.full_like(like, bool(failed), dtype=torch.bool)


def _ulp(t: Tensor) -> Tensor:
    size = t.abs()
    return torch.nextafter(size, torch.full_like(size, math.inf)) - size
