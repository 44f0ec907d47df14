"""The exact discrete gradient in the memory of the states alone: every step is made twice."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pathline._random import restored
from pathline.controllers import Setting
from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Kept, Sum, add, gather, move_end, move_start, run, timed
from pathline.gradients.recompute import Piece, Recipe, Tape, no_forward_mode, prepare
from pathline.loop import Problem, contribution
from pathline.row_loop import contribution as row_contribution
from pathline.row_loop import cut_state
from pathline.row_saving import RowKeeper
from pathline.saving import Keeper
from pathline.solvers.base import Packed, floating


@dataclass(frozen=True)
class Checkpointed:
    """Keep the states of the accepted steps; the backward pass recomputes each step once and differentiates it.

    Exact to rounding, like `Backprop`, in the memory of ``(accepted steps + 1) * (state + slope)`` and the recording of
    one step. *Stable.*

    References:
        Gholami, Keutzer, Biros (2019), ANODE: Unconditionally accurate memory-efficient gradients for neural ODEs.
    """

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve under one autograd function."""
        if problem.at_rest or not torch.is_grad_enabled():
            return Backprop().solve(problem, y0, t, args, field)
        recipe = prepare(replace(problem, term=problem.term.exactly()), y0, args, field)
        run = _Run(recipe)
        outputs = _Solve.apply(run, move_start(problem, y0, t, args), t, *recipe.inputs.tensors)
        return move_end(problem, run.kept(outputs), t, args)


