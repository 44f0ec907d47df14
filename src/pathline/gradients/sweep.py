"""The backward pass of the exact modes: a step is made again, pulled back through, and then the one before it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from pathline._random import restored, snapshot
from pathline.controllers import Setting
from pathline.gradients.base import Kept, Sum, add, differentiated, gather, run, timed
from pathline.gradients.recompute import Piece, Recipe, Tape, no_forward_mode
from pathline.gradients.steplog import State, StepLog
from pathline.loop import contribution
from pathline.row_loop import contribution as row_contribution
from pathline.row_loop import cut_state
from pathline.row_saving import RowKeeper
from pathline.saving import Keeper
from pathline.solvers.base import Packed, floating


class Source(Protocol):
    """Where a backward pass gets the states from that the forward pass did not keep."""

    def before(self, k: int) -> State:
        """The state before step ``k``; asked for from the last step to the first."""
        ...


class Solve:
    """One solve: what the autograd function needs beside tensors, and how its outputs are laid out.

    Outputs are the leaves of the rows, the curve where asked, the last state, then the states between the steps with
    their carries, unless a log keeps a few of these aside. States are outputs so that second derivatives find their way
    through them; without them, second derivatives go through the whole solve at once.

    Args:
        recipe: of the solve.
        log: of its steps; None keeps all states.
    """

    def __init__(self, recipe: Recipe, log: StepLog | None = None) -> None:
        self.recipe, self.log = recipe, log
        self.inputs = len(recipe.inputs.tensors)
        self.leaves = 0
        self.curved = recipe.problem.save.dense
        self.result: Any = None
        self.reached: Tensor | None = None

    def source(self, sweep: Sweep) -> Source:
        """Where the states before the steps come from, with a log."""
        raise NotImplementedError  # only a solve with a log is asked, and each kind of log has its own answer

    def apply(self, y0: Tensor, t: Tensor | None) -> Kept:
        """Solve, under one autograd function."""
        outputs = _Solve.apply(self, y0, t, *self.recipe.inputs.tensors)
        n = self.leaves
        curve = outputs[n] if self.curved else None
        return Kept(outputs[:n], curve, outputs[n + self.curved], self.result, self.reached)

    def forward(self, y0: Tensor, t: Tensor | None, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        recipe, problem = self.recipe, self.recipe.problem
        with torch.no_grad(), recipe.forward(tensors) as args:
            options = timed(problem, t, args)
            result = run(
                problem, y0, args, slope=recipe.slope, record=True, draws=recipe.draws, log=self.log, **options
            )
            kept = gather(problem, result)
        recipe.slope = None
        self.result, self.leaves, self.curved = result, len(kept.rows), kept.curve is not None
        self.reached = kept.reached
        if not result.pieces:  # failed at the first step: nothing may leave as the very tensor that came in
            return (*(leaf.clone() for leaf in kept.rows), kept.y1.clone())
        rows = [leaf.clone() if leaf._is_view() else leaf for leaf in kept.rows]
        states = self._states(kept) if self.log is None else []
        if self.log is not None:
            self.log.settle()
        result.first = ()
        return (*rows, *([] if kept.curve is None else [kept.curve]), kept.y1, *states)

    def _states(self, kept: Kept) -> list[Tensor]:
        """The states between the steps with their carries."""
        result, states = kept.result, []
        for k, piece in enumerate(result.pieces):
            packed = Packed(piece.carry if k else None)
            # A slope may be a tensor that the field keeps; as an output it would be given a history.
            states += [x.detach() for x in ([piece.y0] if k else []) + packed.take()]
            # From here on the outputs of the autograd function keep the tensors alive; marks remain.
            piece.y0, piece.carry, piece.outputs = None, packed, ()
            if self.curved and self.recipe.problem.per_sample:
                piece.curve = None
        return states

    def states(self, tensors: Sequence[Any], first: Any) -> list[tuple[Any, list[Any]]]:
        """State and floating tensors of the carry before every step, from the flat list of them; none with a log."""
        source = iter(tensors)
        found: list[tuple[Any, list[Any]]] = []
        if self.log is not None:
            return found
        for k, piece in enumerate(self.result.pieces):
            start = next(source) if k else _of(first, piece.index)
            found.append((start, [next(source) for _ in piece.carry.places]))
        return found


def _of(x: Tensor | None, index: Tensor | None) -> Tensor | None:
    """The rows of some samples."""
    return x if x is None or index is None else x[index]


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(solve: Solve, y0: Tensor, t: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return solve.forward(y0, t, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        solve, y0, t, *tensors = inputs
        ctx.solve = solve
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y0, t, *tensors, *output[solve.leaves + solve.curved + 1 :])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise no_forward_mode()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        solve: Solve = ctx.solve
        y0, t, *rest = ctx.saved_tensors
        stats = solve.recipe.problem.stats
        before = replace(stats)
        sweep = Sweep(solve, y0, t, rest[: solve.inputs], rest[solve.inputs :], cotangents)
        grads = sweep.run_back()
        stats.backward_steps += len(solve.result.pieces)
        stats.backward_accepted += len(solve.result.pieces)
        stats.backward_remade += sweep.remade
        stats.backward_evaluations += stats.evaluations - before.evaluations
        for name in ("evaluations", "jacobians", "factorizations"):  # these stay those of the forward pass
            setattr(stats, name, getattr(before, name))
        return None, *grads


class Sweep:
    """The backward pass of one solve.

    Args:
        solve: the solve.
        y0: its start.
        t: the requested times, where they are differentiated.
        inputs: the tensors that the field reads.
        states: those between the steps, with their carries; none where a log keeps a few.
        cotangents: of the outputs.
    """

    def __init__(
        self,
        solve: Solve,
        y0: Tensor,
        t: Tensor | None,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
    ) -> None:
        self.solve, self.problem, self.pieces = solve, solve.recipe.problem, solve.result.pieces
        self.y0 = y0
        n, curved = solve.leaves, solve.curved
        self.g_rows, self.g_y1 = cotangents[:n], cotangents[n + curved]
        self.g_curve = cotangents[n] if curved else None
        self.states = solve.states(states, y0)
        self.g_states = solve.states(cotangents[n + curved + 1 :], None)
        self.tape = Tape(solve.recipe, t, inputs, differentiated(y0, t, *inputs, *states, *cotangents))
        self.g_t: Tensor | None = None
        self.g_inputs = Sum(len(inputs), in_place=not (self.tape.create_graph or self.tape.transform))
        self.known: tuple[Any, Any, Any] = (None, None, None)
        self.g_y = self.g_y1
        self.g_carry: list[Any] = []
        #: Samples whose carry, at the step now looked at, comes from an earlier one.
        self.owing = torch.zeros(len(y0) if self.problem.per_sample else 0, dtype=torch.bool, device=y0.device)
        #: Where the curves of each step begin, on the per-sample clock.
        self.curves: list[int] = []
        if curved and self.problem.per_sample:
            self.curves = [0, *accumulate(len(piece.index) for piece in self.pieces)]
        self.source: Source | None = None
        #: How many steps were made once more to get at states.
        self.remade = 0

    def run_back(self) -> list[Tensor | None]:
        """Gradients of the start, of the times, and of the inputs."""
        with self.tape.open():
            log = self.solve.log
            if log is not None and (self.tape.create_graph or self.tape.transform or log.schedule is None):
                return self._at_once()
            self.source = self.solve.source(self) if log else None
            for k in range(len(self.pieces) - 1, -1, -1):
                self._back(k)
            if self.problem.per_sample and bool(self.owing.any()):
                # Samples that were rejected in the first step began with what `init` made.
                (g_start,) = self._pull(self._init, [self.y0], self.g_carry, self.time(0))
                self.g_y = add(self.g_y, g_start)
            due, head = self._first_due()
            first = functools.partial(self._first, due)
            (g_first,) = self._pull(first, [self.y0], head, self.time(0))
        return [add(self.g_y, g_first), self.g_t, *self.g_inputs.values]

    def _back(self, k: int) -> None:
        """Pull the cotangents through step ``k``."""
        piece = self.pieces[k]
        state, carry, random = self._before(k, piece)
        index = piece.index
        g_carry = [_of(g, index) for g in self.g_carry]
        cotangents = [_of(self.g_y, index), *g_carry, *self._outputs(k, piece)]
        if any(g is not None for g in cotangents):
            step = functools.partial(self._replay, k, len(g_carry), random)
            g_state, *g_slopes = self._pull(step, [state, *carry], cotangents, self.time(k))
        else:
            g_state, g_slopes = None, [None for _ in carry]
        if self.source is None:
            own_state, own_slopes = self.g_states[k]
            g_state = add(g_state, own_state if k else None)
            g_slopes = [add(a, b) for a, b in zip(g_slopes, own_slopes, strict=True)]
        if index is None:
            self.g_y, self.g_carry = g_state, g_slopes
            return
        batch = len(self.y0)
        self.g_y = _put(self.g_y, index, g_state, batch)
        self.owing.index_fill_(0, index, bool(g_slopes))
        if not g_slopes:  # these rows started afresh; others still owe theirs to an earlier step
            g_slopes = [None] * len(self.g_carry)
        before = self.g_carry if len(self.g_carry) == len(g_slopes) else [None] * len(g_slopes)
        self.g_carry = [_put(a, index, b, batch) for a, b in zip(before, g_slopes, strict=True)]

    def _before(self, k: int, piece: Any) -> tuple[Tensor, list[Tensor], Any]:
        """State, carry and random generators before step ``k``, of the samples that take it."""
        if self.source is None:
            return *self.states[k], piece.random
        state = self.source.before(k)
        return *self.own(state, piece), self._random(state, piece)

    def _at_once(self) -> list[Tensor | None]:
        """The whole solve as one piece: what second derivatives and transforms need where states were not kept."""
        due, cotangents = self._first_due()
        (g_y0,) = self._pull(
            functools.partial(self._whole, due),
            [self.y0],
            [self.g_y1, *cotangents, *(g for k, piece in enumerate(self.pieces) for g in self._outputs(k, piece))],
            self.time(0),
        )
        return [g_y0, self.g_t, *self.g_inputs.values]

    def _pull(
        self, piece: Piece, own: Sequence[Tensor | None], cotangents: Sequence[Tensor | None], at: float
    ) -> list[Tensor | None]:
        _, g_own, g_t, g_inputs = self.tape.pull(piece, own, cotangents, at)
        self.g_t = add(self.g_t, g_t)
        self.g_inputs.add(g_inputs)
        return g_own

    def time(self, k: int) -> float:
        """When step ``k`` begins, for messages; the first one of all samples."""
        t = self.pieces[k].t0 if k else self.problem.times[0]
        return float(t.flatten()[0]) if isinstance(t, Tensor) else t

    def _first_due(self) -> tuple[Any, list[Tensor | None]]:
        """The rows at the start, and their cotangents."""
        if self.problem.per_sample:
            due = self.solve.result.first_due
            place = due.place
        else:
            n = 1 if self.problem.save.steps else sum(t == self.problem.times[0] for t in self.problem.times)
            due = place = slice(0, n)
        return due, [None if g is None else g[place] for g in self.g_rows]

    def _outputs(self, k: int, piece: Any) -> list[Tensor | None]:
        """The cotangents of what step ``k`` contributed."""
        place, curve = piece.place, k
        if self.problem.per_sample:
            served = len(piece.due) > 0
            if self.solve.curved:
                curve = slice(*self.curves[k : k + 2])
        else:
            place = slice(k + 1, k + 2) if self.problem.save.steps else place
            served = place.stop > place.start
        rows = [None if g is None else g[place] for g in self.g_rows] if served else []
        return [*rows, *([] if not self.solve.curved else [None if self.g_curve is None else self.g_curve[curve]])]

    # --- the steps, made again

    def _timed(self, t: Tensor | None, args: Any) -> tuple[Any, Any]:
        """Clock and keeper as functions of the times; the same for every step unless a transform makes new tensors."""
        seen, clock, keeper = self.known
        if keeper is None or seen is not t:
            with torch.enable_grad():  # asked for first by a step without a graph, perhaps
                clock, keeper = self._clock_and_keeper(t, args)
            self.known = t, clock, keeper
        return clock, keeper

    def _clock_and_keeper(self, t: Tensor | None, args: Any) -> tuple[Any, Any]:
        problem = self.problem
        extras = timed(problem, t, args)
        times, clock = extras.get("times"), None
        if times is not None:
            setting = Setting(problem.term, problem.solver, times)
            make = problem.controller.rows if problem.per_sample else problem.controller.clock
            clock = make(setting, self.y0, None, None)
        kind = RowKeeper if problem.per_sample else Keeper
        return clock, kind(problem.save, problem.times, problem.structure, extras.get("moved"), times)

    def _first(self, due: Any, own: Sequence[Any], t: Tensor | None, args: Any) -> Sequence[Tensor | None]:
        _, keeper = self._timed(t, args)
        return keeper.first(own[0], due)

    def _init(self, own: Sequence[Any], t: Tensor | None, args: Any) -> list[Tensor]:
        problem = self.problem
        clock, _ = self._timed(t, args)
        start = problem.times[0] if clock is None else clock.times(0, None)
        return floating(problem.solver.init(problem.term, start, own[0], args))

    def _replay(
        self, k: int, carried: int, random: Any, own: Sequence[Any], t: Tensor | None, args: Any
    ) -> list[Tensor]:
        end, handed, outputs, _ = self._made(k, carried, random, own, t, args)
        return [end, *handed, *outputs]

    def _made(
        self,
        k: int,
        carried: int,
        random: Any,
        own: Sequence[Any],
        t: Tensor | None,
        args: Any,
        outputs: bool = True,
    ) -> tuple[Tensor, list[Tensor], Sequence[Tensor], Any]:
        """Step ``k`` once more: the state at its end, what it hands on, its outputs, and the random generators then."""
        y, *tensors = own
        piece = self.pieces[k]
        _, keeper = self._timed(t, args)
        t0, t1 = self.ends(k, t, args, piece)
        with restored(random, y.device):
            step = self.problem.solver.step(piece.term, t0, t1, y, args, piece.carry.with_(tensors))
            end, kept = step.y1, ()
            if self.problem.per_sample:
                if piece.cut is not None:
                    end = cut_state(step, t0, t1, piece.cut, piece.cut != piece.t1)
                if outputs:
                    kept = _row_outputs(keeper, step, t0, t1, piece, end)
            elif outputs or piece.cut is not None:
                end, kept = contribution(keeper, step, replace(piece, t0=t0, t1=t1))
            handed = _handed(step, carried)
            after = None if random is None else snapshot(y.device)
        return end, handed, kept, after

    def ends(self, k: int, t: Tensor | None, args: Any, piece: Any) -> tuple[Any, Any]:
        """The times of step ``k``, with their dependence on the requested ones."""
        clock, _ = self._timed(t, args)
        if clock is None:
            return piece.t0, piece.t1
        if self.problem.per_sample:
            return clock.times(piece.number, piece.index), clock.times(piece.number + 1, piece.index)
        return clock.at(k), clock.at(k + 1)

    # --- from state to state

    def start(self) -> State:
        """The state before the first step; its carry is made there."""
        return State(self.y0, [], self.pieces[0].random if len(self.pieces) else None)

    def own(self, state: State, piece: Any) -> tuple[Any, list[Any]]:
        """State and carry of the samples that take a step."""
        carry = [_of(x, piece.index) for x in state.carry] if piece.carry.places else []
        return _of(state.y, piece.index), carry

    def _random(self, state: State, piece: Any) -> Any:
        return state.random if piece.random is None else piece.random

    def advanced(self, k: int, state: State) -> State:
        """The state before step ``k + 1``, from that before step ``k``."""
        self.remade += 1
        with torch.no_grad():
            return self._onward(k, state, self.tape.t, self.tape.args, self.solve.recipe.draws)[0]

    def _onward(
        self, k: int, state: State, t: Tensor | None, args: Any, outputs: bool
    ) -> tuple[State, Sequence[Tensor]]:
        piece = self.pieces[k]
        y, carry = self.own(state, piece)
        carried = len(self.pieces[k + 1].carry.places) if k + 1 < len(self.pieces) else 0
        random = self._random(state, piece)
        end, handed, kept, random = self._made(k, carried, random, [y, *carry], t, args, outputs)
        if piece.index is None:
            return State(end, handed, random), kept
        before: Sequence[Tensor | None] = state.carry
        if k == 0 and handed and len(piece.index) < len(self.y0):
            before = self._init([state.y], t, args)
        y = state.y.index_copy(0, piece.index, end)
        before = before if len(before) == len(handed) else [None] * len(handed)
        carry = [_put(old, piece.index, x, len(y)) for old, x in zip(before, handed, strict=True)]
        return State(y, carry, random), kept

    def _whole(self, due: Any, own: Sequence[Any], t: Tensor | None, args: Any) -> list[Tensor]:
        """The last state and all outputs, from the start."""
        state = replace(self.start(), y=own[0])
        rows: list[Any] = list(self._first(due, own, t, args))
        for k in range(len(self.pieces)):
            state, kept = self._onward(k, state, t, args, outputs=True)
            rows += kept
        return [state.y, *rows]


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


def _row_outputs(keeper: RowKeeper, step: Any, t0: Tensor, t1: Tensor, piece: Any, end: Tensor) -> Sequence[Tensor]:
    cut = None if piece.cut is None else end
    outputs, curve = row_contribution(keeper, step, t0, t1, piece.due, piece.end, cut)
    return outputs if curve is None else (*outputs, curve)


def _put(whole: Tensor | None, index: Tensor, part: Tensor | None, batch: int) -> Any:
    """A tensor of all samples, with the rows of some replaced; None is zero."""
    if part is None:
        if whole is None:
            return None
        part = whole.new_zeros(len(index), *whole.shape[1:])
    # A carry that has grown since is that of no other sample.
    if whole is None or whole.shape[1:] != part.shape[1:]:
        whole = part.new_zeros(batch, *part.shape[1:])
    return whole.index_copy(0, index, part)
