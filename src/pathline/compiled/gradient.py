"""A whole compiled solve as one differentiable operation: kernels forward, kernels backward, little between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pathline.compiled.capture import Untraceable
from pathline.compiled.loops import looped
from pathline.compiled.solver import Compiled
from pathline.compiled.tapes import Tape, summed
from pathline.controllers import Grid
from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Gradient, Kept, gather
from pathline.gradients.recompute import Tape as Replay
from pathline.gradients.recompute import prepare
from pathline.loop import Problem, integrate
from pathline.stats import Stats


@dataclass(frozen=True)
class Whole:
    """One autograd function for a compiled solve, where nothing but rows and end is differentiated.

    What it cannot serve (gradients to times, curves, functions of rows) is left to ``base``, which differentiates the
    compiled steps one by one.
    """

    base: Gradient

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve under one autograd function."""
        solver, save = problem.solver, problem.save
        assert isinstance(solver, Compiled)
        kept = looped(problem, y0, t, args)
        if kept is not None:
            return kept
        served = torch.is_grad_enabled() and not (
            t is not None or save.dense or save.fn or problem.watch or problem.at_rest
        )
        reading = solver.reading(problem.term, problem.times[0], y0, args) if served else None
        if reading is None or not (y0.requires_grad or any(x.requires_grad for x in reading.inputs)):
            return self.base.solve(problem, y0, t, args, field)
        run = _Run(problem, solver, args, field, [x for x in reading.inputs if x.requires_grad])
        before = replace(problem.stats)
        try:
            *rows, y1 = _Solve.apply(run, y0, *run.inputs)  # pyright: ignore[reportGeneralTypeIssues]
        except Untraceable:
            problem.stats.__dict__.update(before.__dict__)
            return self.base.solve(problem, y0, t, args, field)
        return Kept(tuple(rows), None, y1, run.result)


class _Run:
    """One solve: what its backward pass needs beside tensors."""

    def __init__(self, problem: Problem, solver: Compiled, args: Any, field: Any, inputs: list[Tensor]) -> None:
        self.solver = solver
        self.problem, self.args, self.field, self.inputs = problem, args, field, inputs
        self.result: Any = None
        self.tapes: list[tuple[Tape, slice]] = []

    def forward(self, y0: Tensor) -> tuple[Tensor, ...]:
        """Integrate, and keep what the kernels saved."""
        problem, solver = self.problem, self.solver
        with solver.recording():
            self.result = result = integrate(problem, y0, self.args)
            kept = gather(problem, result)
        for k, piece in enumerate(result.pieces):
            place = slice(k + 1, k + 2) if problem.save.steps else piece.due
            self.tapes.append((piece.tape, place))
            piece.tape, piece.outputs = None, ()
        result.first = ()
        rows = [leaf.clone() if leaf._is_view() else leaf for leaf in kept.rows]
        return (*rows, kept.y1.clone())

    def backward(self, y0: Tensor, g_rows: Tensor | None, g_y: Tensor | None) -> list[Tensor | None]:
        """The cotangents of the start and of the inputs."""
        zero = torch.zeros_like(y0, memory_format=torch.contiguous_format)
        g_y = zero if g_y is None else g_y.contiguous()
        g_rows = None if g_rows is None else g_rows.contiguous()
        g_slope: Tensor | None = None
        sums: list[Any] = []
        for tape, place in reversed(self.tapes):
            inner = None
            if g_rows is not None and place.stop > place.start:
                count = tape.count
                inner = g_rows[place.start : place.start + count] if count else None
                for i in range(place.start + count, place.stop):
                    g_y = g_y + g_rows[i]
            g_y, g_slope, grads = tape.pull(g_y, g_slope, inner, zero)
            sums = summed(sums, grads)
        if g_rows is not None:
            first = self.tapes[0][1].start if self.tapes and not self.problem.save.steps else 1
            for i in range(first if self.tapes else len(g_rows)):
                g_y = g_y + g_rows[i]
        return [g_y, *(sums or [None] * len(self.inputs))]

    def again(self, y0: Tensor, inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The same cotangents with a graph: the steps are made again, plainly."""
        ends = [piece.t0 for piece in self.result.pieces] + [self.result.t1]
        problem = replace(
            self.problem,
            solver=self.solver.base,
            controller=Grid(ends),
            term=self.problem.term.counting(Stats()),
        )
        recipe = prepare(problem, y0, self.args, self.field)
        recipe.slope = None
        replay = Replay(recipe, None, recipe.inputs.tensors, True)

        def whole(own: Sequence[Any], t: Any, args: Any) -> list[Tensor]:
            kept = Backprop().solve(problem, own[0], None, args, self.field)
            return [*kept.rows, kept.y1]

        with replay.open():
            _, (g_y0,), _, found = replay.pull(whole, [y0], cotangents, ends[0])
        by_id = {id(x): g for x, g in zip(recipe.inputs.tensors, found, strict=True)}
        return [g_y0, *(by_id.get(id(x)) for x in self.inputs)]


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, y0: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y0, *inputs)
        return run.forward(y0)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        run: _Run = ctx.run
        y0, *inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *run.again(y0, inputs, cotangents)
        if run.solver.recompute:
            stats = run.problem.stats
            stats.backward_steps += len(run.tapes)
            stats.backward_accepted += len(run.tapes)
            stats.backward_remade += len(run.tapes)
            stats.backward_evaluations += len(run.tapes) * (run.solver.base.stages - run.solver.base.fsal)
        *g_rows, g_y1 = cotangents
        return None, *run.backward(y0, g_rows[0], g_y1)
