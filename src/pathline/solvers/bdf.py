"""Backward differentiation formulas of orders 1 to 5, in backward differences on a quasi-constant step."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pathline._forward import moves
from pathline.solvers.base import Memory
from pathline.solvers.curves import Curve
from pathline.solvers.newton import Newton, Spectrum, Stages
from pathline.tolerance import Tolerance

if TYPE_CHECKING:
    from pathline.terms import Bound, Time

HIGHEST = 5
#: Differences kept: those of the highest order, and two more for the estimates one order up.
KEPT = HIGHEST + 3
#: How far the formulas lean towards the numerical differentiation formulas of Klopfenstein and Shampine.
KAPPA = (0.0, -0.1850, -1 / 9, -0.0823, -0.0415, 0.0)
#: A new length is sought where it is at least this much longer than the old one; else the factors are kept.
WORTH = 1.2
#: Before that has been found out, it is shortened where the next step would probably be rejected.
SOON = 0.9
#: A step that is shortened is shortened by this much more: on the way to a fast transition that saves factorisations.
FURTHER = 0.65


class History(NamedTuple):
    """What a step takes over; numbers of the host on the shared clock, tensors ``(rows,)`` on the per-sample one.

    Attributes:
        differences: ``(clocks, 8, elements)``, backward differences of the solution.
        length: the step on which they live.
        order: of the next step.
        made: steps made with this length and order.
        memory: of Newton's method.
    """

    differences: Tensor
    length: Any
    order: Any
    made: Any
    memory: Memory | None


class BDF:
    """Backward differentiation formulas: one nonlinear equation a step, whatever the order.

    With the backward differences ``D_j = nabla^j y_n`` the step solves

        sum_(j=1..k) (1/j) nabla^j y_(n+1) - kappa_k gamma_k (y_(n+1) - sum_j D_j) = h f(t_(n+1), y_(n+1)),

    ``gamma_k = sum_(j=1..k) 1/j``. Order and length change only where a longer step repays the new factorisation; a
    changed length moves the differences to the new grid. On the per-sample clock every row has its own order. The
    gradient is that of the exact solution of each step's equation, the differences included. *Maturing.*

    Args:
        max_order: the highest order, 1 to 5; orders above 2 lose damping along the imaginary axis.

    Raises:
        ValueError: ``max_order`` is not between 1 and 5.

    Example:
        >>> import torch, pathline
        >>> stiff = lambda t, y: -1e6 * (y - t.cos())
        >>> y1 = pathline.solve(
        ...     stiff, torch.ones(1).double(), (0.0, 2.0), method="bdf", rtol=1e-6, atol=1e-8
        ... ).y1
        >>> bool((y1 - torch.tensor(2.0).double().cos()).abs() < 1e-4)
        True

    References:
        Shampine, Reichelt (1997), The MATLAB ODE suite; Byrne, Hindmarsh (1975), A polyalgorithm for the numerical
        solution of ordinary differential equations.
    """

    name = "bdf"
    needs = "rate"
    adaptive = True
    carries_slope = False
    implicit = True
    stiffly_accurate = True
    variable_order = True
    fsal = False
    stages = None
    embedded_order = 1  # of the first steps, which are of order 1

    def __init__(self, max_order: int = HIGHEST) -> None:
        if not 1 <= max_order <= HIGHEST:
            raise ValueError(f"`max_order` lies between 1 and {HIGHEST}; it is {max_order!r}.")
        self.order = self.dense_order = max_order
        self.newton = Newton(iterations=4, kappa=0.003, slow=1.0)

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> History:
        """A line along the slope at the start, for a step of length one."""
        clocks = len(y0) if term.per_sample else 1
        line = torch.stack([x.reshape(clocks, -1) for x in (y0, term.rate(t0, y0, args))], 1)
        differences = torch.nn.functional.pad(line, (0, 0, 0, KEPT - 2))
        if not term.per_sample:
            return History(differences, 1.0, 1, 0, None)
        ones = torch.ones(clocks, dtype=torch.long, device=y0.device)
        return History(differences, ones.double(), ones, 0 * ones, None)

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: History | None) -> BDFStep:
        """One step."""
        history = self.init(term, t0, y, args) if carry is None else carry
        moved = _moved(history, t0, t1)
        rules = _table(y.device, y.dtype).of(moved.order)
        base, rise = (rules.start @ moved.differences).unbind(-2)
        base, rise = base.reshape(y.shape), rise.reshape(y.shape)
        # The Jacobian is made at the predicted end.
        work = self.newton.begin(term, t1, base + rise, args, None if history.memory is None else history.memory.tree)
        known = work.systems.flat(base)
        scale = rules.scale if term.per_sample else rules.scale.item()
        stages = Stages(term, [t1], known, (t1 - t0) * scale, ONE, args, work.systems)
        z, failed = work.solve(stages, work.systems.flat(rise.detach()).unsqueeze(1))
        z = work.systems.state(z[:, 0])
        retry = history._replace(memory=Memory(work.retry()))
        step = BDFStep(t0, t1, base + z, rules, moved, z - rise, retry, work.reason(failed))
        step.lost = work.blame
        order, step.factor = self._choice(term, y, step)
        step.go_on(order, Memory(work.memory()))
        return step

    @torch.no_grad()
    def _choice(self, term: Bound, y: Tensor, step: BDFStep) -> tuple[Any, Any]:
        """The order of the next step, and by how much it is longer."""
        order, made = step.moved.order, step.moved.made
        tolerance = term.tolerance or _tight(y, per_sample=term.per_sample)
        errors = (step.rules.errors @ step.after) / tolerance.scale(y, step.y1).reshape(len(step.after), 1, -1)
        sizes: list[Any] = [tolerance.norm(e.reshape(y.shape)) for e in errors.unbind(1)]
        if not term.per_sample:
            return self._best(order, made, sizes)
        orders = order.unsqueeze(1) + torch.arange(-1, 2, device=order.device)
        allowed = (orders >= 1) & (orders <= self.order)
        # Too few equal steps say nothing of a higher order.
        young = made < order
        allowed[:, 2] &= ~young
        safety = torch.tensor(SAFETY, dtype=torch.float64, device=order.device)
        factors = torch.stack(sizes, 1).clamp_min(1e-12) ** (-1.0 / (orders + 1)) / safety
        best, which = factors.clamp_max(10.0).masked_fill(~allowed, 0.0).max(1)
        change = torch.where(young, best < SOON, (best >= WORTH) | (best < 1.0))
        best = torch.where(best < 1.0, FURTHER * best, best)
        return torch.where(change, order + which - 1, order), torch.where(change, best, 1.0)

    def _best(self, order: int, made: int, sizes: list[Any]) -> tuple[int, float]:
        """The same on the shared clock, in host numbers."""
        young = made < order
        best, chosen = 0.0, order
        for k, size, safety in zip((order - 1, order, order + 1), sizes, SAFETY, strict=True):
            factor = min(max(size, 1e-12) ** (-1.0 / (k + 1)) / safety, 10.0) if k >= 1 else 0.0
            if factor > best and k <= self.order and not (young and k > order):
                best, chosen = factor, k
        if not (best < SOON if young else best >= WORTH or best < 1.0):
            return order, 1.0
        return chosen, FURTHER * best if best < 1.0 else best


class BDFStep(Curve):
    """One step, and the polynomial through the last values as its dense output."""

    def __init__(
        self, t0: Time, t1: Time, y1: Tensor, rules: Rules, moved: History, change: Tensor, retry: History, failed: Any
    ) -> None:
        self.t0, self.t1, self.y1, self.rules = t0, t1, y1, rules
        self.moved, self.retry, self.failed = moved, retry, failed
        self.after = torch.addcmul(
            rules.update @ moved.differences, rules.entry, change.reshape(len(moved.differences), 1, -1)
        )
        with torch.no_grad():
            self.error = rules.error.reshape(-1, *(1,) * (y1.dim() - 1)) * change if y1.dim() else rules.error * change
        self.exponent = 1.0 / (moved.order + 1)
        self.lost: Any = None
        self.factor: Any = 1.0

    def go_on(self, order: Any, memory: Memory) -> None:
        """What the next step takes over."""
        moved, factor = self.moved, self.factor
        if isinstance(order, int):
            made = moved.made + 1 if factor == 1.0 and order == moved.order else 0
        else:
            made = torch.where((factor != 1.0) | (order != moved.order), 0, moved.made + 1)
        self.carry = History(self.after, moved.length, order, made, memory)

    def polynomial(self) -> Tensor:
        """``(6, *state)``: powers of theta."""
        curve = self.rules.curve @ self.after
        return curve.transpose(0, 1).reshape(-1, *self.y1.shape)

    def part(self, index: Tensor) -> Curve:
        """The step of some of its rows."""
        part = copy.copy(self)
        part.y1, part.after = self.y1[index], self.after[index]
        part.rules = self.rules.of(index)
        return part


# --- coefficients ------------------------------------------------------------------------------------------------


class Rules(NamedTuple):
    """The formulas, ``(orders or clocks, ...)``: one matrix of each acts on the differences.

    Attributes:
        scale: ``1 / alpha``, what multiplies the step in ``Z = h scale f(base + Z)``.
        start: ``(2, 8)``, the known part of the solution and the predicted rest.
        update: ``(8, 8)``, the differences after the step but for the correction of the prediction.
        entry: ``(8, 1)``, how that correction enters.
        error: ``(1,)``, the error as a multiple of it.
        errors: ``(3, 8)``, errors one order below, at this order and one above, from the differences after the step.
        curve: ``(6, 8)``, the polynomial through the last values, in powers of theta.
    """

    scale: Tensor
    start: Tensor
    update: Tensor
    entry: Tensor
    error: Tensor
    errors: Tensor
    curve: Tensor

    def of(self, index: Any) -> Rules:
        """Those of some orders out of the whole table, or of some rows."""
        return Rules(*(x[index] for x in self))


class _Table:
    """The formulas of all orders, in the dtype of a state; those of one order are kept ready."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        columns = zip(*(_formula(k) for k in range(HIGHEST + 1)), strict=True)
        with torch.inference_mode(False):
            scale, *others = (torch.tensor(np.stack(column), device=device) for column in columns)
            self.whole = Rules(scale, *(x.to(dtype) for x in others))
            self.single = [self.whole.of(slice(k, k + 1)) for k in range(HIGHEST + 1)]

    def of(self, order: Any) -> Rules:
        return self.single[order] if isinstance(order, int) else self.whole.of(order)


