"""An explicit method whose steps are compiled: one graph a step, and one for its vector-Jacobian product.

The step is a differentiable operation like any other, so gradients, events and dense output work on it as they do on
plain steps. It holds what the loop would compute beside it: the error ratio and the rows of dense output.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pathline.compiled.capture import Reading, Untraceable, code_of, read
from pathline.compiled.kernels import Kernel, Pair, built
from pathline.compiled.programs import Field, StartProgram, StepProgram
from pathline.compiled.step import CompiledStep
from pathline.compiled.tapes import Operation, Tape
from pathline.gradients import inputs as places
from pathline.gradients.augmented import Augmented
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
            ends = (t0, t1, term.low, term.high)
            return torch.stack([torch.as_tensor(t, dtype=torch.float64, device=term.device) for t in ends])
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
        return Operation.apply(program, *tensors), None  # pyright: ignore[reportReturnType]

    def _known(
        self, variant: Any, reading: Reading, term: Bound, tensors: list[Tensor], own: int, pulled: dict[int, int]
    ) -> Kernel | Pair:
        """The program of this variant for these tensors."""
        inputs = len(tensors) - len(reading.inputs)
        wanted: tuple[int, ...] = ()
        if self._recording or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
            moving = [i for i, x in enumerate(tensors) if i >= own and x.requires_grad]
            wanted = (*range(own), *moving)
        key = (self.base, variant, wanted, self.recompute, *(tuple(x.shape) for x in tensors[own:inputs]))
        make = functools.partial(self._compile, variant, reading, term, tensors, wanted, pulled)
        return built(reading.graph.programs, key, make)

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