class _Run:
    """One solve: what the autograd function needs beside tensors, and how its outputs are laid out.

    Outputs are the leaves of the rows, the curve where asked, the last state, then the states between the steps with
    their carries. States are outputs so that second derivatives find their way through them.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.inputs = len(recipe.inputs.tensors)
        self.leaves = 0
        self.curved = recipe.problem.save.dense
        self.result: Any = None
        self.reached: Tensor | None = None

    def forward(self, y0: Tensor, t: Tensor | None, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        recipe, problem = self.recipe, self.recipe.problem
        with torch.no_grad(), recipe.forward(tensors) as args:
            result = run(
                problem, y0, args, slope=recipe.slope, record=True, draws=recipe.draws, **timed(problem, t, args)
            )
            kept = gather(problem, result)
        recipe.slope = None
        self.result, self.leaves, self.curved = result, len(kept.rows), kept.curve is not None
        self.reached = kept.reached
        if not result.pieces:  # failed at the first step: nothing may leave as the very tensor that came in
            return (*(leaf.clone() for leaf in kept.rows), kept.y1.clone())
        rows = (leaf.clone() if leaf._is_view() else leaf for leaf in kept.rows)
        states: list[Tensor] = []
        for k, piece in enumerate(result.pieces):
            packed = Packed(piece.carry if k else None)
            # A slope may be a tensor that the field keeps; as an output it would be given a history.
            states += [x.detach() for x in ([piece.y0] if k else []) + packed.take()]
            # From here on the outputs of the autograd function keep the tensors alive; marks remain.
            piece.y0, piece.carry, piece.outputs = None, packed, ()
            if self.curved and problem.per_sample:
                piece.curve = None
        result.first = ()
        return (*rows, *([] if kept.curve is None else [kept.curve]), kept.y1, *states)

    def kept(self, outputs: tuple[Tensor, ...]) -> Kept:
        n = self.leaves
        curve = outputs[n] if self.curved else None
        return Kept(outputs[:n], curve, outputs[n + self.curved], self.result, self.reached)

    def states(self, tensors: Sequence[Any], first: Any) -> list[tuple[Any, list[Any]]]:
        """State and floating tensors of the carry before every step, from the flat list of them."""
        source = iter(tensors)
        found = []
        for k, piece in enumerate(self.result.pieces):
            start = next(source) if k else _of(first, piece.index)
            found.append((start, [next(source) for _ in piece.carry.places]))
        return found


def _of(x: Tensor | None, index: Tensor | None) -> Tensor | None:
    """The rows of some samples."""
    return x if x is None or index is None else x[index]


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(run: _Run, y0: Tensor, t: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return run.forward(y0, t, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        run, y0, t, *tensors = inputs
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y0, t, *tensors, *output[run.leaves + run.curved + 1 :])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise no_forward_mode()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        run: _Run = ctx.run
        y0, t, *rest = ctx.saved_tensors
        stats = run.recipe.problem.stats
        before = stats.evaluations
        sweep = _Sweep(run, y0, t, rest[: run.inputs], rest[run.inputs :], cotangents)
        grads = sweep.run_back()
        stats.backward_steps += len(run.result.pieces)
        stats.backward_evaluations += stats.evaluations - before
        stats.evaluations = before
        return None, *grads


class _Sweep:
    """The backward pass: recompute the last step, pull the cotangents back through it, go on with the one before."""

    def __init__(
        self,
        run: _Run,
        y0: Tensor,
        t: Tensor | None,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
    ) -> None:
        self.run, self.problem, self.pieces = run, run.recipe.problem, run.result.pieces
        self.y0 = y0
        n, curved = run.leaves, run.curved
        self.g_rows, self.g_y1 = cotangents[:n], cotangents[n + curved]
        self.g_curve = cotangents[n] if curved else None
        self.states = run.states(states, y0)
        self.g_states = run.states(cotangents[n + curved + 1 :], None)
        self.tape = Tape(run.recipe, t, inputs, torch.is_grad_enabled())
        self.g_t: Tensor | None = None
        self.g_inputs = Sum(len(inputs), in_place=not (self.tape.create_graph or self.tape.transform))
        self.known: tuple[Any, Any, Any] = (None, None, None)
        self.g_y = self.g_y1
        self.g_carry: list[Tensor | None] = []
        #: Samples whose carry, at the step now looked at, comes from an earlier one.
        self.owing = torch.zeros(len(y0) if self.problem.per_sample else 0, dtype=torch.bool, device=y0.device)

    def run_back(self) -> list[Tensor | None]:
        """Gradients of the start, of the times, and of the inputs."""
        with self.tape.open():
            for k in range(len(self.pieces) - 1, -1, -1):
                self._back(k)
            if self.problem.per_sample and bool(self.owing.any()):
                # Samples that were rejected in the first step began with what `init` made.
                (g_start,) = self._pull(self._init, [self.y0], self.g_carry, _time(self.problem.times[0]))
                self.g_y = add(self.g_y, g_start)
            due, place = self._first_due()
            head = [None if g is None else g[place] for g in self.g_rows]
            first = functools.partial(self._first, due)
            (g_first,) = self._pull(first, [self.y0], head, _time(self.problem.times[0]))
        return [add(self.g_y, g_first), self.g_t, *self.g_inputs.values]

    def _back(self, k: int) -> None:
        """Pull the cotangents through step ``k``."""
        piece = self.pieces[k]
        state, carry = self.states[k]
        index = piece.index
        g_carry = [_of(g, index) for g in self.g_carry]
        cotangents = [_of(self.g_y, index), *g_carry, *self._outputs(k)]
        if any(g is not None for g in cotangents):
            step = functools.partial(self._replay, k, len(g_carry))
            g_state, *g_slopes = self._pull(step, [state, *carry], cotangents, _time(piece.t0))
        else:
            g_state, g_slopes = None, [None] * len(carry)
        own_state, own_slopes = self.g_states[k]
        if k == 0:
            own_state = None
        g_state = add(g_state, own_state)
        g_slopes = [add(a, b) for a, b in zip(g_slopes, own_slopes, strict=True)]
        if index is None:
            self.g_y, self.g_carry = g_state, g_slopes
            return
        batch = len(self.y0)
        self.g_y = _put(self.g_y, index, g_state, batch)
        self.owing.index_fill_(0, index, bool(g_slopes))
        if not g_slopes:  # these rows started afresh; others still owe theirs to an earlier step
            g_slopes = [None] * len(self.g_carry)
        before = self.g_carry or [None] * len(g_slopes)
        self.g_carry = [_put(a, index, b, batch) for a, b in zip(before, g_slopes, strict=True)]

    def _pull(
        self, piece: Piece, own: Sequence[Tensor | None], cotangents: Sequence[Tensor | None], at: float
    ) -> list[Tensor | None]:
        _, g_own, g_t, g_inputs = self.tape.pull(piece, own, cotangents, at)
        self.g_t = add(self.g_t, g_t)
        self.g_inputs.add(g_inputs)
        return g_own

    def _first_due(self) -> tuple[Any, Any]:
        """The rows at the start, and their place."""
        if self.problem.per_sample:
            due = self.run.result.first_due
            return due, due.place
        n = 1 if self.problem.save.steps else sum(t == self.problem.times[0] for t in self.problem.times)
        return slice(0, n), slice(0, n)

    def _outputs(self, k: int) -> list[Tensor | None]:
        """The cotangents of what step ``k`` contributed."""
        piece = self.pieces[k]
        place, curve = piece.place, k
        if self.problem.per_sample:
            served = len(piece.due) > 0
            if self.run.curved:
                start = sum(len(p.index) for p in self.pieces[:k])
                curve = slice(start, start + len(piece.index))
        else:
            place = slice(k + 1, k + 2) if self.problem.save.steps else place
            served = place.stop > place.start
        rows = [None if g is None else g[place] for g in self.g_rows] if served else []
        return [*rows, *([] if not self.run.curved else [None if self.g_curve is None else self.g_curve[curve]])]

    def _timed(self, t: Tensor | None, args: Any) -> tuple[Any, Any]:
        """Clock and keeper as functions of the times; the same for every step unless a transform makes new tensors."""
        seen, clock, keeper = self.known
        if keeper is None or seen is not t:
            problem = self.problem
            extras = timed(problem, t, args)
            times = extras.get("times")
            kind = RowKeeper if problem.per_sample else Keeper
            if times is not None:
                setting = Setting(problem.term, problem.solver, times)
                make = problem.controller.rows if problem.per_sample else problem.controller.clock
                clock = make(setting, self.y0, None, None)
            keeper = kind(problem.save, problem.times, problem.structure, extras.get("moved"), times)
            self.known = t, clock, keeper
        return clock, keeper

    def _first(self, due: Any, own: Sequence[Any], t: Tensor | None, args: Any) -> Sequence[Tensor | None]:
        _, keeper = self._timed(t, args)
        return keeper.first(own[0], due)

    def _init(self, own: Sequence[Any], t: Tensor | None, args: Any) -> Sequence[Tensor | None]:
        problem = self.problem
        clock, _ = self._timed(t, args)
        start = problem.times[0] if clock is None else clock.times(0, None)
        return floating(problem.solver.init(problem.term, start, own[0], args))

    def _replay(self, k: int, carried: int, own: Sequence[Any], t: Tensor | None, args: Any) -> Sequence[Tensor | None]:
        y, *tensors = own
        piece = self.pieces[k]
        clock, keeper = self._timed(t, args)
        carry = piece.carry.with_(tensors)
        with restored(piece.random, y.device):
            if self.problem.per_sample:
                t0, t1 = piece.t0, piece.t1
                if clock is not None:
                    t0, t1 = (clock.times(piece.number + i, piece.index) for i in (0, 1))
                step = self.problem.solver.step(piece.term, t0, t1, y, args, carry)
                end, outputs = _row_outputs(keeper, step, t0, t1, piece)
            else:
                t0, t1 = (piece.t0, piece.t1) if clock is None else (clock.at(k), clock.at(k + 1))
                step = self.problem.solver.step(piece.term, t0, t1, y, args, carry)
                end, outputs = contribution(keeper, step, replace(piece, t0=t0, t1=t1))
            return [end, *_handed(step, carried), *outputs]


def _handed(step: Any, carried: int) -> list[Tensor]:
    """What the next step took over; a slope at the end that dense output had computed is computed once more."""
    if not carried:
        return []
    handed = floating(step.carry)
    if len(handed) != carried:
        step.coefficients()
        handed = floating(step.carry)
    assert len(handed) == carried, "a recomputed step hands on what the first one did"
    return handed


def _row_outputs(keeper: RowKeeper, step: Any, t0: Tensor, t1: Tensor, piece: Any) -> tuple[Tensor, Sequence[Tensor]]:
    end, cut = step.y1, None
    if piece.cut is not None:
        end = cut = cut_state(step, t0, t1, piece.cut, piece.cut != piece.t1)
    outputs, curve = row_contribution(keeper, step, t0, t1, piece.due, piece.end, cut)
    return end, outputs if curve is None else (*outputs, curve)


def _put(whole: Tensor | None, index: Tensor, part: Tensor | None, batch: int) -> Tensor | None:
    """The cotangent of all samples, with that of some replaced."""
    if part is None:
        if whole is None:
            return None
        part = whole.new_zeros(len(index), *whole.shape[1:])
    if whole is None:
        whole = part.new_zeros(batch, *part.shape[1:])
    return whole.index_copy(0, index, part)


def _time(t: Any) -> float:
    return float(t.flatten()[0]) if isinstance(t, Tensor) else t
