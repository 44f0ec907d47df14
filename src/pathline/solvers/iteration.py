"""The iterations of Newton's method: corrections, and verdicts on them row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pathline.solvers.jacobians import transforming
from pathline.solvers.stages import applied

if TYPE_CHECKING:
    from pathline.solvers.newton import Work
    from pathline.solvers.stages import Stages

#: Without a tolerance, and where gradients are wanted, iterations end at this power of the rounding unit.
TIGHT = 0.95
#: Where nothing shrinks any more, this power is near enough to rounding.
ROUNDED = 0.65
#: So many of them are then made at most.
PATIENCE = 30


def numbers(x: Tensor) -> np.ndarray:
    """A small tensor as host numbers, in double precision; a copy."""
    if transforming():  # no memory behind a wrapped tensor
        return np.array(x.detach().tolist(), dtype=float)
    return np.array(x.detach().double().cpu().numpy())


class Judge:
    """Verdicts on successive corrections of every row.

    With the ratio ``theta`` of successive corrections the error left is at most ``eta |dz|``, where ``eta`` is
    ``theta / (1 - theta)``. A row is done when that is within ``kappa``, and given up when the iterations left would
    not bring it there; one whose corrections no longer shrink is done if they are within ``rounded``.
    """

    def __init__(self, eta: np.ndarray, kappa: float, most: int, rounded: float) -> None:
        self.eta = np.maximum(eta, 1e-16) ** 0.8
        self.kappa, self.most, self.rounded = kappa, most, rounded
        self.made = 0
        self.theta = np.zeros_like(eta)
        self.last = np.full_like(eta, np.nan)

    def __call__(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows are done, and which are given up."""
        self.made += 1
        hopeless = ~np.isfinite(size)
        with np.errstate(all="ignore"):
            if self.made > 1:
                ratio = np.where(size == 0, 0.0, size / self.last)
                self.theta = ratio if self.made == 2 else np.sqrt(ratio * self.theta)
                self.eta = np.where(self.theta < 1, self.theta / (1 - self.theta), np.inf)
                ahead = size * self.theta ** (self.most - self.made) / (1 - self.theta)
                hopeless |= (self.theta >= 0.99) | (ahead > self.kappa)
            good = (self.eta * size <= self.kappa) | (size == 0)
            if self.rounded and self.made > 1:
                good |= hopeless & (size <= self.rounded)
        self.last = size
        return good, ~good & (hopeless | (self.made >= self.most))

    def narrow(self, keep: np.ndarray) -> None:
        """Go on with some rows."""
        self.eta, self.theta, self.last = self.eta[keep], self.theta[keep], self.last[keep]


class _Active:
    """The rows that still iterate: those alone on the per-sample clock, else all of them, the others held.

    Attributes:
        rows: ``(active,)``, which rows of the batch are looked at.
        live: ``(active,)``, which of these still move.
    """

    def __init__(self, run: Iteration, rows: np.ndarray) -> None:
        self.run = run
        self.stages, self.factors, self.scale = run.stages, run.work.factors, run.scale
        # Rows that a first try has brought to their solution stay there in a second.
        mask = run.work.tensor(rows).reshape(-1, 1, 1)
        self.z = run.guess if rows.all() else torch.where(mask, run.guess, run.z)
        self.rows, self.live = np.arange(len(rows)), rows.copy()
        if not rows.all():
            self.shrink()

    def shrink(self) -> np.ndarray | None:
        """Leave out the rows that no longer move; the mask of those that stay, where some left."""
        run, keep = self.run, self.live
        if not run.work.term.per_sample or run.work.free:
            return None
        run.store(self)
        index = run.work.tensor(np.flatnonzero(keep))
        self.stages, self.z = self.stages.select(index), self.z[index]
        assert isinstance(self.factors, list)
        self.factors = [f.select(index) for f in self.factors]
        self.scale = None if self.scale is None else self.scale[index]
        self.rows, self.live = self.rows[keep], keep[keep]
        return keep

    def sizes(self, dz: Tensor) -> np.ndarray:
        """``(active,)``: the root mean square of the scaled correction."""
        assert self.scale is not None
        scaled = (dz / self.scale).reshape(len(dz), -1)
        return numbers(torch.linalg.vector_norm(scaled, dim=1)) / scaled.shape[1] ** 0.5

    def move(self, dz: Tensor) -> None:
        """Add a correction where rows still move."""
        if self.live.all():
            self.z = self.z + dz
        else:
            self.z = torch.where(self.run.work.tensor(self.live).reshape(-1, 1, 1), self.z + dz, self.z)


