"""Compiled steps with one clock a sample: one graph for all sizes of the batch, which shrinks as samples leave."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline.compiled.capture import Reading, Untraceable, look
from pathline.compiled.kernels import Kernel, Pair, built
from pathline.compiled.programs import Field, RowProgram, RowSlope
from pathline.compiled.solver import Compiled, refused
from pathline.compiled.tapes import Operation
from pathline.gradients import inputs as places
from pathline.solvers.runge_kutta import RungeKutta, RungeKuttaStep
from pathline.terms import Bound, PerSample
from pathline.tolerance import Tolerance

#: Graphs take sizes of one for a special case, so a last sample steps beside a copy of itself.
LEAST = 2


@dataclass
class RowReading(Reading):
    """A graph for every size of the batch, and what it reads.

    Attributes:
        rows: whether the inputs have an entry for each sample of the whole batch.
    """

    rows: Sequence[bool] = ()


class CompiledRows(Compiled):
    """A method for one solve with a clock a sample, whose steps are compiled.

    Args:
        base: an explicit Runge-Kutta method.
        times: the requested times, ``(n, batch)``.
        tolerance: of the solve.
        rows: whether entries at the requested times will be asked for.
        dense: whether every step will be asked for its curve.
        bounded: whether some steps are next to a jump.
        error: "ratio", "estimate" or "", see `RowProgram`.
        recompute: keep no activations for the backward pass.
        options: of Inductor.
    """

    def __init__(
        self,
        base: RungeKutta,
        times: Tensor,
        *,
        tolerance: Tolerance | None,
        rows: bool,
        dense: bool,
        bounded: bool,
        error: str,
        recompute: bool,
        options: dict[str, Any],
    ) -> None:
        self.base, self.bounded, self.error, self.recompute, self.options = base, bounded, error, recompute, options
        self.dense = dense or (rows and bool(((times != times[0]) & (times != times[-1])).any()))
        #: Steps that may be rejected are given the slopes at their start.
        self.carries_slope = base.fsal or bool(error)
        self.by_row = [
            isinstance(x, Tensor) and x.dim() > 0 and len(x) > 1
            for x in ((tolerance.rtol, tolerance.atol) if tolerance is not None and error == "ratio" else ())
        ]
        self._read: tuple[Any, ...] = (None,) * 5
        self._tolerances: tuple[Any, ...] = (None, None)
        self._recording = False

    # --- the protocol

    def init(self, term: Bound, t0: Any, y0: Tensor, args: Any) -> Tensor | None:
        """The first slopes, where steps are given theirs."""
        self.dense |= isinstance(t0, Tensor) and t0.requires_grad  # rows at the ends of steps move with their times
        return self.base.init(term, t0, y0, args) if self.carries_slope else None

    def step(self, term: Bound, t0: Any, t1: Any, y: Tensor, args: Any, carry: Tensor | None) -> Any:
        """One step of every sample."""
        reading = self.reading(term, t0, y, args)
        if not isinstance(reading, RowReading):
            return self.base.step(term, t0, t1, y, args, carry)
        try:
            if carry is None and self.carries_slope:
                carry = self._slopes(reading, term, t0, y, args)
            step = RowStep(self, reading, term, t0, t1, y, args, carry)
        except Untraceable as refusal:
            self.refuse(term, y, refusal)
            return self.base.step(term, t0, t1, y, args, carry)
        term.stats.compiled = True
        return step

    def _slopes(self, reading: RowReading, term: Bound, t: Tensor, y: Tensor, args: Any) -> Tensor:
        """The slopes at the start of a step; of methods that hand them on, next to a jump alone."""
        if self.base.fsal:
            return term.rate(t, y, args)
        found = self.call(("slope",), reading, term, [y], [t], {0: 0})[0]
        term.counted(1)
        return found

    # --- reading

    def reading(self, term: Bound, t: Any, y: Tensor, args: Any) -> Reading | None:
        """The graph, checked for as many samples, and what it reads; None where steps are plain."""
        epoch, known_term, known, shape, sizes = self._read
        now, size = places.swaps(), max(len(y), LEAST)
        if not (epoch == now and known_term is term.term and known is args and shape == y.shape[1:]):
            sizes = {}
            self._read = (now, term.term, args, y.shape[1:], sizes)
        elif size in sizes:
            return sizes[size]
        found = next((x for x in sizes.values() if x is not None and size in x.graph.sizes), None)
        if found is None and not refused(term, y):
            try:
                found = _read(term, size, y, args)
            except Untraceable as refusal:
                self.refuse(term, y, refusal)
                return None
        sizes[size] = found
        return found

    # --- running

    def call(
        self,
        variant: tuple[Any, ...],
        reading: RowReading,
        term: Bound,
        moving: list[Tensor],
        times: list[Tensor],
        pulled: dict[int, int],
    ) -> tuple[Tensor, ...]:
        """The outputs of a program for the samples of ``term``, compiled at its first call.

        Args:
            variant: the program.
            reading: the field's graph.
            term: the field.
            moving: states and slopes, differentiated if anything is.
            times: of each sample.
            pulled: the outputs with a cotangent, and which of their dimensions is the batch.
        """
        bounded = self.bounded or isinstance(term.low, Tensor) or term.low > -math.inf or term.high < math.inf
        bounds = [torch.as_tensor(x).to(times[0]).expand_as(times[0]) for x in (term.low, term.high)] if bounded else []
        own = [*moving, *times, *bounds]
        by_row = self.by_row if "ratio" in variant else []
        tolerances = self._tolerance(term) if "ratio" in variant else []
        tensors = [*own, *tolerances, *_inputs(reading, term)]
        rows = [True] * len(own) + [*by_row, *reading.rows]
        single = len(moving[0]) == 1
        tensors = [_row_tensor(x, single) if each else x for x, each in zip(tensors, rows, strict=True)]
        wanted: tuple[int, ...] = ()
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            n = len(moving)
            wanted = (*range(n), *(i for i, x in enumerate(tensors) if i >= n and x.requires_grad))
        shapes = (x.shape[each:] for x, each in zip(tolerances, by_row, strict=True))
        key = (self.base, variant, bounded, wanted, self.recompute, *by_row, *shapes)
        batched = {i: [0] for i, each in enumerate(rows) if each}
        function = self._program(variant, Field(reading, term), bounded)
        make = functools.partial(self._compiled, function, tensors, batched, wanted, pulled)
        program = built(reading.graph.programs, key, make)
        outputs: Any = Operation.apply(program, *tensors) if isinstance(program, Pair) else program(*tensors)
        return tuple(x.narrow(pulled.get(i, 0), 0, 1) for i, x in enumerate(outputs)) if single else outputs

    def _tolerance(self, term: Bound) -> list[Tensor]:
        """Relative and absolute, of the samples of a term."""
        known, tensors = self._tolerances
        now = term.tolerance
        if known is None or now is None or known.rtol is not now.rtol or known.atol is not now.atol:
            tensors = [x.detach() for x in super()._tolerance(term)]
            self._tolerances = (now, tensors)
        return tensors

    def _program(self, variant: tuple[Any, ...], field: Field, bounded: bool) -> RowProgram | RowSlope:
        kind, *rest = variant
        if kind == "slope":
            return RowSlope(self.base, field, bounded)
        error, sloped, dense = rest
        return RowProgram(self.base, field, error, sloped, bounded, dense)

    def _compiled(self, function: Any, tensors: list[Tensor], batched: Any, wanted: Any, pulled: Any) -> Kernel | Pair:
        label = f"the step of {self.base.name} for samples {tuple(tensors[0].shape[1:])}"
        if wanted:
            options: dict[str, Any] = {"wanted": wanted, "pulled": pulled, "recompute": self.recompute}
            return Pair(function, tensors, batched, self.options, label, **options)
        return Kernel(function, tensors, batched, self.options, label, checked=pulled)


def _read(term: Bound, size: int, y: Tensor, args: Any) -> RowReading:
    """The graph for ``size`` samples: what belongs to single ones is shown to Dynamo by stand-ins of that size."""
    originals: list[Tensor] = []
    standing: list[Tensor] = []

    def stand_in(x: Tensor) -> Tensor:
        for original, known in zip(originals, standing, strict=True):
            if original is x:
                return known
        originals.append(x)
        standing.append(torch.zeros(size, *x.shape[1:], dtype=x.dtype, device=x.device).requires_grad_(x.requires_grad))
        return standing[-1]

    def shown(leaf: Any) -> Any:
        return pytree.tree_map_only(Tensor, stand_in, leaf.value) if isinstance(leaf, PerSample) else leaf

    given = pytree.tree_map(shown, args, is_leaf=lambda x: isinstance(x, PerSample))
    lead = (size, *term.lead[1:])
    with torch.inference_mode(False):
        t, state = torch.zeros(lead, dtype=term.dtype, device=term.device), y.new_zeros(size, *y.shape[1:])
    found = look(term, t, state, given, standing)
    by_row = {i for i in (found.time, *found.leaves) if i is not None}
    rows: list[bool] = []
    for i, x in enumerate(found.tensors):
        place = next((j for j, known in enumerate(standing) if known is x), None)
        if place is not None:
            found.tensors[i] = originals[place]
            by_row.add(i)
        if x is not None:
            rows.append(place is not None)
    if any(found.graph.batched.get(i) != [0] for i in by_row):
        raise Untraceable(f"its graph holds for {size} samples alone, and the batch shrinks as samples are done")
    found.graph.sizes.add(size)
    return RowReading(found.graph, found.tensors, found.time, found.leaves, found.sizes, rows)


def _inputs(reading: RowReading, term: Bound) -> list[Tensor]:
    """What the graph reads, of the samples that the term serves."""
    index = term.index
    if index is None or not any(reading.rows):
        return reading.inputs
    return [x.index_select(0, index) if by_row else x for x, by_row in zip(reading.inputs, reading.rows, strict=True)]


def _row_tensor(x: Tensor, single: bool) -> Tensor:
    return torch.cat([x, x]) if single else x.contiguous()


class RowStep:
    """A step of every sample, and what came with it."""

    failed = None

    def __init__(
        self,
        solver: CompiledRows,
        reading: RowReading,
        term: Bound,
        t0: Tensor,
        t1: Tensor,
        y0: Tensor,
        args: Any,
        slope: Tensor | None,
    ) -> None:
        self.solver, self.term, self.t0, self.t1, self.y0, self.args, self.slope = solver, term, t0, t1, y0, args, slope
        self._take(reading)

    def _take(self, reading: RowReading) -> None:
        solver, base = self.solver, self.solver.base
        dense = "" if not solver.dense else "curve" if base.free_dense else "slopes"
        given = self.slope is not None
        moving = [self.y0, *([self.slope] if self.slope is not None else [])]
        first = 1 + base.fsal
        more = {"": {}, "curve": {first: 1}, "slopes": {first + i: 0 for i in range(base.stages)}}[dense]
        pulled = {**dict.fromkeys(range(first), 0), **more}
        variant = ("step", solver.error, given, dense)
        outputs = solver.call(variant, reading, self.term, moving, [self.t0, self.t1], pulled)
        self.term.counted(base.stages - given)
        last = first + len(more)
        self.y1, self._carry = outputs[0], outputs[1] if base.fsal else None
        self._curve = outputs[first] if dense == "curve" else None
        self._plain: RungeKuttaStep | None = None
        if dense == "slopes":
            ks = list(outputs[first:last])
            self._plain = RungeKuttaStep(base, self.term, self.t0, self.t1, self.y0, self.y1, ks, self.args, None)
        measured = outputs[last:]
        self.ratio = measured[0] if solver.error == "ratio" else None
        estimates = measured if solver.error == "estimate" else ()
        self.error: Any = tuple(estimates) if len(estimates) > 1 else estimates[0] if estimates else None

    @property
    def carry(self) -> Tensor | None:
        """The slopes at the end, where the step or its dense output has computed them."""
        return self._carry if self._plain is None else self._plain.carry

    @property
    def retry(self) -> Tensor | None:
        """The slopes at the start, for another try from there."""
        return self.slope if self._plain is None else self._plain.retry

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(degree + 1, rows, *state)``: dense output in powers of theta; of some rows alone."""
        if self._plain is None and self._curve is None:
            reading = self.solver.reading(self.term, self.t0, self.y0, self.args)
            assert isinstance(reading, RowReading)
            self.solver.dense = True  # who asks once will ask again
            self._take(reading)
        if self._plain is not None:
            return self._plain.coefficients(rows)
        assert self._curve is not None
        return self._curve if rows is None else self._curve.index_select(1, rows)
