"""The exact discrete gradient in the memory of the states alone: every step is made twice."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathline._random import restored
from pathline._structure import host
from pathline.controllers import Setting
from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Kept, Sum, add, gather, move_end, move_start, timed
from pathline.gradients.recompute import Piece, Recipe, Tape, no_forward_mode, prepare
from pathline.loop import Problem, integrate
from pathline.saving import Keeper


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
        at_rest = problem.times[0] == problem.times[-1]
        if at_rest or not torch.is_grad_enabled():
            return Backprop().solve(problem, y0, t, args, field)
        recipe = prepare(problem, y0, args, field)
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

    def forward(self, y0: Tensor, t: Tensor | None, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        recipe, problem = self.recipe, self.recipe.problem
        with torch.no_grad(), recipe.forward(tensors) as args:
            result = integrate(
                problem, y0, args, slope=recipe.slope, record=True, draws=recipe.draws, **timed(problem, t, args)
            )
            kept = gather(problem, result)
        recipe.slope = None
        self.result, self.leaves, self.curved = result, len(kept.rows), kept.curve is not None
        if not result.pieces:  # failed at the first step: nothing may leave as the very tensor that came in
            return (*(leaf.clone() for leaf in kept.rows), kept.y1.clone())
        rows = (leaf.clone() if leaf._is_view() else leaf for leaf in kept.rows)
        states: list[Tensor] = []
        for k, piece in enumerate(result.pieces):
            # A slope may be a tensor that the field keeps; as an output it would be given a history.
            states += [x.detach() for x in (piece.y0, piece.carry) if x is not None and k > 0]
            # From here on the outputs of the autograd function keep the tensors alive; marks remain.
            piece.y0, piece.carry, piece.outputs = None, k > 0 and piece.carry is not None, ()
        result.first = ()
        return (*rows, *([] if kept.curve is None else [kept.curve]), kept.y1, *states)

    def kept(self, outputs: tuple[Tensor, ...]) -> Kept:
        n = self.leaves
        return Kept(outputs[:n], outputs[n] if self.curved else None, outputs[n + self.curved], self.result)

    def states(self, tensors: Sequence[Any], first: Any) -> list[tuple[Any, Any]]:
        """State and carry before every step, from the flat list of them."""
        source = iter(tensors)
        pieces = self.result.pieces
        return [(next(source) if k else first, next(source) if piece.carry else None) for k, piece in enumerate(pieces)]


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

    def run_back(self) -> list[Tensor | None]:
        """Gradients of the start, of the times, and of the inputs."""
        g_y, g_carry = self.g_y1, None
        with self.tape.open():
            for k in range(len(self.pieces) - 1, -1, -1):
                cotangents = [g_y, g_carry, *self._outputs(k)]
                if any(g is not None for g in cotangents):
                    step = functools.partial(self._replay, k)
                    g_y, g_carry = self._pull(step, self.states[k], cotangents, host(self.pieces[k].t0))
                state, slope = self.g_states[k]
                g_y, g_carry = add(g_y, state), add(g_carry, slope)
            n = self._first_rows()
            head = [None if g is None else g[:n] for g in self.g_rows]
            (g_first,) = self._pull(self._first, [self.y0], head, self.problem.times[0])
        return [add(g_y, g_first), self.g_t, *self.g_inputs.values]

    def _pull(
        self, piece: Piece, own: Sequence[Tensor | None], cotangents: Sequence[Tensor | None], at: float
    ) -> list[Tensor | None]:
        _, g_own, g_t, g_inputs = self.tape.pull(piece, own, cotangents, at)
        self.g_t = add(self.g_t, g_t)
        self.g_inputs.add(g_inputs)
        return g_own

    def _first_rows(self) -> int:
        if self.problem.save.steps:
            return 1
        return sum(t == self.problem.times[0] for t in self.problem.times)

    def _outputs(self, k: int) -> list[Tensor | None]:
        """The cotangents of what step ``k`` contributed."""
        due = slice(k + 1, k + 2) if self.problem.save.steps else self.pieces[k].due
        rows = [None if g is None else g[due] for g in self.g_rows] if due.stop > due.start else []
        return [*rows, *([] if not self.run.curved else [None if self.g_curve is None else self.g_curve[k]])]

    def _timed(self, t: Tensor | None, args: Any) -> tuple[Any, Keeper]:
        """Clock and keeper as functions of the times; the same for every step unless a transform makes new tensors."""
        seen, clock, keeper = self.known
        if keeper is None or seen is not t:
            problem = self.problem
            extras = timed(problem, t, args)
            times = extras.get("times")
            if times is not None:
                setting = Setting(problem.term, problem.solver, times)
                clock = problem.controller.clock(setting, self.y0, None, None)
            keeper = Keeper(problem.save, problem.times, problem.structure, extras.get("moved"), times)
            self.known = t, clock, keeper
        return clock, keeper

    def _first(self, own: Sequence[Any], t: Tensor | None, args: Any) -> Sequence[Tensor | None]:
        _, keeper = self._timed(t, args)
        return keeper.first(own[0], slice(0, self._first_rows()))

    def _replay(self, k: int, own: Sequence[Any], t: Tensor | None, args: Any) -> Sequence[Tensor | None]:
        y, carry = own
        piece = self.pieces[k]
        clock, keeper = self._timed(t, args)
        t0, t1 = (piece.t0, piece.t1) if clock is None else (clock.at(k), clock.at(k + 1))
        with restored(piece.random, y.device):
            step = self.problem.solver.step(piece.term, t0, t1, y, args, carry)
            outputs = keeper.outputs(step, t1, piece.due)  # may compute the slope that is carried on
            return [step.y1, step.carry, *outputs]
