"""The exact discrete gradient in constant memory: the steps of a reversible method are undone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Kept, move_end, move_start
from pathline.gradients.inputs import transforming
from pathline.gradients.recompute import prepare
from pathline.gradients.schedules import Spread
from pathline.gradients.steplog import State, StepLog
from pathline.gradients.sweep import Solve, Source, Sweep
from pathline.loop import Problem
from pathline.solvers import METHODS
from pathline.solvers.base import floating


@dataclass(frozen=True)
class Reconstructed:
    """Undo the steps of a reversible method: the state before each follows from that behind it, by `Solver.inverse`.

    Exact like `Backprop` and `Checkpointed`, in memory that does not grow with the number of steps: the last state, a
    few others, 16 bytes a step, and the recording of one. The backward pass undoes each step, makes it again and
    differentiates it.

    What is undone to rounding may drift all the same: rounding grows where the method, run backwards, is unstable (see
    `Reversible`). So up to ``states`` states are kept, spread over the solve; each reconstruction is compared with the
    kept state it meets, and goes on from that one. A miss beyond ``tolerance``, relative to the largest component, is
    an error: the gradient would be that of another solution. By default it is 1e-6, or half of the digits where the
    dtype has fewer: in float32 rounding alone misses 1e-6 after some tens of steps (it adds up to ``eps sqrt(steps)``
    where nothing amplifies it), so there it is ``sqrt(eps)``, 3.5e-4.

    Second derivatives and torch.func transforms record the whole solve. At a jump (``PID(jumps=...)``) the states on
    both sides are kept, too; with one clock a sample jumps are refused. For `"reversible_heun"`, `"alf"`, `Reversible`
    and the symplectic methods, and for fields that draw no random numbers; others are refused. *Maturing.*

    Args:
        states: how many to compare with and go on from, at least 1.
        tolerance: the largest relative miss; None for 1e-6, in float32 3.5e-4.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import torch, pathline
        >>> y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
        >>> solution = pathline.solve(
        ...     lambda t, y: -y, y0, (0.0, 1.0), method="reversible_heun", rtol=1e-6, gradient="reversible"
        ... )
        >>> solution.y1.sum().backward()
        >>> y0.grad
        tensor([0.3679, 0.3679], dtype=torch.float64)

    References:
        Kidger, Foster, Li, Lyons (2021), Efficient and accurate gradients for neural SDEs.
        Zhuang, Dvornek, Tatikonda, Duncan (2021), MALI: A memory efficient and reverse accurate integrator for neural
        ODEs.
    """

    states: int = 16
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.states, bool) or not isinstance(self.states, int) or self.states < 1:
            raise ValueError(f"`states` is a whole number >= 1; it is {self.states!r}.")
        if self.tolerance is not None and not 0 < self.tolerance < float("inf"):
            raise ValueError(f"`tolerance` is a number > 0, or None; it is {self.tolerance!r}.")

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve under one autograd function."""
        if not torch.is_grad_enabled():
            return Backprop().solve(problem, y0, t, args, field)
        _check(problem)
        if problem.at_rest:
            return Backprop().solve(problem, y0, t, args, field)
        recipe = prepare(replace(problem, term=problem.term.exactly()), y0, args, field)
        if recipe.draws:
            raise ValueError(
                'gradient="reversible" undoes steps, and a field that draws random numbers cannot be undone: it would '
                'draw others. Use gradient="checkpointed".'
            )
        kind = _RowLog if problem.per_sample else _Log
        log = kind(recipe.problem, None if transforming() else Spread(self.states), draws=False)
        solve = _Undoing(recipe, log)
        solve.tolerance = self.tolerance or max(1e-6, torch.finfo(y0.dtype).eps ** 0.5)
        return move_end(problem, solve.apply(move_start(problem, y0, t, args), t), t, args)


