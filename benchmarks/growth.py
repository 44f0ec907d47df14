"""How the cost of a training step grows with the dimension, the batch, the steps and the outputs: slopes in log-log.

A slope of 1 is proportional, 0 is free: where overhead rules, more of something costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pathline
from benchmarks.contenders import explained, run_once
from benchmarks.environment import installed
from benchmarks.rows import Point, Row
from benchmarks.timing import race

METHOD = "rk4"


class Waves(nn.Module):
    """dy/dt = sin(w y): as cheap as a field with parameters can be, and one weight a dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, dim))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(self.weight * y)


@dataclass(frozen=True)
class Size:
    """One training step: equal steps on [0, 1], outputs at equal distances."""

    dim: int = 16
    batch: int = 16
    steps: int = 32
    outputs: int = 2


RANGES: dict[str, Sequence[int]] = {
    "dim": (4, 64, 1024, 16384),
    "batch": (4, 64, 1024, 16384),
    "steps": (4, 16, 64, 256, 1024),
    "outputs": (2, 16, 128, 1024),
}
WHO = ("pathline", "pathline compiled", "torchdiffeq")


class Step:
    """A training step by one library."""

    def __init__(self, who: str, size: Size) -> None:
        torch.manual_seed(0)
        self.who, self.size = who, size
        self.field, self.y0 = Waves(size.dim), torch.randn(size.batch, size.dim)
        self.t = torch.linspace(0.0, 1.0, size.outputs)
        self.stats: Any = None

    def ours(self) -> Tensor:
        options: dict[str, Any] = {"compile": True} if self.who == "pathline compiled" else {}
        solution = pathline.solve(self.field, self.y0, self.t, method=METHOD, dt=1.0 / self.size.steps, **options)
        self.stats = solution.stats
        return solution.ys

    def theirs(self) -> Tensor:
        import torchdiffeq  # a peer may be missing

        options = {"step_size": 1.0 / self.size.steps}
        return torchdiffeq.odeint(self.field, self.y0, self.t, method=METHOD, options=options)  # pyright: ignore[reportReturnType]

    def work(self) -> None:
        self.field.zero_grad(set_to_none=True)
        ys = self.theirs() if self.who == "torchdiffeq" else self.ours()
        ys.square().mean().backward()


def growth(*, quick: bool) -> Iterator[Row | Point]:
    """Each of the four alone, the others at their defaults."""
    who = [name for name in WHO if name != "torchdiffeq" or installed("torchdiffeq") is not None]
    for axis, values in RANGES.items():
        curves: dict[str, list[tuple[int, float]]] = {name: [] for name in who}
        for value in values[:3] if quick else values:
            for point in measured(axis, value, who, quick=quick):
                if point.ms is not None:
                    curves[point.who].append((value, point.ms))
                yield point
        for name, curve in curves.items():
            if len(curve) > 1:
                yield slope_row(axis, name, curve)


def measured(axis: str, value: int, who: Sequence[str], *, quick: bool) -> Iterator[Point]:
    """All libraries at one size."""
    size, works, reasons = Size(**{axis: value}), {}, {}
    for name in who:
        try:
            step = Step(name, size)
            run_once(name, step.work, lambda step=step: step.stats)
            works[name] = step.work
        except Exception as error:  # noqa: BLE001  # one that breaks must not end the run of the others
            reasons[name] = explained(error)
    times = race(works, rounds=2 if quick else 16, budget=0.05 if quick else 0.8, least=2 if quick else 4)
    for name in who:
        notes = {"axis": axis, "value": value}
        if name in reasons:
            yield Point(f"{axis} {value}", name, reason=reasons[name], notes=notes)
        else:
            ms, *interval = times.milliseconds(name)
            yield Point(f"{axis} {value}", name, ms, (interval[0], interval[1]), notes)


def slope_row(axis: str, name: str, curve: Sequence[tuple[int, float]]) -> Row:
    """The slope over all, and that of the last doubling of sizes, where arithmetic rules."""
    whole, last = slope(curve), slope(curve[-2:])
    return Row(f"{name}: slope with {axis}", whole, whole, "", notes={"at the end": last, "points": len(curve)})


def slope(curve: Sequence[tuple[int, float]]) -> float:
    """Of log(time) against log(size)."""
    sizes, times = zip(*curve, strict=True)
    return float(np.polyfit([math.log(s) for s in sizes], [math.log(t) for t in times], 1)[0])
