"""An explicit method whose steps are compiled: one graph a step, and one for its vector-Jacobian product.

The step is a differentiable operation like any other, so gradients, events and dense output work on it as they do on
plain steps. It holds what the loop would compute beside it: the error ratio and the rows of dense output.
"""

from __future__ import annotations

import contextlib
import math
import warnings
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pathline.compiled.capture import COUNTS, Reading, Untraceable, code_of, first_line, read
from pathline.compiled.kernels import Kernel, Pair
from pathline.compiled.programs import Field, StartProgram, StepProgram
from pathline.gradients import inputs as places
from pathline.gradients.augmented import Augmented
from pathline.gradients.base import aliases
from pathline.solvers.base import Step
from pathline.solvers.runge_kutta import RungeKutta
from pathline.terms import Bound, Time

#: States up to this size pay nothing for rows that nobody asked for.
SMALL = 2048


class Compiled:
    """A method for one solve, whose steps are compiled.

    Args:
        base: an explicit Runge-Kutta method.
        times: the requested times as host floats, so that a step knows the rows that fall into it.
        size: elements of the state.
        rows: whether rows at the requested times will be asked for.
        dense: whether every step will be asked for its curve.
        error: "ratio", "estimate" or "", see `StepProgram`.
        recompute: keep no activations for the backward pass.
        trial: whether the length of the first step is to be found.
        options: of Inductor.
    """

    def __init__(
        self,
        base: RungeKutta,
        times: Sequence[float],
        *,
        size: int,
        rows: bool,
        dense: bool,
        error: str,
        recompute: bool,
        trial: bool,
        options: dict[str, Any],
    ) -> None:
        self.trial = trial
        self.base, self.dense, self.error, self.recompute, self.options = base, dense, error, recompute, options
        self.sign = 1.0 if times[-1] >= times[0] else -1.0
        self.times = list(times)
        self.ahead = [t * self.sign for t in times]
        self.inner = rows and any(times[0] != t != times[-1] for t in times)
        #: Steps that may be rejected, or follow a slope that is known, are given the slope at their start.
        self.carries_slope = base.fsal or bool(error)
        self._read: tuple[Any, ...] = (None,) * 5
        self._tolerances: tuple[Any, ...] = (None, None)
        self._first: float | None = None
        self._recording = False
        self._programs: dict[Any, Any] = {}
        self.polynomial = base._polynomial.numpy()
        # Rows of dense output that a step gives beside itself; where more are due it gives its curve.
        self.capacity = max(len(self.polynomial), 8 if size <= SMALL else 2)
        self._sloped: tuple[Any, Any] = (None, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    # --- the protocol

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> Tensor | None:
        """The first slope, where steps hand theirs on."""
        self._first = None
        if not self.carries_slope:
            return None
        reading = self.reading(term, t0, y0, args)
        if reading is None:
            return self.base.init(term, t0, y0, args)
        try:
            return self._slope(reading, term, t0, y0.contiguous(), chosen=self._tries(term))
        except Untraceable as refusal:
            self.refuse(term, y0, refusal)
            return self.base.init(term, t0, y0, args)

    def _tries(self, term: Bound) -> bool:
        """Whether a first step is looked for; the stretch behind an event has one."""
        return self.trial and self.error == "ratio" and not term.stats.steps

    def _slope(self, reading: Reading, term: Bound, t0: Time, y0: Tensor, *, chosen: bool = False) -> Tensor:
        """The slope at the start of a step; at that of the solve with the length of the first step."""
        tolerance = self._tolerance(term) if chosen else []
        tensors = [y0, self._clock(term, t0, self.times[-1]), *tolerance, *reading.inputs]
        values, tape = self._run(("start", chosen), reading, term, tensors, own=1, pulled={0: 0})
        term.counted(1 + chosen)
        self._first = values[1].detach().item() if chosen else None
        self._sloped = (values[0], tape)
        return values[0]

    def first_step(self) -> float | None:
        """The length of the first step, where `init` has found it; once."""
        found, self._first = self._first, None
        return found if found is not None and math.isfinite(found) else None

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Tensor | None) -> Step:
        """One step."""
        reading = self.reading(term, t0, y, args)
        if reading is None:
            return self.base.step(term, t0, t1, y, args, carry)
        y = y.contiguous()
        due = [] if isinstance(t1, Tensor) else self._due(t0, t1)
        try:
            if carry is None and self.carries_slope:
                carry = self._slope(reading, term, t0, y)
            step = CompiledStep(self, term, t0, t1, y, args, None if carry is None else carry.contiguous())
            step.take(reading, due)
            if step.tape is not None and carry is self._sloped[0]:
                step.tape.slope = self._sloped[1]
        except Untraceable as refusal:
            self.refuse(term, y, refusal)
            return self.base.step(term, t0, t1, y, args, carry)
        term.stats.compiled = True
        return step

    def _due(self, t0: Any, t1: Any) -> list[float]:
        if not self.inner:
            return []
        return self.times[bisect_right(self.ahead, t0 * self.sign) : bisect_left(self.ahead, t1 * self.sign)]

    # --- reading and running

    def reading(self, term: Bound, t: Any, y: Tensor, args: Any) -> Reading | None:
        """The graph and what it reads now; None where steps are plain."""
        epoch, known_term, known, shape, reading = self._read
        now = places.swaps()
        if epoch == now and known_term is term.term and known is args and shape == y.shape:
            return reading
        reading = None
        if not refused(term, y):
            try:
                reading = read(term, t, y, args)
            except Untraceable as refusal:
                self.refuse(term, y, refusal)
        self._read = (now, term.term, args, y.shape, reading)
        return reading

    def refuse(self, term: Bound, y: Tensor, reason: Untraceable) -> None:
        """Plain steps from here on, with a warning; what records steps for a whole solve has to begin again."""
        code = code_of(term.term)
        _REFUSED.setdefault(code, set()).add(_situation(term, y))
        self._read = (None,) * 5
        name = getattr(code, "co_qualname", getattr(code, "__qualname__", str(code)))
        warnings.warn(
            f"`compile=True`: {name} cannot be compiled and runs as it is: {reason}. This is said once.",
            RuntimeWarning,
            stacklevel=2,
        )
        if self._recording:
            raise reason

    def _tolerance(self, term: Bound) -> list[Tensor]:
        """Relative and absolute, as tensors."""
        known, tensors = self._tolerances
        tolerance = term.tolerance
        if known is not tolerance or tensors is None:
            assert tolerance is not None
            tensors = [
                torch.as_tensor(x, dtype=None if isinstance(x, Tensor) else torch.float64, device=term.device)
                for x in (tolerance.rtol, tolerance.atol)
            ]
            self._tolerances = (tolerance, tensors)
        return tensors

    def _clock(self, term: Bound, t0: Time, t1: Time) -> Tensor:
        """Start and end of a step, and the bounds of what the field may see."""
        if isinstance(t0, Tensor) or isinstance(t1, Tensor):
            return torch.stack([torch.as_tensor(t, dtype=torch.float64) for t in (t0, t1, term.low, term.high)])
        return torch.tensor((t0, t1, term.low, term.high), dtype=torch.float64, device=term.device)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Steps keep on a `Tape` what their derivatives need, under no_grad."""
        self._recording, self._programs = True, {}
        try:
            yield
        finally:
            self._recording = False

    def _run(
        self,
        variant: tuple[Any, ...],
        reading: Reading,
        term: Bound,
        tensors: list[Tensor],
        *,
        own: int,
        pulled: dict[int, int],
    ) -> tuple[tuple[Tensor, ...], Tape | None]:
        """Call the program of this variant, compiled at its first call.

        The first ``own`` tensors are the step's: they are differentiated if anything is.
        """
        known = (variant, self._recording)
        program = self._programs.get(known) if self._recording else None
        if program is None:
            program = self._known(variant, reading, term, tensors, own, pulled)
            if self._recording:  # what is differentiated stays the same over a solve
                self._programs[known] = program
        if not isinstance(program, Pair):
            return program(*tensors), None
        if self._recording:
            outputs, saved = program.forward(tensors)
            return outputs, Tape(program, saved, own, self.capacity)
        return _Run.apply(program, *tensors), None  # pyright: ignore[reportReturnType]

    def _known(
        self, variant: Any, reading: Reading, term: Bound, tensors: list[Tensor], own: int, pulled: dict[int, int]
    ) -> Kernel | Pair:
        """The program of this variant for these tensors."""
        inputs = len(tensors) - len(reading.inputs)
        wanted: tuple[int, ...] = ()
        if self._recording or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
            moving = [i for i, x in enumerate(tensors) if i >= own and x.requires_grad]
            wanted = (*range(own), *moving)
        key = (id(self.base), variant, wanted, self.recompute, *(tuple(x.shape) for x in tensors[own:inputs]))
        programs = reading.graph.programs
        program = programs.get(key)
        if program is None:
            try:
                program = self._compile(variant, reading, term, tensors, wanted, pulled)
            except Untraceable:
                raise
            except Exception as error:
                raise Untraceable(f"Inductor fails with {type(error).__name__}: {first_line(error)}") from error
            programs[key] = program
            COUNTS["programs"] += 1
        return program

    def _compile(
        self, variant: Any, reading: Reading, term: Bound, tensors: list[Tensor], wanted: Any, pulled: dict[int, int]
    ) -> Kernel | Pair:
        field = Field(reading, term)
        function = (
            StartProgram(self.base, field, variant[1])
            if variant[0] == "start"
            else StepProgram(self.base, field, *variant[1:])
        )
        label = f"the {variant[0]} of {self.base.name} for a state {tuple(tensors[0].shape)}"
        batched: dict[int, list[int]] = {}
        if reading.graph.batched:
            own = len(tensors) - len(reading.inputs)
            batched = {i: [0] for i in range(1 + (variant[0] == "step" and variant[3]))}
            free = [i for i, x in enumerate(reading.tensors) if x is not None]
            batched |= {own + j: reading.graph.batched.get(i, []) for j, i in enumerate(free)}
        if wanted:
            options: dict[str, Any] = {"wanted": wanted, "pulled": pulled, "recompute": self.recompute}
            return Pair(function, tensors, batched, self.options, label, **options)
        return Kernel(function, tensors, batched, self.options, label, checked=pulled)


#: Kinds of fields that were refused, with the situations in which they were.
_REFUSED: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()


def refused(term: Bound, y: Tensor) -> bool:
    """Whether steps stay plain: refused before, under a transform, or of a field that is never compiled."""
    # The adjoint's augmented field stays as it is: its parts look into the graph of every evaluation.
    if isinstance(term.term, Augmented) or places.transforming() or torch.autograd.forward_ad._current_level >= 0:
        return True
    known = _REFUSED.get(code_of(term.term))
    return known is not None and _situation(term, y) in known


def _situation(term: Bound, y: Tensor) -> Any:
    f = getattr(term.term, "f", None)
    training = tuple(m.training for m in f.modules()) if isinstance(f, nn.Module) else None
    return training, y.dtype, torch.is_autocast_enabled(y.device.type)


class CompiledStep:
    """A step and what came with it; further rows of its dense output are the step made again."""

    failed = None

    def __init__(
        self, solver: Compiled, term: Bound, t0: Time, t1: Time, y0: Tensor, args: Any, retry: Tensor | None
    ) -> None:
        self.solver, self.term, self.t0, self.t1, self.y0, self.args = solver, term, t0, t1, y0, args
        self.retry, self.carry, self.error, self.ratio = retry, None, None, None

    def take(self, reading: Reading, due: Sequence[float]) -> None:
        """Make the step, with the rows that are due, or where they are many with the curve."""
        solver = self.solver
        curved = solver.dense or len(due) > solver.capacity
        asked = curved or (solver.inner and (bool(due) or solver.base.free_dense))
        weights = None if not asked else self._curve_weights() if curved else self._row_weights(due)
        self.y1, self.carry, self.error, self.ratio, rows, self.tape = self._outputs(reading, weights, solver.error)
        self.due = due
        self._rows = None if rows is None or curved else rows[: len(due)]
        self._curve = rows[: len(solver.base._polynomial)] if curved and rows is not None else None
        if self.tape is not None:
            self.tape.count = len(due)
            self.tape.powers = self._powers(due) if curved else None

    def _outputs(self, reading: Reading, weights: Tensor | None, error: str) -> tuple[Any, ...]:
        solver, term, base = self.solver, self.term, self.solver.base
        sloped, asked = self.retry is not None, weights is not None
        tensors = [self.y0, *([self.retry] if self.retry is not None else [])]
        tensors.append(solver._clock(term, self.t0, self.t1))
        if error == "ratio":
            tensors += solver._tolerance(term)
        if weights is not None:
            tensors.append(weights)
        ends = base.fsal or asked
        estimates = 0 if not error else 1 if error == "ratio" else len(base._errors)
        last = 1 + ends + estimates
        pulled = {0: 0, **({1: 0} if ends else {}), **({last: 1} if asked else {})}
        variant = ("step", error, asked, sloped)
        values, tape = solver._run(variant, reading, term, tensors + reading.inputs, own=1 + sloped, pulled=pulled)
        term.counted(base.stages - sloped + (len(base._extra) if asked else 0))
        found = values[1 + ends : last]
        ratio = found[0] if error == "ratio" else None
        estimate = None if error != "estimate" else found[0] if len(found) == 1 else found
        return values[0], values[1] if ends else None, estimate, ratio, values[last] if asked else None, tape

    # --- weights of the slopes, and of the state at the start: (capacity, stages + 1)

    def _powers(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(n, degree)``: powers of theta."""
        dt, powers = self.t1 - self.t0, self.solver.base._powers
        if isinstance(times, Tensor) or isinstance(dt, Tensor):
            theta = (torch.as_tensor(times, dtype=torch.float64) - self.t0) / dt
            return theta.unsqueeze(-1) ** torch.from_numpy(powers)
        return torch.from_numpy(self._host_powers(times))

    def _host_powers(self, times: Sequence[float]) -> np.ndarray:
        theta = (np.array(times, dtype=np.float64) - self.t0) / (self.t1 - self.t0)
        return theta[:, None] ** self.solver.base._powers

    def _row_weights(self, times: Sequence[float]) -> Tensor:
        polynomial = self.solver.polynomial
        weights = np.zeros((self.solver.capacity, polynomial.shape[1] + 1))
        if n := len(times):
            weights[:n, -1] = 1.0
            # Not by BLAS: its threads and torch's get in each other's way.
            weights[:n, :-1] = np.einsum("nd,ds->ns", self._host_powers(times), polynomial) * (self.t1 - self.t0)
        return torch.from_numpy(weights).to(self.term.device)

    def _curve_weights(self) -> Tensor:
        polynomial = self.solver.base._polynomial
        weights = torch.zeros(self.solver.capacity, polynomial.shape[1] + 1, dtype=torch.float64)
        weights[: len(polynomial), :-1] = polynomial * (self.t1 - self.t0)
        return weights.to(self.term.device)

    # --- dense output

    def rows(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(len(times), *state)``: dense output at times inside the step."""
        if self._rows is not None and not isinstance(times, Tensor) and list(times) == list(self.due):
            return self._rows
        return self.y0 + flat_product(self._powers(times), self._curved())

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(degree + 1, *state)``: dense output in powers of theta."""
        assert rows is None, "one clock for the batch"
        return torch.cat([self.y0.unsqueeze(0), self._curved()])

    def _curved(self) -> Tensor:
        """``(degree, *state)``; where it was not foreseen the step is made again for it."""
        if self._curve is None:
            reading = self.solver.reading(self.term, self.t0, self.y0, self.args)
            assert reading is not None
            rows = self._outputs(reading, self._curve_weights(), "")[4]
            self.solver.dense = True  # who asks once will ask again
            self._curve = rows[: len(self.solver.base._polynomial)]
        return self._curve


def flat_product(weights: Tensor, rows: Tensor) -> Tensor:
    """``(n, *state)`` from ``(n, m)`` and ``(m, *state)``."""
    product = weights.to(rows) @ rows.reshape(len(rows), -1)
    return product.view(len(weights), *rows.shape[1:])


class Tape:
    """What the kernels of one step saved for their derivative.

    Attributes:
        count: rows of dense output that the step gave.
        powers: ``(count, degree)``, where it gave the curve and the rows were read from that.
        slope: the tape of the slope at its start, where that was evaluated for this step.
    """

    def __init__(self, pair: Pair, saved: list[Any], own: int, capacity: int) -> None:
        self.pair, self.saved, self.own, self.capacity = pair, saved, own, capacity
        self.count = 0
        self.powers: Tensor | None = None
        self.slope: Tape | None = None

    def pull(
        self, g_end: Tensor, g_slope: Tensor | None, g_rows: Tensor | None, zero: Tensor
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Cotangents of the state and the slope at the start, and of the inputs."""
        pair, kinds = self.pair, list(self.pair.pulled.values())
        cotangents = [g_end]
        if kinds[1:2] == [0]:
            cotangents.append(zero if g_slope is None else g_slope)
        g_extra: Tensor | None = None
        if kinds[-1] == 1:
            g_curve = zero.new_zeros(self.capacity, *zero.shape)
            if g_rows is not None and self.powers is None:
                g_curve[: len(g_rows)] = g_rows
            elif g_rows is not None and self.powers is not None:
                g_curve[: self.powers.shape[1]] = flat_product(self.powers.T, g_rows)
                g_extra = g_rows.sum(0)  # rows read from a curve hold the state itself
            cotangents.append(g_curve)
        g_start, *grads = pair.backward(self.saved, cotangents)
        assert g_start is not None
        g_first = grads.pop(0) if self.own > 1 else None
        if g_extra is not None:
            g_start = g_start + g_extra
        if self.slope is not None and g_first is not None:
            g_more, _, more = self.slope.pull(g_first, None, None, zero)
            return g_start + g_more, None, summed(grads, more)
        return g_start, g_first, grads


def summed(sums: list[Any], terms: list[Any]) -> list[Any]:
    """Sums of cotangents; not in place, since a kernel may return one tensor for two inputs."""
    if not (sums and terms):
        return sums or terms
    return list(torch._foreach_add(sums, terms))  # pyright: ignore[reportPrivateImportUsage]


class _Run(torch.autograd.Function):
    """A compiled program as a differentiable operation."""

    @staticmethod
    def forward(ctx: Any, pair: Pair, *tensors: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        outputs, saved = pair.forward(tensors)
        ctx.pair, ctx.count = pair, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(x for i, x in enumerate(outputs) if i not in pair.pulled))
        ctx.others = [None if isinstance(x, Tensor) else x for x in saved]
        ctx.save_for_backward(*tensors, *(x for x in saved if isinstance(x, Tensor)))
        ctx.likes = [(outputs[i].shape, outputs[i].dtype, outputs[i].device) for i in pair.pulled]
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pair: Pair = ctx.pair
        given = [cotangents[i] for i in pair.pulled]
        tensors = ctx.saved_tensors[: ctx.count]
        if torch.is_grad_enabled():
            names = [x for x in aliases(tensors, True) if x is not None]
            found = pair.pull(pair.function(*names), names, given, create_graph=True)
        else:
            kept = iter(ctx.saved_tensors[ctx.count :])
            saved = [next(kept) if x is None else x for x in ctx.others]
            full = [
                torch.zeros(shape, dtype=dtype, device=device) if g is None else g.contiguous()
                for g, (shape, dtype, device) in zip(given, ctx.likes, strict=True)
            ]
            found = pair.backward(saved, full)
        grads: list[Tensor | None] = [None] * ctx.count
        for i, g in zip(pair.wanted, found, strict=True):
            grads[i] = g
        return None, *grads