def _check(problem: Problem) -> None:
    """Raise ValueError if this solve cannot be undone."""
    solver = problem.solver
    if not hasattr(solver, "inverse"):
        known = ", ".join(f'"{name}"' for name, method in METHODS.items() if hasattr(method, "inverse"))
        raise ValueError(
            f'gradient="reversible" undoes steps, and "{solver.name}" cannot undo its own. Reversible methods are '
            f'{known}, and Reversible(base) of an explicit Runge-Kutta method; or use gradient="checkpointed".'
        )
    if problem.per_sample and getattr(problem.controller, "jumps", None) is not None:
        raise ValueError(
            'gradient="reversible" with clock="per-sample" knows no `jumps`: at each all samples drop what their steps '
            'are undone with. Use gradient="checkpointed", or the shared clock.'
        )


class _Log(StepLog):
    """Keeps the state before the last step too, and those around a jump, where a method starts afresh."""

    def clear(self) -> None:
        """Forget all steps."""
        super().clear()
        self.last: State | None = None
        self.edges: dict[int, State] = {}

    def _offer(self, k: int, state: State, piece: Any) -> None:
        if self.schedule is None:
            return
        super()._offer(k, state, piece)
        if k and piece.term is not self.term:
            assert self.last is not None
            self.edges.update({k - 1: self.last, k: state})
        self.last = state

    @property
    def kept(self) -> dict[int, State]:
        """All states that were kept, by their number."""
        assert self.schedule is not None
        assert self.last is not None
        return {**self.schedule.kept, **self.edges, len(self) - 1: self.last}


class _RowLog(StepLog):
    """Keeps the state of each sample before its own last step."""

    def clear(self) -> None:
        """Forget all steps."""
        super().clear()
        self.last: State | None = None
        #: The number of each sample's last step.
        self.number = torch.full(self.problem.times.shape[1:], -1, device=self.term.device)

    def _offer(self, k: int, state: State, piece: Any) -> None:
        if self.schedule is None:
            return
        super()._offer(k, state, piece)
        assert state.samples is not None
        place = torch.searchsorted(state.samples, piece.index)
        if self.last is None or len(self.last.carry) < len(state.carry):
            y = state.y.new_zeros(len(self.number), *state.y.shape[1:]) if self.last is None else self.last.y
            self.last = State(y, [x.new_zeros(len(y), *x.shape[1:]) for x in state.carry])
        for whole, part in zip((self.last.y, *self.last.carry), (state.y, *state.carry), strict=True):
            whole.index_copy_(0, piece.index, part[place])
        self.number.index_fill_(0, piece.index, k)


class _Undoing(Solve):
    tolerance = 0.0

    def source(self, sweep: Sweep) -> Source:
        if isinstance(self.log, _RowLog):
            return _RowUndone(sweep, self.log, self.tolerance)
        assert isinstance(self.log, _Log)
        return _Undone(sweep, {**self.log.kept, 0: sweep.start()}, self.tolerance)


class _Undone:
    """States found by undoing steps, and compared with those that were kept."""

    def __init__(self, sweep: Sweep, kept: dict[int, State], tolerance: float) -> None:
        self.sweep, self.kept, self.tolerance = sweep, kept, tolerance
        self.behind: State | None = None

    def before(self, k: int) -> State:
        """The state before step ``k``, from that behind it."""
        kept = self.kept.get(k)
        found = self._undone(k, self.behind) if self.behind is not None and self._undoable(k) else kept
        assert found is not None, "a state is kept wherever a step cannot be undone"
        if kept is not None:
            self._compare(k, found.y, kept.y)
        self.behind = found if kept is None else kept
        return self.behind

    def _undoable(self, k: int) -> bool:
        """Whether step ``k`` handed on what it is undone with: not at a jump."""
        return self.sweep.pieces[k + 1].term is self.sweep.problem.term

    def _undone(self, k: int, behind: State) -> State:
        sweep = self.sweep
        piece, method = sweep.pieces[k], cast("Any", sweep.problem.solver)
        t0, t1 = sweep.ends(k, sweep.tape.t, sweep.tape.args, piece)
        carry = sweep.pieces[k + 1].carry.with_(behind.carry)
        sweep.remade += 1
        with torch.no_grad():
            y, carry = method.inverse(piece.term, t0, t1, behind.y, sweep.tape.args, carry)
        return State(y, floating(carry) if piece.carry.places else [])

    def _compare(self, k: int, found: Tensor, kept: Tensor) -> None:
        """Raise RuntimeError if the reconstruction has drifted."""
        if kept.numel() and not (miss := _miss(found.unsqueeze(0), kept.unsqueeze(0))) <= self.tolerance:
            raise _drifted(self.sweep, k, miss, self.tolerance)


