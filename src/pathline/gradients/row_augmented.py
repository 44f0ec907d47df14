"""The backward solve of the adjoint method with one clock a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pathline._structure import Structure
from pathline.controllers import PID, Controller, Grid
from pathline.gradients.augmented import Augmented, Backward
from pathline.hooks import Hooks
from pathline.loop import Problem
from pathline.row_clocks import CODES
from pathline.row_loop import integrate_rows
from pathline.saving import Save
from pathline.solvers.base import horner, spread, spread_mask
from pathline.stats import Stats
from pathline.status import ERRORS
from pathline.terms import Bound, PerSample
from pathline.tolerance import Tolerance


class RowBackward(Backward):
    """``(y, a)`` of each sample side by side, ``(batch, 2, *state)``, integrated from its time to its time."""

    axis = 1
    step: Tensor | None = None

    def tolerance(self, value: Any, start: Tensor, name: str) -> float | Tensor:
        """A tolerance of the state serves both parts."""
        return value.unsqueeze(1) if isinstance(value, Tensor) and value.dim() else value

    def rates(self, t: Tensor, state: Tensor, samples: Tensor | None = None, field: Bound | None = None) -> Tensor:
        """``d/dt (y, a) = (f, -a^T df/dy)`` of some samples."""
        assert samples is not None
        y, a = self.pair(t.reshape(-1), state, samples)
        dy, (da,) = self._pull_rows(samples, t.reshape(-1), y, a, parameters=False, field=field)
        assert dy is not None
        down = torch.zeros_like(a) if da is None else -da
        return self.pack(dy if self.through else dy.detach(), down, state)

    def slope(self, t: Any, y: Tensor, g: Tensor) -> Tensor:
        """``<g, f(t, y)>`` of each sample."""
        return _inner(g, self.field.rate(t, y, self.tape.args))

    def start_slope(self, t: Any, y: Tensor, adjoint: Tensor) -> Tensor:
        """``-<a, f(t, y)>`` of each sample."""
        return -self.slope(t, y, adjoint)

    def interval(
        self,
        t1: Any,
        t0: Any,
        y: Tensor,
        before: Tensor,
        adjoint: Tensor,
        keep: Callable[..., None] | None,
    ) -> Tensor:
        """The adjoints carried from ``t1`` back to ``t0``, ``(batch,)`` each."""
        back, after = self.carried(t1, t0, y, adjoint, keep)
        if back is not None and self.config.verify:
            batch = len(y)
            with torch.no_grad():
                still = (t0 == t1) | (adjoint.abs().reshape(batch, -1).amax(1) == 0)
                size = torch.maximum(before.abs(), y.abs()).reshape(batch, -1).amax(1).clamp_min(1e-6)
                miss = (back - before).abs().reshape(batch, -1).amax(1) / size
                self.missed.append(torch.where(still, 0.0, miss).max())
        return after

    def carried(
        self, t1: Any, t0: Any, y: Tensor, adjoint: Tensor, keep: Callable[..., None] | None
    ) -> tuple[Tensor | None, Tensor]:
        """The states, None where there is nothing to solve, and the adjoints, solved back to ``t0``."""
        batch = len(y)
        with torch.no_grad():
            scale = adjoint.abs().reshape(batch, -1).amax(1) if adjoint.numel() else torch.zeros_like(t0)
            still = (t0 == t1) | (scale == 0)
            if bool(still.all()):
                return None, adjoint
            scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        wide = spread(scale, y)
        start = self.pack(y, adjoint / wide, wide)
        problem = self._rows_problem(torch.stack([torch.where(still, t0, t1), t0]), start, scale)
        result = integrate_rows(problem, start, PerSample(torch.arange(batch, device=y.device)))
        failed = (result.code > 0).nonzero()
        if len(failed):
            sample = int(failed[0])
            status = CODES[int(result.code[sample])]
            raise ERRORS[status](
                f"The adjoint of sample {sample}, integrated backwards from t = {float(t1[sample]):g} to "
                f"{float(t0[sample]):g}, failed at t = {float(result.t1[sample]):g} ({status.value}). {self.remedy}",
                None,
                status,
            )
        known = torch.zeros_like(result.dt) if self.step is None else self.step
        self.step = torch.where(result.dt > 0, result.dt, known)
        back, carried = self.unpack(result.y1, wide)
        return back, torch.where(spread_mask(still, adjoint), adjoint, carried * wide)

    def _rows_problem(self, times: Tensor, start: Tensor, scale: Tensor) -> Problem:
        rtol, atol = self.tolerance(self.rtol, start, "rtol"), self.tolerance(self.atol, start, "atol")
        structure = Structure(start, rows=True)

        def accepted(t0: Any, t1: Any, y0: Tensor, step: Any) -> None:
            if self.total.values:
                self._row_quadrature(t0, t1, step, scale[step.index])

        return Problem(
            term=Bound(Augmented(self), structure, start, Stats(), Tolerance(rtol, atol, per_sample=True)),
            solver=self.solver,
            controller=self._row_controller(times),
            structure=structure,
            times=times,
            rtol=rtol,
            atol=atol,
            save=Save(),
            stats=self.stats,
            max_steps=self.config.max_steps or self.problem.max_steps,
            hooks=Hooks(on_accept=accepted),
        )

    def _row_controller(self, times: Tensor) -> Controller:
        controller = self.controller
        if isinstance(controller, PID):
            known = self.step is not None and bool(((self.step > 0) | (times[0] == times[1])).all())
            first = self.step.clamp_min(1e-300) if known and self.step is not None else None
            return replace(controller, first_step=controller.first_step if first is None else first, norm=self.norm())
        if isinstance(controller, Grid) and controller.times is not None:
            raise ValueError(
                'Grid(times) with gradient="adjoint" is not offered on the per-sample clock. Use FixedStep(dt), '
                'Grid(), or gradient="checkpointed".'
            )
        return controller

    def _row_quadrature(self, t0: Tensor, t1: Tensor, step: Any, scale: Tensor) -> None:
        """Add ``integral of a^T df/dtheta`` over one backward step of some samples."""
        curve = step.coefficients()
        half = (t1 - t0) / 2
        for node, weight in zip(self.nodes, self.weights, strict=True):
            theta = (1 + float(node)) / 2
            state = horner(curve, theta)
            t = t0 + theta * (t1 - t0)
            y, a = self.pair(t, state, step.index)
            factor = spread(scale * (-half * float(weight)), a)
            _, grads = self._pull_rows(step.index, t, y, a * factor, parameters=True)
            self.total.add(grads)

    def _pull_rows(
        self, samples: Tensor, t: Tensor, y: Tensor, a: Tensor, *, parameters: bool, field: Bound | None = None
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """The rate of some samples, and ``a^T df`` by their states or by the parameters."""
        part = (self.field if field is None else field).select(samples)
        return self._pull_at(part, t, float(t.detach()[0]), y, a, parameters)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> of each sample."""
    product = a.conj() * b if a.is_complex() else a * b
    return (product.real if product.is_complex() else product).reshape(len(a), -1).sum(1)
