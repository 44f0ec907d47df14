"""The exact discrete gradient in the memory of the states alone: every step is made twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathline._random import restored
from pathline._structure import host
from pathline.controllers import Setting
from pathline.gradients.base import Kept, add, aliases, gather, move_start, pull_back, timed
from pathline.gradients.inputs import transforming
from pathline.gradients.recompute import Recipe, Watch, prepare
from pathline.loop import Piece, Problem, integrate
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
            return gather(problem, integrate(problem, y0, args, **timed(problem, t, args)))
        recipe = prepare(problem, y0, args, field)
        run = _Run(recipe)
        outputs = _Solve.apply(run, move_start(problem, y0, t, args), t, *recipe.inputs.tensors)
        return run.kept(outputs)


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
            states += [x for x in (piece.y0, piece.carry) if x is not None and k > 0]
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
        pieces: list[Piece] = self.result.pieces
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
        self.run, self.problem, self.result = run, run.recipe.problem, run.result
        self.y0, self.t, self.inputs = y0, t, inputs
        n, curved = run.leaves, run.curved
        self.g_rows, self.g_y1 = cotangents[:n], cotangents[n + curved]
        self.g_curve = cotangents[n] if curved else None
        self.states = run.states(states, y0)
        self.g_states = run.states(cotangents[n + curved + 1 :], None)
        self.create_graph = torch.is_grad_enabled()

    def run_back(self) -> list[Tensor | None]:
        """Gradients of the start, of the times, and of the inputs."""
        recipe, problem, pieces = self.run.recipe, self.problem, self.result.pieces
        watch = Watch(recipe)
        linked = self.create_graph or transforming()
        g_y, g_carry = self.g_y1, None
        total: list[Tensor | None] = [None] * (1 + len(self.inputs))
        with recipe.leaves(self.inputs, self.create_graph) as (inputs, args):
            (t,) = aliases([self.t], linked)
            extra = [x for x in (t, *inputs) if x is not None]
            extras = timed(problem, t, args)
            times = extras.get("times")
            clock = self._clock(times)
            keeper = Keeper(problem.save, problem.times, problem.structure, extras.get("moved"), times)
            for k in range(len(pieces) - 1, -1, -1):
                piece = pieces[k]
                cotangents = [g_y, g_carry, *self._outputs(k, piece)]
                if any(g is not None for g in cotangents):
                    y, carry = aliases(self.states[k], linked)
                    outputs = self._replay(k, piece, clock, keeper, y, carry, args)
                    watch.check(outputs, [y, carry, *extra], host(piece.t0))
                    known = [y, *([] if carry is None else [carry]), *extra]
                    grads = pull_back(outputs, cotangents[: len(outputs)], known, self.create_graph)
                    g_y, g_carry = grads[0], grads[1] if carry is not None else None
                    shared = grads[len(known) - len(extra) :]
                    total = [add(a, b) for a, b in zip(total, self._aligned(shared), strict=True)]
                state, slope = self.g_states[k]
                g_y, g_carry = add(g_y, state), add(g_carry, slope)
            (y,) = aliases([self.y0], linked)
            assert y is not None
            firsts = keeper.first(y, slice(0, self._first_rows()))
            head = [None if g is None else g[: self._first_rows()] for g in self.g_rows]
            grads = pull_back(firsts, head, [y, *extra], self.create_graph)
            total = [add(a, b) for a, b in zip(total, self._aligned(grads[1:]), strict=True)]
        return [add(g_y, grads[0]), *total]

    def _aligned(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        return list(grads) if self.t is not None else [None, *grads]

    def _first_rows(self) -> int:
        if self.problem.save.steps:
            return 1
        return sum(t == self.problem.times[0] for t in self.problem.times)

    def _outputs(self, k: int, piece: Piece) -> list[Tensor | None]:
        """The cotangents of what step ``k`` contributed."""
        due = slice(k + 1, k + 2) if self.problem.save.steps else piece.due
        rows = [None if g is None else g[due] for g in self.g_rows] if due.stop > due.start else []
        return [*rows, *([] if not self.run.curved else [None if self.g_curve is None else self.g_curve[k]])]

    def _clock(self, times: list[Tensor] | None) -> Any:
        """The clock as a function of the times, where fixed steps carry their derivative."""
        if times is None:
            return None
        problem = self.problem
        setting = Setting(problem.term, problem.solver, times, problem.rtol, problem.atol)
        return problem.controller.clock(setting, self.y0, None, None)

    def _replay(
        self, k: int, piece: Piece, clock: Any, keeper: Keeper, y: Tensor | None, carry: Any, args: Any
    ) -> list[Tensor | None]:
        t0, t1 = (piece.t0, piece.t1) if clock is None else (clock.at(k), clock.at(k + 1))
        assert y is not None
        with restored(piece.random, y.device):
            step = self.problem.solver.step(piece.term, t0, t1, y, args, carry)
            outputs = keeper.outputs(step, t1, piece.due)
        return [step.y1, step.carry, *outputs]
