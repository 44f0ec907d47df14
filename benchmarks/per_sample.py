"""`python -m benchmarks.per_sample [--quick]`: a clock for each of many stiff systems, beside a loop over scipy.

64 Robertson problems with rates over two decades, to t = 1e11, beside scipy's Radau at the same tolerance, one problem
after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import pathline
from benchmarks.environment import environment
from benchmarks.rows import Row
from benchmarks.timing import compare
from tests.problems import ROBERTSON, robertson

STIFF_METHOD = "radau5"
RTOL, ATOL = 1e-4, 1e-10
RESULT = Path(__file__).parents[1] / "docs" / "results" / "per_sample.json"


def main() -> int:
    """Measure, print, write; the exit status is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.per_sample", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pairs, nothing written: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in reactions(quick=options.quick):
        print(row, flush=True)
        rows.append(row)
    if not options.quick:
        entries = {"environment": environment("scipy"), "rows": [row.entry() for row in rows]}
        RESULT.write_text(json.dumps(entries, indent=1) + "\n")
    return 1 if any(row.verdict == "MISS" for row in rows) else 0


def rates(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each of the three rates spread over two decades, in three orders, so that they don't grow together."""
    spread = torch.logspace(-1.0, 1.0, batch, dtype=torch.float64)
    order = torch.arange(batch)
    return 0.04 * spread, 3e7 * spread[(37 * order) % batch], 1e4 * spread[(13 * order) % batch]


def ours(
    batch: int, method: str = STIFF_METHOD, end: float = 1e11, rtol: float = RTOL, atol: float = ATOL
) -> pathline.Solution:
    """All problems at once, each with its own clock."""

    def field(t: Tensor, y: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        return robertson(t, y, k)

    y0 = ROBERTSON.start().expand(batch, 3)
    with torch.no_grad():
        return pathline.solve(
            field,
            y0,
            (0.0, end),
            args=pathline.PerSample(rates(batch)),
            clock="per-sample",
            method=method,
            rtol=rtol,
            atol=atol,
            on_failure="return",
        )


def theirs(
    batch: int, end: float = 1e11, rtol: float = RTOL, atol: float = ATOL, only: Sequence[int] | None = None
) -> tuple[np.ndarray, int]:
    """One after the other by scipy's Radau, with the field in NumPy: the end states, and the evaluations."""
    ends, evaluations = [], 0
    constants = torch.stack(rates(batch), -1).tolist()
    for slow, fast, middle in constants if only is None else [constants[i] for i in only]:

        def rate(t: float, y: np.ndarray, k: Any = (slow, fast, middle)) -> list[float]:
            a, b, c = y
            first, second, third = k[0] * a, k[1] * b * b, k[2] * b * c
            return [third - first, first - third - second, second]

        answer = solve_ivp(rate, (0.0, end), [1.0, 0.0, 0.0], method="Radau", rtol=rtol, atol=atol)
        if not answer.success:
            raise RuntimeError(answer.message)
        ends.append(answer.y[:, -1])
        evaluations += int(answer.nfev)
    return np.stack(ends), evaluations


def reactions(*, quick: bool) -> Iterator[Row]:
    """64 problems (8 in a quick run)."""
    batch = 8 if quick else 64
    solution = ours(batch)
    assert all(solution.status), solution.message
    ends, evaluations = theirs(batch)
    few = range(0, batch, batch // 8)
    exact = theirs(batch, rtol=1e-10, atol=1e-16, only=few)[0]
    errors = [
        float((np.abs(found[list(few)] - exact) / (1.0 + exact)).max() / RTOL) for found in (solution.y1.numpy(), ends)
    ]
    counts = solution.stats.rows
    start = time.perf_counter()
    theirs(1)
    one = time.perf_counter() - start
    timed = compare(lambda: ours(batch), lambda: theirs(batch), pairs=1 if quick else 5, warmup=0)
    yield Row(
        f"{batch} Robertson problems, {STIFF_METHOD}",
        timed.ratio,
        timed.bounds[0],
        "x",
        bar=10.0,
        notes={
            "ms": timed.milliseconds(),
            "evaluations of rows": (int(counts.evaluations.sum()) if counts else 0, evaluations),
            "error in tolerances": tuple(errors),
            "one of theirs, ms": 1e3 * one,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
