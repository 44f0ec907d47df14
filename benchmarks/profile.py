"""`python -m benchmarks.profile`: where the microseconds of the smallest training step go, eager and compiled.

The step is cut at its seams: what is measured is the time between them, with everything else as in a plain run.
*field* is the time inside the field's evaluations; *steps* that inside the solver's steps without them (stages, error
estimate); *graphs* that inside compiled kernels, which hold both; *guards* the look whether graphs are still valid;
*loop* what is left of the loop (controller, error test); *outputs* the rows at the requested times; *front door* what
`solve` does before and after the loop; *loss* the mean square; *autograd* the backward pass without compiled kernels,
*graphs, backward* those. The floor is a chain of as many evaluations of the field and its backward pass, in eager
mode, with no solver at all.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.contenders import explained, run_once
from benchmarks.environment import environment
from benchmarks.tasks import Task, count, default_task
from pathline import saving
from pathline.compiled import gradient, kernels, solver
from pathline.gradients import backprop
from pathline.solvers import runge_kutta
from pathline.terms import Bound

RESULT = Path(__file__).parents[1] / "docs" / "results" / "profile.json"
#: The parts of a training step, in the order of the table.
PARTS = ("front door", "loop", "guards", "steps", "field", "graphs", "outputs", "loss", "autograd", "graphs, backward")


class Clockwork:
    """Exclusive times of nested parts: while an inner part runs, the outer one stands still."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.stack: list[str] = []
        self.since = 0.0

    def enter(self, part: str) -> None:
        """The clock of a part starts, that of the one around it stops."""
        self._charge()
        self.stack.append(part)

    def leave(self) -> None:
        """And back."""
        self._charge()
        self.stack.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self.stack:
            part = self.stack[-1]
            self.spent[part] = self.spent.get(part, 0.0) + now - self.since
        self.since = time.perf_counter()

    def watched(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose time counts for a part."""

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            self.enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return inner


#: Where the seams are: object, attribute, part.
SEAMS: tuple[tuple[Any, str, str], ...] = (
    (backprop, "run", "loop"),
    (runge_kutta.RungeKutta, "step", "steps"),
    (Bound, "_call", "field"),
    (saving.Keeper, "outputs", "outputs"),
    (backprop, "gather", "outputs"),
    (gradient, "integrate", "loop"),
    (gradient, "gather", "outputs"),
    (solver, "read", "guards"),
    (solver.Compiled, "step", "steps"),
    (solver.Compiled, "init", "steps"),
    (kernels.Kernel, "__call__", "graphs"),
    (kernels.Pair, "forward", "graphs"),
    (kernels.Pair, "backward", "graphs, backward"),
)


@contextlib.contextmanager
def seams(clockwork: Clockwork) -> Iterator[None]:
    """Every seam watched, and left as it was."""
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in SEAMS]
    for owner, name, part in SEAMS:
        setattr(owner, name, clockwork.watched(part, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def parts(task: Task, options: dict[str, Any]) -> dict[str, float]:
    """Seconds of each part of one training step."""
    clockwork = Clockwork()
    with seams(clockwork):
        clockwork.enter("front door")
        task.field.zero_grad(set_to_none=True)
        ys = task.solution("backprop", **options).ys
        clockwork.leave()
        clockwork.enter("loss")
        loss = ys.square().mean()
        clockwork.leave()
        clockwork.enter("autograd")
        loss.backward()
        clockwork.leave()
    return clockwork.spent


def whole(task: Task, options: dict[str, Any]) -> float:
    """Seconds of one training step that nobody watches."""
    start = time.perf_counter()
    task.field.zero_grad(set_to_none=True)
    task.solution("backprop", **options).ys.square().mean().backward()
    return time.perf_counter() - start


def profiled(task: Task, *, compiled: bool, repeats: int) -> dict[str, Any]:
    """Medians in microseconds: each part, the sum of them, the step unwatched, and the floor."""
    options: dict[str, Any] = {"compile": True} if compiled else {}
    kind = "compiled" if compiled else "eager"
    run_once(kind, lambda: whole(task, options), lambda: task.solution("backprop", **options).stats)
    for _ in range(3):
        whole(task, options)
    evaluations = count(task.field, lambda: whole(task, {}))
    floor = task.floor(evaluations)
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for part, taken in parts(task, options).items():
            found.setdefault(part, []).append(taken)
        found.setdefault("together", []).append(whole(task, options))
        start = time.perf_counter()
        floor()
        found.setdefault("floor", []).append(time.perf_counter() - start)
    return {"evaluations": evaluations} | {name: 1e6 * float(np.median(taken)) for name, taken in found.items()}


def table(found: dict[str, Any]) -> str:
    """One profile, as text."""
    lines = [
        f"  {part:12s} {found[part]:9.0f} us  {found[part] / found['together']:6.1%}" for part in PARTS if part in found
    ]
    lines.append(f"  {'together':12s} {found['together']:9.0f} us, unwatched")
    lines.append(f"  {'floor':12s} {found['floor']:9.0f} us: {found['together'] / found['floor']:.2f} times that")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, nothing written: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load before the run: {os.getloadavg()[0]:.2f}")
    task, results = default_task(2, 64, 32), {}
    for compiled in (False, True):
        kind = "compiled" if compiled else "eager"
        try:
            results[kind] = profiled(task, compiled=compiled, repeats=5 if options.quick else 200)
        except Exception as error:  # noqa: BLE001  # what can't be compiled here says why
            print(f"{kind}: not available: {explained(error)}")
            continue
        print(f"{kind}, {task.name}:\n{table(results[kind])}")
    if not options.quick:
        record = {"environment": environment(), "task": task.name, "profiles": results}
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
