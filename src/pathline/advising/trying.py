"""`advise`: methods and gradients, tried on a user's own field within a time."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._random import restored, snapshot
from pathline._structure import Structure
from pathline.advising.advice import Advice, Facts, Trial
from pathline.advising.choosing import choose
from pathline.advising.facts import facts_of
from pathline.advising.tasks import (
    OBJECTS,
    STEPS,
    OutOfTime,
    Task,
    Watched,
    distance,
    mean_square,
    slope,
    solver_of,
)
from pathline.gradients import GRADIENTS
from pathline.solvers import METHODS
from pathline.solving import TOLERANCES, solve
from pathline.terms import Term
from pathline.testing.memory import TensorMemory

#: Methods that are tried first, with plain backpropagation.
EXPLICIT, STIFF = ("tsit5", "dopri5", "dopri8", "bosh3"), ("rodas5p", "kvaerno5", "bdf")
#: Systems of more unknowns are not given to methods that need their Jacobian.
LARGE = 256
#: Parts of the time for the reference, and for looking at the field.
REFERENCE, LOOKING = 0.3, 0.15
#: Work that takes longer, in seconds, is reported as it goes on.
QUIET = 3.0
#: A trial may take so many times the quickest one so far.
PATIENT = 4.0
#: Repetitions of a quick trial.
REPEATS = 3


def advise(
    f: Callable[..., Any] | Term,
    y0: Any,
    t: Tensor | Sequence[float],
    args: Any = None,
    *,
    loss: Callable[[Any], Tensor] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    methods: Sequence[str] | None = None,
    gradients: Sequence[str] | None = None,
    memory: int | None = None,
    budget: float = 30.0,
    progress: Callable[[str], None] | None = None,
) -> Advice:
    """Try methods and gradients on a field, and say which serve it best.

    Every pair takes one training step: a solve and the gradient of a loss by the start and by all parameters. States
    and gradients are compared with those of a much tighter solve, in double precision where the field is a module that
    can be converted. The field is also looked at along its solution: how steep and how stiff it is, whether it has
    kinks, whether a solve finds its way back. No gradient is accumulated anywhere, and torch's random generator stands
    afterwards where it stood before. *Experimental.*

    Args:
        f: the field, as `solve` takes it.
        y0: the start; a few samples of the batch are enough.
        t: the times of the training step.
        args: handed to the field.
        loss: a function of ``solution.ys``; by default the mean of all squares.
        rtol: tolerances to compare at; by default those of `solve`.
        atol: alike.
        methods: names to try; by default some explicit and some stiff ones, and reversible ones.
        gradients: names to try; by default all, where a method offers them.
        memory: bytes that a training step may take; pairs that need more are not recommended.
        budget: seconds; work beyond is left out, and the table says so.
        progress: called with a line before each trial; by default, when work lasts, they are written to the standard
            error.

    Returns:
        An `Advice`: a table of `Trial`, ``.recommended``, ``.why``, ``.line``; ``print`` shows it all.

    Raises:
        TypeError, ValueError: an argument is wrong, as for `solve`; the budget is not positive, or a name unknown.

    Example:
        >>> import torch, pathline
        >>> advice = pathline.advise(lambda t, y: -y, torch.ones(4, 2), (0.0, 1.0), methods=["tsit5"])
        >>> advice.recommended.method, advice.facts.stiff, advice.facts.smooth
        ('tsit5', False, True)

    References:
        Hairer, Wanner (1996), Solving Ordinary Differential Equations II, IV.2 (stiffness); Gholami, Keutzer, Biros
        (2019), ANODE (solving back as a check).
    """
    if not budget > 0:
        raise ValueError(f"`budget` is a positive number of seconds; it is {budget!r}.")
    for name, given, registry in (("methods", methods, METHODS), ("gradients", gradients, GRADIENTS)):
        unknown = [x for x in given or () if x not in registry]
        if unknown:
            raise ValueError(f"`{name}` holds {unknown[0]!r}; there are {', '.join(registry)}.")
    if not any(isinstance(x, Tensor) and x.numel() for x in pytree.tree_leaves(y0)):
        raise ValueError("`y0` holds no numbers to try a field on. Pass a typical state.")
    bench = _Bench(f, y0, t, args, loss, rtol, atol, budget, progress)
    device = bench.task.t.device
    with restored(snapshot(device), device):
        return bench.go(methods, gradients, memory)


class _Bench:
    """One call of `advise`: the field, the clock, and what is known so far."""

    def __init__(
        self,
        f: Any,
        y0: Any,
        t: Any,
        args: Any,
        loss: Any,
        rtol: Any,
        atol: Any,
        budget: float,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.begun, self.budget, self.progress = time.perf_counter(), budget, progress
        structure = Structure(y0)
        start = pytree.tree_map(lambda x: x.detach().clone().requires_grad_(), y0)
        first = pytree.tree_leaves(start)[0]
        real = first.real if first.is_complex() else first
        times = t.detach() if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64).to(real)
        if times.dim() != 1 or len(times) < 2 or times[0] == times[-1]:
            raise ValueError(f"`t` is a 1-d tensor of times from a first to another last one; it is {t!r}.")
        usual = TOLERANCES[real.dtype]
        self.asked = {name: float(x) for name, x in (("rtol", rtol), ("atol", atol)) if x is not None}
        rtol, atol = (b if a is None else float(a) for a, b in zip((rtol, atol), usual, strict=True))
        self.task = Task(f, start, times, args, loss or mean_square, rtol, atol)
        self.unknowns = first[0].numel() if structure.plain and first.dim() > 1 else sum(structure.widths)
        self.rows: Any = None
        self.gradient: Any = None
        self.reference = ""
        #: The size below which a gradient counts as none: a loss of this slope, at the tolerance.
        self.least = 0.0
        self.quickest = math.inf
        self.facts = Facts()
        name = getattr(f, "__name__", type(f).__name__)
        self.shown = f"{name} from t = {float(times[0]):g} to {float(times[-1]):g}, state {structure}, {real.dtype}"
        self.shown += f", rtol={rtol:g}, atol={atol:g}."

    # --- the whole

    def go(self, methods: Sequence[str] | None, gradients: Sequence[str] | None, memory: int | None) -> Advice:
        """Look, make a reference, try, choose."""
        self._probe()
        self._say("looking at the field")
        self.facts = facts_of(self.task, LOOKING * self.budget)
        self._reference()
        trials: list[Trial] = []
        for method, gradient in self._first(methods, gradients):
            trials.append(self._try(method, gradient))
        for method, gradient in self._second(methods, gradients, trials):
            trials.append(self._try(method, gradient))
        recommended, why = choose(trials, self.facts, self.task.rtol, memory)
        line = "" if recommended is None else self._line(recommended)
        about = f"{self.shown} Reference: {self.reference or 'none could be made'}."
        return Advice(about, self.facts, tuple(trials), recommended, why, line)

    def _line(self, trial: Trial) -> str:
        method, gradient = (x if x in OBJECTS else f'"{x}"' for x in (trial.method, trial.gradient))
        more = "" if self.task.args is None else ", args=args"
        if trial.method in METHODS and not METHODS[trial.method].adaptive:
            more += f", dt={self.task.span / STEPS:g}"
        else:
            more += "".join(f", {name}={value:g}" for name, value in self.asked.items())
        return f"pathline.solve(f, y0, t, method={method}{more}, gradient={gradient})"

    def left(self) -> float:
        """Seconds."""
        return self.budget - (time.perf_counter() - self.begun)

    def _say(self, text: str) -> None:
        if self.progress is not None:
            self.progress(text)
        elif time.perf_counter() - self.begun > QUIET:
            sys.stderr.write(f"pathline.advise: {text}\n")

    # --- the field

    def _probe(self) -> None:
        """One step: what is wrong with the arguments is said here, and not in every row."""
        task = self.task
        small = Task(
            torch.neg, torch.ones(1, requires_grad=True), torch.tensor([0.0, 1.0]), None, mean_square, 1.0, 1.0
        )
        with TensorMemory():  # what torch loads at its first use is not for the first row to pay
            small.step("euler", "backprop", math.inf)
        with torch.no_grad():
            solve(task.f, task.y0, task.t, args=task.args, method="euler", dt=self.task.span, on_failure="return")

    # --- the reference

    def _reference(self) -> None:
        """Rows and gradient of a tight solve; looser, or by another method, where time is short."""
        end = time.perf_counter() + min(REFERENCE * self.budget, self.left())
        try:
            precise = self.task.precisely()
        except Exception:  # noqa: BLE001  (a field that cannot be copied or converted)
            precise = None
        order = ["dopri8", "rodas5p"]
        if self.facts.stiff and self.unknowns <= LARGE:
            order.reverse()
        plans = [
            (task, m, tight)
            for task in (precise, self.task)
            if task is not None
            for tight in (1e-3, 1e-1)
            for m in order
        ]
        for task, method, tight in plans:
            left = end - time.perf_counter()
            if left <= 0:
                return
            if method == "rodas5p" and self.unknowns > LARGE:
                continue
            floor = (1e-10, 1e-12) if task.exact else (2e-6, 1e-8)
            rtol, atol = (max(tight * x, least) for x, least in zip((task.rtol, task.atol), floor, strict=True))
            self._say(f"the reference: {method} with rtol={rtol:g}")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    rows, gradient, solution = task.step(method, "checkpointed", left / 2, rtol, atol)
            except Exception:  # noqa: BLE001  (the next plan may do)
                continue
            self.rows, self.gradient = rows, gradient
            self.least = self.task.rtol * slope(task.loss, solution.ys)
            self.reference = f"{method} in {'double' if task.exact else 'single'} precision, rtol={rtol:.0e}"
            return

    # --- trials

    def _first(self, methods: Sequence[str] | None, gradients: Sequence[str] | None) -> list[tuple[str, str]]:
        """All methods with one gradient."""
        names = methods or ((*STIFF, *EXPLICIT) if self.facts.stiff else (*EXPLICIT, *STIFF))
        return [(name, (gradients or ["backprop"])[0]) for name in names]

    def _second(
        self, methods: Sequence[str] | None, gradients: Sequence[str] | None, trials: list[Trial]
    ) -> list[tuple[str, str]]:
        """The other gradients, for the methods that have done best; all, where methods were asked for."""
        good = sorted((x for x in trials if x.ok), key=lambda x: x.seconds or math.inf)
        known = [x for x in good if x.error is None or x.error <= 100 * self.task.rtol] or good
        best = [x.method for x in known[:2]] if methods is None else list(methods)
        others = [g for g in gradients or GRADIENTS if g != (gradients or ["backprop"])[0]]
        pairs = [(m, g) for m in best for g in others if g != "reversible" or getattr(METHODS[m], "reversible", False)]
        if gradients is None:
            pairs += [(m, 'pathline.Adjoint(state="dense")') for m in best]
        if methods is None and "reversible" in others:
            pairs += [("reversible_heun", "reversible"), ('pathline.Reversible("tsit5")', "reversible")]
        return pairs

    def _try(self, method: str, gradient: str) -> Trial:
        """One row; whatever goes wrong is written in it."""
        blank = Trial(method, gradient)
        if self.left() <= 0:
            return replace(blank, note="not tried: the budget was spent")
        solver = solver_of(method)
        if solver.needs != "rate":
            return replace(blank, note="not tried: it takes the field in parts")
        if getattr(solver, "implicit", False) and self.unknowns > LARGE:
            return replace(blank, note=f"not tried: Jacobians of {self.unknowns} unknowns")
        self._say(f"{method} with {gradient}")
        share = min(max(self.left() / 4, 0.1), max(PATIENT * self.quickest, 0.5))
        begun = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as said, Watched(share) as memory:
                warnings.simplefilter("always")
                rows, found, first = self.task.step(method, gradient, share)
            self.quickest = min(self.quickest, time.perf_counter() - begun)
            seconds = self._timed(method, gradient, share)
        except OutOfTime:
            return replace(blank, note=f"given up: it takes more than {share:.2g} s where memory is counted")
        except Exception as error:  # noqa: BLE001  (one row is no reason to lose the others)
            return replace(blank, note=_reason(error))
        stats = first.stats
        return replace(
            blank,
            error=None if self.rows is None else distance(rows, self.rows, math.inf),
            gradient_error=None if self.gradient is None else distance(found, self.gradient, 2, self.least),
            seconds=seconds,
            steps=stats.accepted,
            evaluations=stats.evaluations,
            backward_evaluations=stats.backward_evaluations,
            bytes=memory.peak,
            note="; ".join(["fixed steps"] * (not solver.adaptive) + [_reason(x.message) for x in said[:1]]),
        )

    def _now(self) -> float:
        """The time when the device has done what it was told."""
        if self.task.t.is_cuda:
            torch.cuda.synchronize(self.task.t.device)
        return time.perf_counter()

    def _timed(self, method: str, gradient: str, share: float) -> float:
        """The shortest of a few repetitions, of which a long trial gets one."""
        times: list[float] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while not times or (len(times) < REPEATS and sum(times) < 0.1):
                begun = self._now()
                self.task.step(method, gradient, 2 * share)
                times.append(self._now() - begun)
        return min(times)


def _reason(error: Any) -> str:
    """The first sentence of a message."""
    text = " ".join(str(error).split())
    sentence = text.partition(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {sentence[:150]}"