class _RowUndone:
    """The same with one clock a sample: those that made a step undo it together."""

    def __init__(self, sweep: Sweep, log: _RowLog, tolerance: float) -> None:
        assert log.last is not None
        assert log.schedule is not None
        self.sweep, self.number, self.last, self.tolerance = sweep, log.number, log.last, tolerance
        self.kept: dict[int, State] = log.schedule.kept
        #: Of every sample the state before the step that was last looked at.
        self.state = log.last

    def before(self, k: int) -> State:
        """The states before step ``k``; of samples that did not make it, those before their next one."""
        index = self.sweep.pieces[k].index
        going = (self.number[index] > k).nonzero()[:, 0]  # others begin here, with what was kept of them
        if len(going):
            self._undo(k, index[going], going)
        if k == 0:
            self._compare(k, self.state.y[index], self.sweep.y0[index])
            return self.sweep.start()
        if k in self.kept:
            self._restart(k, self.kept[k])
        return self.state

    def _undo(self, k: int, samples: Tensor, rows: Tensor) -> None:
        sweep, state = self.sweep, self.state
        piece, method = sweep.pieces[k], cast("Any", sweep.problem.solver)
        sweep.remade += 1
        with torch.no_grad():
            t0, t1 = (t[rows] for t in sweep.ends(k, sweep.tape.t, sweep.tape.args, piece))
            carry = sweep.pieces[k + 1].carry.with_([x[samples] for x in state.carry])
            y, carry = method.inverse(piece.term.select(rows), t0, t1, state.y[samples], sweep.tape.args, carry)
            self.state = State(
                state.y.index_copy(0, samples, y),
                [a.index_copy(0, samples, b) for a, b in zip(state.carry, floating(carry), strict=True)],
            )

    def _restart(self, k: int, kept: State) -> None:
        """Compare the samples that step here or later with what was kept of them, and go on from that."""
        assert kept.samples is not None
        place = (self.number[kept.samples] >= k).nonzero()[:, 0]
        samples = kept.samples[place]
        self._compare(k, self.state.y[samples], kept.y[place])
        self.state = State(
            self.state.y.index_copy(0, samples, kept.y[place]),
            [a.index_copy(0, samples, b[place]) for a, b in zip(self.state.carry, kept.carry, strict=True)],
        )

    def _compare(self, k: int, found: Tensor, kept: Tensor) -> None:
        if kept.numel() and not (miss := _miss(found, kept)) <= self.tolerance:
            raise _drifted(self.sweep, k, miss, self.tolerance)


def _miss(found: Tensor, kept: Tensor) -> float:
    """The largest distance of a row, relative to its largest component."""
    distance, size = ((x.flatten(1) if x.dim() > 1 else x[:, None]).abs().amax(1) for x in (found - kept, kept))
    return float((distance / size.clamp_min(torch.finfo(size.dtype).tiny)).max())


def _drifted(sweep: Sweep, k: int, miss: float, tolerance: float) -> RuntimeError:
    return RuntimeError(
        f'gradient="reversible": undoing the steps misses the state at t = {sweep.time(k):g} (step {k} of '
        f"{len(sweep.pieces)}) by {miss:.1e} of its size, and {tolerance:.1e} is allowed. Rounding grows backwards in "
        'this solve; use gradient="checkpointed", which is exact, with schedule="logarithmic" where memory is short.'
    )
