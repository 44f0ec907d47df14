"""A training step of neural ODEs: every gradient mode, eager and compiled, beside its peers.

All contenders of a task take the same method, tolerance, dtype, threads and output times (`reversible` alone couples
two copies of the method), and run in turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.contenders import Trial, Unavailable, everyone, explained, our_name, ready
from benchmarks.rows import Point, Row
from benchmarks.tasks import SIZES, Task, conv_task, default_task, long_task, spiral_task, trained_task
from benchmarks.timing import Race, race

EAGER, COMPILED = our_name("backprop", compiled=False), our_name("backprop", compiled=True)
STORED, STORED_COMPILED = our_name("checkpointed", compiled=False), our_name("checkpointed", compiled=True)
THEIRS, THEIR_ADJOINT, JAX = "torchdiffeq backprop", "torchdiffeq adjoint", "diffrax checkpointed"
#: What a contender counts as beside torchdiffeq's adjoint: its gradient may be no worse, and no more may be stored.
ADJOINT_BAR, STATES_BAR = 10.0, 1.1


def tasks(*, quick: bool) -> list[Task]:
    """The four sizes, two further rows at the smallest, the spiral, and a convolutional field."""
    if quick:
        return [default_task(2, 64, 32), spiral_task(), conv_task(2, 4, 8)]
    sizes = [default_task(*size) for size in SIZES]
    return [*sizes, long_task(), trained_task(300), spiral_task(), conv_task()]


def training(*, quick: bool) -> Iterator[Row | Point]:
    """All tasks."""
    for task in tasks(quick=quick):
        yield from measured(task, quick=quick)


@dataclass
class Field:
    """Who takes part in one task, and what is known of them before anything is timed."""

    task: Task
    trials: dict[str, Trial]
    points: dict[str, Point]


def measured(task: Task, *, quick: bool) -> Iterator[Row | Point]:
    """One task: a point for each contender, then their ratios."""
    field = entered(task)
    rounds, budget = (4, 0.2) if quick else (100, 4.0)
    works = {name: trial.work for name, trial in field.trials.items()}
    if EAGER in works:
        works["floor"] = task.floor(sum(field.points[EAGER].notes["evaluations"]))
    times = race(works, rounds=rounds, budget=budget, full=() if quick else (EAGER, COMPILED, THEIRS))
    for name, point in field.points.items():
        if name in field.trials:
            ms, *interval = times.milliseconds(name)
            point = replace(point, ms=ms, interval=(interval[0], interval[1]))
        yield point
    if "floor" in works:
        ms, *interval = times.milliseconds("floor")
        yield Point(task.name, "floor", ms, (interval[0], interval[1]))
    yield from ratios(field, times)


def entered(task: Task) -> Field:
    """Every contender that runs, with its evaluations, memory and the error of its gradient."""
    field, truth = Field(task, {}, {}), task.reference_gradient()
    solution = states(task)
    for contender in everyone():
        try:
            trial = ready(contender, task)
            kept, peak = trial.memory()
            trial.work()
            error = float((trial.gradient() - truth).norm() / truth.norm())
            notes = {"evaluations": trial.evaluations(), "gradient error": error, "kept": kept, "peak": peak}
            notes["states"], notes["cores"] = solution, cores(trial)
            field.trials[contender.name] = trial
        except Unavailable as error:
            field.points[contender.name] = Point(task.name, contender.name, reason=str(error))
            continue
        except Exception as error:  # noqa: BLE001  # one contender that breaks must not end the run of the others
            field.points[contender.name] = Point(task.name, contender.name, reason=f"failed: {explained(error)}")
            continue
        field.points[contender.name] = Point(task.name, contender.name, notes=notes)
    return field


def states(task: Task) -> int:
    """Bytes of the states and slopes at the accepted steps."""
    with torch.no_grad():
        accepted = task.solution("backprop").stats.accepted
    return (accepted + 1) * 2 * task.y0.nbytes


def cores(trial: Trial) -> float:
    """Processor time over time: what shows that one thread is one thread, in every library."""
    start, begun = time.perf_counter(), time.process_time()
    for _ in range(3):
        trial.work()
    return (time.process_time() - begun) / (time.perf_counter() - start)


def trajectory_errors(task: Task) -> tuple[float, float]:
    """The largest |e| / (1 + |y|) of our rows and theirs, against 1e-12."""
    reference = task.reference()

    def error(ys: Tensor) -> float:
        return float(((ys.double() - reference).abs() / (1.0 + reference.abs())).max())

    with torch.no_grad():
        return error(task.ours("backprop")), error(task.theirs("backprop"))


# --- who is faster ------------------------------------------------------------------------------------------------


def ratios(field: Field, times: Race) -> Iterator[Row]:
    """The ratios that have bars, and those of the same kind on tasks without."""
    task, bars = field.task, field.task.bars
    line = "training step, {}, against {}"
    errors = trajectory_errors(task) if THEIRS in field.trials else ()
    yield ratio(field, times, EAGER, THEIRS, bars.get("eager"), line.format("eager", "torchdiffeq"), errors)
    yield ratio(field, times, COMPILED, THEIRS, bars.get("compiled"), line.format("compiled", "torchdiffeq"))
    yield ratio(field, times, COMPILED, JAX, bars.get("diffrax"), line.format("compiled", "diffrax"))
    yield ratio(field, times, STORED_COMPILED, THEIRS, None, "")
    yield ratio(field, times, STORED_COMPILED, JAX, None, "")
    best = STORED_COMPILED if STORED_COMPILED in field.trials else STORED
    fair = ratio(field, times, best, THEIR_ADJOINT, ADJOINT_BAR if bars else None, "against torchdiffeq's adjoint")
    if fair.value is not None:
        mine, other = (field.points[name].notes["gradient error"] for name in (best, THEIR_ADJOINT))
        fair = replace(fair, holds=mine <= max(other, FLOAT32_NOISE))
    yield fair
    for name in (STORED, STORED_COMPILED):
        yield stored(field, name)


#: A relative error of a float32 gradient that is rounding.
FLOAT32_NOISE = 1e-6


def ratio(
    field: Field, times: Race, ours: str, theirs: str, bar: float | None, line: str, errors: tuple[float, ...] = ()
) -> Row:
    """How many times faster one contender is than another."""
    name = f"{field.task.name}: {ours} / {theirs}"
    for who in (ours, theirs):
        if who not in field.trials:
            reason = f"{who}: {field.points[who].reason}" if who in field.points else who
            return Row(name, None, None, "x", bar, line=line, reason=reason)
    timed = times.pair(ours, theirs)
    mine, other = field.points[ours].notes, field.points[theirs].notes
    notes: dict[str, object] = {"ms": timed.milliseconds(), "pairs": len(timed.ours)}
    notes |= {key: (mine[key], other[key]) for key in ("evaluations", "gradient error")}
    if errors:
        notes["error"] = errors
    return Row(name, timed.ratio, timed.bounds[0], "x", bar, notes=notes, line=line, interval=timed.bounds)


def stored(field: Field, name: str) -> Row:
    """What is kept between forward and backward, over the states and slopes of the accepted steps.

    The bar is for states of some size: beside one of 160 bytes the times of a step count.
    """
    title, line = f"{field.task.name}: kept by {name}", "memory, checkpointed, between forward and backward"
    bar, unit = STATES_BAR if field.task.bars else None, " of the states"
    if name not in field.trials:
        return Row(title, None, None, unit, bar, at_least=False, line=line, reason=field.points[name].reason)
    notes = field.points[name].notes
    value = (notes["kept"] or 0) / notes["states"]
    return Row(title, value, value, unit, bar, at_least=False, line=line)
