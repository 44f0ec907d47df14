"""One compiled step: its end, its error ratio, its dense output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.compiled.capture import Reading
from pathline.solvers.runge_kutta import product
from pathline.terms import Bound, Time

if TYPE_CHECKING:
    from pathline.compiled.solver import Compiled


class CompiledStep:
    """A step and what came with it; further rows of its dense output are the step made again."""

    failed = None

    def __init__(
        self, solver: Compiled, term: Bound, t0: Time, t1: Time, y0: Tensor, args: Any, retry: Tensor | None
    ) -> None:
        self.solver, self.term, self.t0, self.t1, self.y0, self.args = solver, term, t0, t1, y0, args
        self.retry, self.carry, self.error, self.ratio = retry, None, None, None

    def take(self, reading: Reading, due: Sequence[float]) -> None:
        """Make the step, with the rows that are due, or where they are many with the curve."""
        solver = self.solver
        curved = solver.dense or len(due) > solver.capacity
        asked = curved or (solver.inner and (bool(due) or solver.base.free_dense))
        weights = None if not asked else self._curve_weights() if curved else self._row_weights(due)
        self.y1, self.carry, self.error, self.ratio, rows, self.tape = self._outputs(reading, weights, solver.error)
        self.due = due
        self._rows = None if rows is None or curved else rows[: len(due)]
        self._curve = rows[: len(solver.base._polynomial)] if curved and rows is not None else None
        if self.tape is not None:
            self.tape.count = len(due)
            self.tape.powers = self._powers(due) if curved else None

    def _outputs(self, reading: Reading, weights: Tensor | None, error: str) -> tuple[Any, ...]:
        solver, term, base = self.solver, self.term, self.solver.base
        sloped, asked = self.retry is not None, weights is not None
        tensors = [self.y0, *([self.retry] if self.retry is not None else [])]
        tensors.append(solver._clock(term, self.t0, self.t1))
        if error == "ratio":
            tensors += solver._tolerance(term)
        if weights is not None:
            tensors.append(weights)
        ends = base.fsal or asked
        estimates = 0 if not error else 1 if error == "ratio" else len(base._errors)
        last = 1 + ends + estimates
        pulled = {0: 0, **({1: 0} if ends else {}), **({last: 1} if asked else {})}
        variant = ("step", error, asked, sloped)
        values, tape = solver._run(variant, reading, term, tensors + reading.inputs, own=1 + sloped, pulled=pulled)
        term.counted(base.stages - sloped + (len(base._extra) if asked else 0))
        found = values[1 + ends : last]
        ratio = found[0] if error == "ratio" else None
        estimate = None if error != "estimate" else found[0] if len(found) == 1 else found
        return values[0], values[1] if ends else None, estimate, ratio, values[last] if asked else None, tape

    # --- weights of the slopes, and of the state at the start: (capacity, stages + 1)

    def _powers(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(n, degree)``: powers of theta."""
        dt, powers = self.t1 - self.t0, self.solver.base._powers
        if isinstance(times, Tensor) or isinstance(dt, Tensor):
            device = self.term.device
            theta = (torch.as_tensor(times, dtype=torch.float64, device=device) - self.t0) / dt
            return theta.unsqueeze(-1) ** torch.from_numpy(powers).to(device)
        return torch.from_numpy(self._host_powers(times))

    def _host_powers(self, times: Sequence[float]) -> np.ndarray:
        theta = (np.array(times, dtype=np.float64) - self.t0) / (self.t1 - self.t0)
        return theta[:, None] ** self.solver.base._powers

    def _row_weights(self, times: Sequence[float]) -> Tensor:
        polynomial = self.solver.polynomial
        weights = np.zeros((self.solver.capacity, polynomial.shape[1] + 1))
        if n := len(times):
            weights[:n, -1] = 1.0
            # Not by BLAS: its threads and torch's get in each other's way.
            weights[:n, :-1] = np.einsum("nd,ds->ns", self._host_powers(times), polynomial) * (self.t1 - self.t0)
        return torch.from_numpy(weights).to(self.term.device)

    def _curve_weights(self) -> Tensor:
        polynomial = self.solver.base._polynomial
        weights = torch.zeros(self.solver.capacity, polynomial.shape[1] + 1, dtype=torch.float64)
        weights[: len(polynomial), :-1] = polynomial * (self.t1 - self.t0)
        return weights.to(self.term.device)

    # --- dense output

    def rows(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(len(times), *state)``: dense output at times inside the step."""
        if self._rows is not None and not isinstance(times, Tensor) and list(times) == list(self.due):
            return self._rows
        return self.y0 + product(self._powers(times).to(self.y0), self._curved())

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(degree + 1, *state)``: dense output in powers of theta."""
        assert rows is None, "one clock for the batch"
        return torch.cat([self.y0.unsqueeze(0), self._curved()])

    def _curved(self) -> Tensor:
        """``(degree, *state)``; where it was not foreseen the step is made again for it."""
        if self._curve is None:
            reading = self.solver.reading(self.term, self.t0, self.y0, self.args)
            assert reading is not None
            rows = self._outputs(reading, self._curve_weights(), "")[4]
            self.solver.dense = True  # who asks once will ask again
            self._curve = rows[: len(self.solver.base._polynomial)]
        return self._curve