_table = cache(_Table)


def _formula(k: int) -> tuple[np.ndarray, ...]:
    """The formula of order ``k``."""
    gamma = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, HIGHEST + 1))])
    alpha = (1.0 - np.array(KAPPA)) * gamma
    constants = np.concatenate([np.array(KAPPA) * gamma + 1.0 / np.arange(1, HIGHEST + 2), [1.0 / (HIGHEST + 2)]])
    upto = (np.arange(KEPT) <= k).astype(float)
    rise = np.zeros(KEPT)
    rise[1 : k + 1] = gamma[1 : k + 1] / (alpha[k] or 1.0)
    update = np.triu(np.ones((KEPT, KEPT))) * upto * upto[:, None]
    update[k + 2, k + 1] = -1.0
    errors = np.zeros((3, KEPT))
    for i, j in enumerate((k - 1, k, k + 1)):
        errors[i, max(j + 1, 0)] = constants[max(j, 0)]
    return (
        np.array(1.0 / (alpha[k] or 1.0)),
        np.stack([upto - rise, rise]),
        update,
        (np.arange(KEPT) <= k + 2).astype(float)[:, None],
        constants[k : k + 1],
        errors,
        _curve(k),
    )


def _curve(k: int) -> np.ndarray:
    """``y(theta) = sum_j D_j s (s + 1) ... (s + j - 1) / j!``, ``s = theta - 1``, in powers of theta."""
    out = np.zeros((HIGHEST + 1, KEPT))
    power = np.polynomial.Polynomial([1.0])
    for j in range(k + 1):
        out[: j + 1, j] = power.coef
        power = power * np.polynomial.Polynomial([j - 1.0, 1.0]) / (j + 1)
    return out


