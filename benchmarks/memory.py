"""The memory of the recomputing gradients over very many steps, counted storage by storage (nothing is timed)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import pathline
from benchmarks.contenders import explained, logarithmic
from benchmarks.rows import Row
from pathline.testing import peak_memory

BATCH, DIM, STEPS = 256, 64, 100_000
MEGABYTES, EVALUATIONS = 64.0, 4.0
#: Of which the states are given this many bytes; the rest is for what is made again and for one step's tape.
BUDGET = 40e6


def memory(*, quick: bool) -> Iterator[Row]:
    """Logarithmic checkpoints over 10^5 steps of a state of 64 kB."""
    steps = 2_000 if quick else STEPS
    title, line = f"checkpointed logarithmic, {steps} steps of {BATCH} x {DIM}", "memory, logarithmic checkpoints"
    try:
        peak, times = long_solve(steps)
    except Exception as error:  # noqa: BLE001  # the reason is shown
        for unit, bar in (("MB", MEGABYTES), ("x evaluations", EVALUATIONS)):
            yield Row(title, None, None, unit, bar, at_least=False, line=line, reason=explained(error))
        return
    whole = steps * BATCH * DIM * 4 / 1e6
    yield Row(title, peak, peak, "MB", MEGABYTES, at_least=False, line=line, notes={"all states, MB": whole})
    yield Row(title, times, times, "x evaluations", EVALUATIONS, at_least=False, line=line)


def long_solve(steps: int) -> tuple[float, float]:
    """The peak in MB, and evaluations of the whole training step over those of the forward solve."""
    rate = torch.tensor(0.5, requires_grad=True)
    y0 = torch.randn(BATCH, DIM)
    counts: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.mul(y, -rate)

    def work() -> pathline.Solution:
        solution = pathline.solve(
            field, y0, (0.0, 1.0), method="euler", dt=1.0 / steps, gradient=logarithmic(memory=BUDGET), max_steps=None
        )
        solution.y1.square().mean().backward()
        stats = solution.stats
        counts.append((stats.evaluations + stats.backward_evaluations) / stats.evaluations)
        return solution

    return peak_memory(work) / 1e6, counts[-1]