class Iteration:
    """The iterations for one set of stage equations.

    Args:
        work: Jacobian and factors.
        stages: the equations.
        guess: ``(rows, stages, size)``, where to start.
        watch: whether to find out if the rates depend on something that requires grad.
        exact: whether it is known that they do.

    Attributes:
        z: where the iterations have come to.
        tracked: what ``watch`` found.
    """

    def __init__(self, work: Work, stages: Stages, guess: Tensor, *, watch: bool, exact: bool) -> None:
        self.work, self.stages, self.z, self.guess = work, stages, guess, guess
        self.watch, self.tracked = watch, False
        self.exact = exact or work.term.tolerance is None or work.term.exact
        self.scale, self.kappa, self.rounded = work.scale(), 0.0, 0.0

    def simplified(self, rows: np.ndarray) -> np.ndarray:
        """Iterate some rows from the guess with the factors at hand; which rows are done."""
        work = self.work
        active = _Active(self, rows)
        done, judge = ~rows, None
        work.lost[rows] = False
        while True:
            dz = self._correction(active)
            if judge is None:
                most = PATIENCE if self.exact else work.newton.iterations
                judge = Judge(work.eta[active.rows], self.kappa, most, self.rounded)
            sizes = active.sizes(dz)
            good, bad = judge(sizes)
            self._look(active, sizes)
            active.move(dz)
            work.note(active.rows, active.live, judge, good)
            done[active.rows[good & active.live]] = True
            left = active.live & ~(good | bad)
            shrinks = bool((left != active.live).any())
            active.live = left
            if not left.any():
                break
            if shrinks and active.shrink() is not None:
                judge.narrow(left)
        self.store(active)
        return done

    def _look(self, active: _Active, sizes: np.ndarray) -> None:
        """Where corrections aren't finite, find out whether the field is to blame."""
        wild = active.live & ~np.isfinite(sizes)
        if wild.any():
            rates = active.stages.slopes(active.z).reshape(len(wild), -1)
            finite = numbers(torch.isfinite(rates).all(1)) > 0
            self.work.lost[active.rows[wild & ~finite]] = True

    def store(self, active: _Active) -> None:
        """Put the active rows back among the others."""
        if len(active.rows) == len(self.z):
            self.z = active.z
        else:
            self.z = self.z.index_copy(0, self.work.tensor(active.rows), active.z)

    def _correction(self, active: _Active) -> Tensor:
        """The next correction; the first one also shows how far to iterate."""
        if not self.watch and self.kappa:
            return active.stages.correction(active.z, active.factors)
        with torch.set_grad_enabled(self.watch):
            dz = active.stages.correction(active.z, active.factors)
        self.tracked, self.watch = dz.requires_grad, False
        self.exact = self.exact or self.tracked
        dz = dz.detach()
        self._choose(dz, active)
        return dz

    def _choose(self, dz: Tensor, active: _Active) -> None:
        """How small the error is to become."""
        tolerance, unit = self.work.term.tolerance, torch.finfo(dz.dtype).eps
        tight = unit**TIGHT
        if tolerance is None:
            reach = self.stages.base.detach().abs().amax(-1)
            if len(active.rows) == len(reach):
                moved = torch.where(torch.isfinite(dz), active.z + dz, active.z)
                reach = torch.maximum(reach, moved.abs().amax((1, 2)))
            self.scale = (tight * reach).clamp_min(torch.finfo(dz.dtype).tiny).reshape(-1, 1, 1)
            active.scale = self.scale if len(active.rows) == len(reach) else self.scale[self.work.tensor(active.rows)]
            self.kappa, self.rounded = 1.0, unit ** (ROUNDED - TIGHT)
            return
        rtol = float(tolerance.rtol.min()) if isinstance(tolerance.rtol, Tensor) else tolerance.rtol
        usual = self.work.newton.kappa or (min(0.03, rtol**0.5) if rtol > 0 else 0.03)
        if self.exact:
            self.kappa = min(usual, tight / rtol if rtol > 0 else 1e-6)
            self.rounded = min(usual, self.kappa * unit ** (ROUNDED - TIGHT))
        else:
            self.kappa = max(usual, min(1.0, 10 * unit / rtol)) if rtol > 0 else usual

    # --- where steps cannot be shortened

    def damped(self, rows: np.ndarray) -> np.ndarray:
        """Newton with the exact Jacobian of every iterate, in steps short enough that the next correction shrinks.

        References:
            Deuflhard (2004), Newton Methods for Nonlinear Problems, 3.3: the natural monotonicity test.
        """
        mask = self.work.tensor(rows).reshape(-1, 1, 1)
        stages, scale = self.stages, self.scale
        assert scale is not None
        z, done, part = self.guess, ~rows, torch.ones_like(mask, dtype=self.guess.dtype)
        size = torch.full_like(part, torch.inf)
        for _ in range(2 * PATIENCE):
            g, factors = stages.exact(z, free=self.work.free)
            assert factors is not None
            dz = -applied(factors, g)
            size = _sizes(dz, scale)
            part = (2 * part).clamp_max(1.0)
            while True:
                trial = z + part * dz
                simplified = _sizes(applied(factors, stages.residual(trial, stages.slopes(trial))), scale)
                worse = ~(simplified <= (1 - part / 4) * size) & (size > self.kappa) & mask
                if not bool(worse.any()) or float(part[worse].min()) < 1e-4:
                    break
                part = torch.where(worse, part / 2, part)
            z = torch.where(mask & torch.isfinite(trial).all((1, 2), True), trial, z)
            done |= numbers(((simplified <= self.kappa) | (size <= self.kappa)) & (part == 1)).reshape(-1) > 0
            if done.all():
                break
        done |= numbers(size <= self.rounded).reshape(-1) > 0
        self.z = torch.where(mask, z, self.z)
        return done


def _sizes(dz: Tensor, scale: Tensor) -> Tensor:
    scaled = dz / scale
    return torch.linalg.vector_norm(scaled, dim=(1, 2), keepdim=True) / (scaled.shape[1] * scaled.shape[2]) ** 0.5
