"""The stand-in for torchdiffeq: against `solve` in the same mode (its price), and against torchdiffeq (its gain)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import pathline
from benchmarks.rows import Row
from benchmarks.tasks import ATOL, RTOL, Task, count, default_task
from benchmarks.timing import compare
from pathline.compat import torchdiffeq as ours

#: The stand-in may cost five hundredths more than `solve`.
BAR = 0.95
TOLERANCES = {"rtol": RTOL, "atol": ATOL}
SEMINORM = {"adjoint_options": {"norm": "seminorm"}}


def rows_of(library, task: Task, mode: str) -> Callable[[], Tensor]:
    """A trajectory by a library with torchdiffeq's functions."""
    if mode == "backprop":
        return lambda: library.odeint(task.field, task.y0, task.t, **TOLERANCES)
    more = SEMINORM if mode == "seminorm" else {}
    return lambda: library.odeint_adjoint(task.field, task.y0, task.t, **TOLERANCES, **more)


def solved(task: Task, mode: str) -> Callable[[], Tensor]:
    """The same by `solve`: the default adjoint is that under the seminorm."""
    gradient = {
        "backprop": "backprop",
        "seminorm": "adjoint",
        "adjoint": pathline.Adjoint(control_parameters=True),
    }[mode]
    return lambda: pathline.solve(task.field, task.y0, task.t, method="dopri5", gradient=gradient, **TOLERANCES).ys


def step(task: Task, rows: Callable[[], Tensor]) -> Callable[[], None]:
    """Mean square of the whole trajectory, and the gradient of all parameters."""

    def work() -> None:
        task.field.zero_grad(set_to_none=True)
        rows().square().mean().backward()

    return work


def compat(*, quick: bool) -> Iterator[Row]:
    """A training step in each mode, and the cost of a call."""
    import torchdiffeq  # a peer may be missing

    pairs = 6 if quick else 60
    task = default_task(2, 64, 32)
    for mode in ("backprop", "seminorm", "adjoint"):
        work, price, gain = (
            step(task, rows)
            for rows in (rows_of(ours, task, mode), solved(task, mode), rows_of(torchdiffeq, task, mode))
        )
        n = pairs if mode == "backprop" else max(3, pairs // 3)
        for name, other, bar in (("solve", price, BAR), ("torchdiffeq", gain, None)):
            timed = compare(work, other, pairs=n)
            notes = {"ms": timed.milliseconds(), "evaluations": (count(task.field, work), count(task.field, other))}
            yield Row(f"stand-in, {mode}, against {name}", timed.ratio, timed.bounds[0], "x", bar, notes=notes)
    y0, t, field = torch.ones(4), torch.tensor([0.0, 0.1]), lambda t, y: -y
    calls = {
        "solve": lambda: pathline.solve(field, y0, t, method="euler"),
        "torchdiffeq": lambda: torchdiffeq.odeint(field, y0, t, method="euler"),
    }
    for name, other in calls.items():
        timed = compare(lambda: ours.odeint(field, y0, t, method="euler"), other, pairs=20 * pairs)
        bar = BAR if name == "solve" else None
        yield Row(
            f"stand-in, one Euler step, against {name}",
            timed.ratio,
            timed.bounds[0],
            "x",
            bar,
            notes={"ms": timed.milliseconds()},
        )
