"""How long the first compiled training step takes: with an empty cache, and in a new process with a full one."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import pathline
from benchmarks.contenders import Unavailable, diffrax, explained, ours, ready, run_once
from benchmarks.environment import installed
from benchmarks.rows import Row
from benchmarks.tasks import ATOL, RTOL, MLPField, Task, default_task
from benchmarks.timing import compare

#: Seconds for the first step with an empty cache; with a full one it is `CACHED` for all.
COLD = {"dopri5": 20.0, "tsit5": 20.0, "dopri8": 30.0, "density": 30.0}
CACHED = 2.0
#: An adaptive solve inside somebody's torch.compile may cost 1.15 times what it costs outside.
INSIDE_BAR = 1 / 1.15


class Density(nn.Module):
    """The rates of a point and of its log density: f and minus its divergence, one derivative a dimension."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.flow = MLPField(dim, width)
        self.register_buffer("directions", torch.eye(dim))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x = y[:, :-1]
        trace = torch.zeros_like(x[:, 0])
        for i, direction in enumerate(self.directions):  # pyright: ignore[reportArgumentType]
            rate, slope = torch.func.jvp(lambda x: self.flow(t, x), (x,), (direction.expand_as(x),))
            trace = trace + slope[:, i]
        return torch.cat([rate, -trace.unsqueeze(1)], 1)


def case(name: str) -> tuple[Task, str]:
    """A task and a method."""
    task = default_task(2, 64, 32)
    if name != "density":
        return task, name
    torch.manual_seed(0)
    return Task(Density(2, 64), torch.cat([task.y0, torch.zeros(32, 1)], 1), task.t, name), "dopri5"


def first_step(name: str) -> dict[str, object]:
    """Seconds of the first compiled training step of this process, what else it says, and those of a later one."""
    if name == "diffrax":
        task, contender = default_task(2, 64, 32), diffrax("checkpointed")
        start = time.perf_counter()
        contender.make(task).work()
        return {"seconds": time.perf_counter() - start}
    task, method = case(name)

    stats: list[pathline.Stats] = []

    def step(**options: object) -> float:
        start = time.perf_counter()
        task.field.zero_grad(set_to_none=True)
        solution = task.solution("backprop", method=method, **options)
        solution.ys.square().mean().backward()
        taken = time.perf_counter() - start
        stats.append(solution.stats)
        return taken

    eager = [step() for _ in range(3)][-1]
    start = time.perf_counter()
    importlib.import_module("torch._inductor.compile_fx")
    importing = time.perf_counter() - start
    found: list[float] = []
    run_once("compiled", lambda: found.append(step(compile=True)), lambda: stats[-1])
    taken = importing + found[0]
    later = min(step(compile=True) for _ in range(3))
    return {"seconds": taken, "of which importing PyTorch's compiler": importing, "later": later, "eager": eager}


def child(name: str, cache: str) -> dict[str, object]:
    """`first_step` in a process of its own."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
    command = [sys.executable, "-m", "benchmarks.compiling", "--one", name]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise Unavailable(result.stderr.strip().splitlines()[-1][:160])
    return json.loads(result.stdout.splitlines()[-1])


def compiling(*, quick: bool) -> Iterator[Row]:
    """Each case twice: cold, and from the cache the first one left."""
    refusal = unavailable()
    for name, bar in COLD.items() if not quick else (("dopri5", COLD["dopri5"]),):
        yield from case_rows(name, bar, refusal)
    yield inside_row(quick=quick)
    if installed("diffrax") is not None:
        taken = float(child("diffrax", "")["seconds"])  # pyright: ignore[reportArgumentType]
        yield Row("compile, diffrax dopri5", taken, taken, "s")


class Layered(nn.Module):
    """An adaptive solve between two layers."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.field = task, task.field
        self.before, self.after = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        ys = pathline.solve(self.field, self.before(x), self.task.t, method="dopri5", rtol=RTOL, atol=ATOL).ys
        return self.after(ys).square().mean()


def inside_row(*, quick: bool) -> Row:
    """A training step of a model under the user's own torch.compile, against the same model in eager mode."""
    task = default_task(2, 64, 32)
    model = Layered(task)
    compiled = torch.compile(model)

    def step(forward: nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        forward(task.y0).backward()

    title, line = "model under torch.compile, against eager", "inside the user's own torch.compile"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timed = compare(lambda: step(compiled), lambda: step(model), pairs=4 if quick else 60)  # pyright: ignore[reportArgumentType]
    notes: dict[str, object] = {"ms": timed.milliseconds()}
    return Row(title, timed.ratio, timed.bounds[0], "x", INSIDE_BAR, notes=notes, line=line, interval=timed.bounds)


def unavailable() -> str:
    """Why nothing can be compiled, or an empty string: asked here, before processes are started."""
    try:
        ready(ours("backprop", compiled=True), default_task(2, 4, 2))
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the reason
        return explained(error)
    return ""


def case_rows(name: str, bar: float, refusal: str) -> Iterator[Row]:
    """One case."""
    with tempfile.TemporaryDirectory() as cache:
        for state, limit in (("cold", bar), ("cached", CACHED)):
            title, line = f"compile, {name}, {state}", f"compile of a training step, {state}"
            try:
                if refusal:
                    raise Unavailable(refusal)
                found = child(name, cache)
            except Unavailable as error:
                yield Row(title, None, None, "s", limit, at_least=False, line=line, reason=str(error))
                continue
            taken = float(found.pop("seconds"))  # pyright: ignore[reportArgumentType]
            yield Row(title, taken, taken, "s", limit, at_least=False, line=line, notes=found)


def main() -> None:
    """The child's side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", required=True)
    torch.set_num_threads(1)
    print(json.dumps(first_step(parser.parse_args().one)))


if __name__ == "__main__":
    main()
