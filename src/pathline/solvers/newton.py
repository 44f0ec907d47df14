"""Simplified Newton iterations with Jacobians and factors that are kept over steps, for every system of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline._forward import recording
from pathline.solvers.iteration import Iteration, Judge, numbers
from pathline.solvers.jacobians import linearize, products, split, transforming
from pathline.solvers.linear import Factors
from pathline.solvers.stages import Free, Spectrum, Stages, attach

if TYPE_CHECKING:
    from pathline.terms import Bound, Time

__all__ = ["Newton", "Spectrum", "Stages", "Work", "attach"]

#: Steps are of the same length where they agree to this: then the factors serve again.
SAME = 1e-6
#: On the per-sample clock systems of up to so many unknowns get a new Jacobian at every step.
SMALL = 8
#: The relative residual of the linear systems of simplified Newton iterations without Jacobians.
FREE = 1e-4


@dataclass(frozen=True)
class Newton:
    """Options of the iteration.

    Args:
        iterations: at most so many in a step.
        kappa: how far below the tolerance of the solve the iteration goes; by default ``min(0.03, sqrt(rtol))``.
        slow: a Jacobian is made anew after a step that took more than two iterations and converged slower than this.
        krylov: systems of more unknowns than this are solved by GMRES, with products in place of Jacobians
            (heat equations of 300, 1000 and 2000 unknowns took 0.8, 7 and 4 times as long as with Jacobians).
    """

    iterations: int = 7
    kappa: float | None = None
    slow: float = 1e-3
    krylov: int = 4000

    def begin(self, term: Bound, t0: Time, y: Tensor, args: Any, memory: Any) -> Work:
        """What a step works with; the Jacobian is made at its start where the old one converged slowly.

        Args:
            term: the term.
            t0: the start of the step.
            y: the state there.
            args: handed to the field.
            memory: what the step before left with `Work.memory`, or None.
        """
        return Work(self, term, t0, y, args, memory)


class Work:
    """Jacobian, factors and rates of convergence of one step.

    Attributes:
        systems: of the state.
        f0: the rate at the start ``(rows, size)`` where the Jacobian was made there for every row, else None.
        theta: ``(rows,)``, the slowest convergence of the step, each correction against the one before.
        most: ``(rows,)``, the largest number of iterations.
        bad: ``(rows,)``, where an iteration failed.
        lost: ``(rows,)``, where it met rates that are not finite.
    """

    def __init__(self, newton: Newton, term: Bound, t0: Time, y: Tensor, args: Any, memory: Any) -> None:
        self.newton, self.term, self.t0, self.args = newton, term, t0, args
        self.systems = split(term, t0, y, args)
        self.start = self.systems.flat(y.detach())
        self.f0: Tensor | None = None
        n = len(self.start)
        self.factors: list[Factors] | Free = []
        self.free = self.systems.size > newton.krylov
        if memory is None or self.free:
            self.length, self.eta = np.full(n, np.nan), np.ones(n)
            self.fresh, self.slow = np.zeros(n, bool), np.ones(n, bool)
            self.jacobian = self.start
        else:
            notes = numbers(memory["notes"])
            self.length, self.eta, self.fresh, self.slow = notes[:, 0], notes[:, 1], notes[:, 2] > 0, notes[:, 3] > 0
            self.jacobian = memory["jacobian"]
            self.factors = [Factors(lu, pivots) for lu, pivots in memory["factors"]]
        self.theta, self.most = np.zeros(n), np.zeros(n, int)
        self.bad, self.lost = np.zeros(n, bool), np.zeros(n, bool)
        self._scale: Tensor | None = None
        # In a batch of small systems some row wants a new Jacobian at every step: then all have one, at the same price.
        always = term.per_sample and self.systems.size <= SMALL
        self.refresh(np.ones(n, bool) if always else self.slow & ~self.fresh)

    # --- Jacobian and factors

    def refresh(self, rows: np.ndarray) -> None:
        """Make the Jacobian at the start of the step, for some rows."""
        if not rows.any():
            return
        with torch.no_grad():
            if self.free:
                self.products = products(self.term, [self.t0], [self.start], self.args, self.systems)
                self.f0 = self.products.points[0][0].detach()
            elif rows.all():
                self.f0, self.jacobian = linearize(self.term, self.t0, self.start, self.args, self.systems)
            elif self.term.per_sample:
                index = self.tensor(np.flatnonzero(rows))
                t0 = self.t0[index] if isinstance(self.t0, Tensor) else self.t0
                _, jacobian = linearize(self.term.select(index), t0, self.start[index], self.args, self.systems)
                self.jacobian = self.jacobian.index_copy(0, index, jacobian)
            else:
                self.f0, jacobian = linearize(self.term, self.t0, self.start, self.args, self.systems)
                self.jacobian = torch.where(self.tensor(rows).reshape(-1, 1, 1), jacobian, self.jacobian)
        self.fresh = self.fresh | rows
        self.length = np.where(rows, np.nan, self.length)
        self.eta[rows & self.slow] = 1.0
        self.slow = self.slow & ~rows

    def factor(self, stages: Stages) -> None:
        """Factors for the length of the step, where those at hand are for another one."""
        h = numbers(stages.h) if isinstance(stages.h, Tensor) else np.array(stages.h)
        with np.errstate(invalid="ignore", divide="ignore"):
            other = ~(np.abs(self.length / h - 1) < SAME)
        if self.free:
            self.factors = Free(stages, self.products, FREE)
        if not other.any() or isinstance(self.factors, Free):
            return
        self.length = np.where(other, h, self.length)
        jacobian, step = self.jacobian, stages.step
        index = None if other.all() else self.tensor(np.flatnonzero(other))
        if index is not None:
            jacobian = jacobian[index]
            step = step[index] if isinstance(step, Tensor) and step.dim() else step
        made = stages.factorize(jacobian, step)
        if index is not None:
            made = [old.replaced(index, new) for old, new in zip(self.factors, made, strict=True)]
        self.factors = made

    def tensor(self, rows: np.ndarray) -> Tensor:
        """Host numbers on the state's device."""
        return torch.from_numpy(rows).to(self.start.device)

    def scale(self) -> Tensor | None:
        """``(rows, 1, size)``: what the tolerance of the solve allows; None without one."""
        tolerance = self.term.tolerance
        if self._scale is None and tolerance is not None:
            y = self.systems.state(self.start)
            self._scale = self.systems.scale(tolerance.resolution(y)).unsqueeze(1)
        return self._scale

    # --- solving

    def solve(self, stages: Stages, guess: Tensor | None = None) -> tuple[Tensor, np.ndarray | None]:
        """The stages ``(rows, stages, size)``, and which rows have not converged in this step (None: all have).

        Where an old Jacobian failed, a second try is made with a new one; where steps cannot be shortened, or gradients
        ask for a tight solution, a third with full, damped Newton steps. Rows that failed are zero, and are left out of
        later calls. The result carries the gradient of the exact solution.

        Args:
            stages: the equations.
            guess: where to start; zero by default.
        """
        if not stages.base.numel():
            return stages.base.unsqueeze(1).expand(-1, stages.stages, -1), None
        graph = recording()
        known = graph and (
            transforming() or stages.base.requires_grad or (isinstance(stages.h, Tensor) and stages.h.requires_grad)
        )
        with torch.no_grad():
            if guess is None:
                guess = stages.base.new_zeros(len(self.start), stages.stages, self.systems.size)
            run = Iteration(self, stages, guess.detach(), watch=graph and not known, exact=known)
            self._iterate(run)
            if self.bad.any():
                run.z = torch.where(self.tensor(self.bad).reshape(-1, 1, 1), 0.0, run.z)
        if known or run.tracked:
            z = attach(stages, run.z, free=self.free)
        else:
            settle = getattr(self.term.term, "settle", None)
            z = run.z if settle is None else settle(stages, run.z)
        return z, self.bad if self.bad.any() else None

    def _iterate(self, run: Iteration) -> None:
        self.factor(run.stages)
        bad = ~run.simplified(~self.bad)
        again = bad & ~self.bad & ~self.fresh
        if again.any():
            self.refresh(again)
            self.factor(run.stages)
            bad[again] = ~run.simplified(again)[again]
        slow = bad & ~self.bad & ~self.lost & ((self.theta < 1) if self.term.tolerance is not None else True)
        if run.exact and slow.any():
            bad[slow] = ~run.damped(slow)[slow]
        self.bad = self.bad | bad  # a stage that failed is not made good by a later one

    def note(self, rows: np.ndarray, live: np.ndarray, judge: Judge, good: np.ndarray) -> None:
        """Remember how the iteration went, for some rows."""
        rows, good, theta, eta = rows[live], good[live], judge.theta[live], judge.eta[live]
        self.most[rows] = np.maximum(self.most[rows], judge.made)
        self.theta[rows] = np.fmax(self.theta[rows], theta)
        self.eta[rows[good]] = eta[good]

    @property
    def tired(self) -> np.ndarray:
        """``(rows,)``: whether the iteration was so slow that the next step had better have a new Jacobian."""
        return (self.most > 2) & (self.theta > self.newton.slow)

    # --- what the next step takes over

    def memory(self) -> dict[str, Any]:
        """For the step after this one, when it is accepted; tensors with the rows first."""
        return self._kept(np.zeros_like(self.fresh), self.slow | self.tired)

    def retry(self) -> dict[str, Any]:
        """For another try from the same start, in the same structure."""
        return self._kept(self.fresh, self.slow)

    def _kept(self, fresh: np.ndarray, slow: np.ndarray) -> dict[str, Any]:
        notes = self.tensor(np.stack((self.length, self.eta, fresh, slow), 1))
        factors = [] if isinstance(self.factors, Free) else [(f.lu, f.pivots) for f in self.factors]
        return {"notes": notes, "jacobian": self.jacobian, "factors": factors}

    @property
    def blame(self) -> Any:
        """What `Step.lost` says: where the field is to blame for a failure; None where it is not."""
        lost = self.bad & self.lost
        return (lost if self.term.per_sample else True) if lost.any() else None

    def reason(self, failed: np.ndarray | None) -> Any:
        """What `Step.failed` says of the rows that did not converge."""
        if failed is None:
            return None
        return self.tensor(failed) if self.term.per_sample else "Newton's iteration did not converge"