ONE = Spectrum(np.array([[1.0]]))
#: Estimated errors are divided by these, per order down, same and up: what a change of order must promise.
SAFETY = (1.3, 1.2, 1.4)


# --- the length of the step --------------------------------------------------------------------------------------


def _moved(history: History, t0: Time, t1: Time) -> History:
    """The differences on the grid of this step's length."""
    length, old = t1 - t0, history.length
    # Equal steps differ by the rounding of their ends.
    if isinstance(length, Tensor):
        with torch.no_grad():
            same = (length - old).abs() <= 1e-15 * abs(t1) + 1e-14 * length.abs()
        if not moves(length) and bool(same.all()):
            return history
        length = length.double()
    elif abs(length - old) <= 1e-15 * abs(t1) + 1e-14 * abs(length):
        return history
    else:
        same = torch.tensor(False)
    like = history.differences
    factor = torch.as_tensor(length / old, dtype=torch.float64, device=like.device).reshape(-1)
    grid = _regrid(factor, torch.as_tensor(history.order, device=like.device).reshape(-1), same.to(like.device))
    made = torch.where(same, history.made, 0) if isinstance(history.made, Tensor) else history.made * int(same)
    return history._replace(differences=grid.to(like.dtype) @ like, length=length, made=made)


def _regrid(factor: Tensor, order: Tensor, same: Tensor) -> Tensor:
    """``(clocks, 8, 8)``: differences on a step that is longer by ``factor``, exact for polynomials of the order.

    The differences beyond are kept where the length is the ``same`` (and stands here for its derivative alone).
    """
    index = torch.arange(KEPT, dtype=torch.float64, device=factor.device)
    upto = (index <= order.unsqueeze(1)).double()
    matrix = _falling(factor, index) @ _falling(torch.ones_like(factor[:1]), index)
    moved = matrix.mT * upto.unsqueeze(1) * upto.unsqueeze(2)
    return moved + torch.diag_embed((1.0 - upto) * same.reshape(-1, 1))


def _falling(factor: Tensor, index: Tensor) -> Tensor:
    """``(clocks, 8, 8)``: the values that a unit difference of order i takes j steps back, i > 0; ones for i = 0."""
    rows = index[1:].unsqueeze(1)
    quotients = (rows - 1.0 - factor.reshape(-1, 1, 1) * index) / rows
    # Columns from 1 on; the first column is that of the value itself.
    quotients = quotients * (index > 0)
    ones = torch.ones_like(quotients[:, :1])
    return torch.cat([ones, quotients], 1).cumprod(1)


def _tight(y: Tensor, *, per_sample: bool) -> Tolerance:
    """What errors are measured in where steps are fixed."""
    size = math.sqrt(torch.finfo(y.dtype).eps)
    return Tolerance(size, size, per_sample)
