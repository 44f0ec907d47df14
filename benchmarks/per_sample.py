"""`python -m benchmarks.per_sample [--quick]`: a clock for each sample, beside torchode and a loop over scipy.

Van der Pol's equation, 256 starts, dopri5 at 1e-5, 200 output times, float32, without gradient: interleaved with
torchode's `AutoDiffAdjoint` under the same method, controller, tolerance and output times. Then 64 Robertson problems
with rates over two decades, to t = 1e11, beside a loop over scipy's Radau at the same tolerance. torchode is installed
with `python -m pip install --no-deps -r constraints/peers.txt`; without it its rows are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import pathline
from benchmarks.environment import environment, installed
from benchmarks.rows import Row
from benchmarks.timing import compare
from tests.problems import ROBERTSON, robertson

TOL = 1e-5
BATCH, TIMES = 256, 200
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
    for row in (*oscillators(quick=options.quick), *reactions(quick=options.quick)):
        print(row, flush=True)
        rows.append(row)
    if not options.quick:
        entries = {"environment": environment("torchode", "scipy"), "rows": [row.entry() for row in rows]}
        RESULT.write_text(json.dumps(entries, indent=1) + "\n")
    return 1 if any(row.verdict == "MISS" for row in rows) else 0


# --- van der Pol, beside torchode


class Oscillators:
    """The field, counting its evaluations."""

    def __init__(self, mu: float) -> None:
        self.mu, self.calls, self.rows = mu, 0, 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(y)
        u, v = y.unbind(-1)
        return torch.stack((v, self.mu * (1.0 - u * u) * v - u), -1)

    def counts(self, work: Callable[[], object]) -> tuple[int, int]:
        """Calls, and rows evaluated, of one piece of work."""
        self.calls = self.rows = 0
        work()
        return self.calls, self.rows


def oscillators(*, quick: bool) -> Iterator[Row]:
    """The two settings on record: mu = 2 to t = 20, and mu = 25 to t = 40."""
    if installed("torchode") is None:
        print("torchode isn't installed; its rows are left out")
        return
    for mu, end, pairs in ((2.0, 20.0, 30), (25.0, 40.0, 9)):
        yield oscillator_row(mu, end, pairs=2 if quick else pairs)


def oscillator_row(mu: float, end: float, *, pairs: int) -> Row:
    """One setting, interleaved."""
    field = Oscillators(mu)
    torch.manual_seed(0)
    y0 = torch.randn(BATCH, 2)
    t = torch.linspace(0.0, end, TIMES)

    @torch.no_grad()
    def ours() -> Tensor:
        return pathline.solve(
            field, y0, t, method="dopri5", rtol=TOL, atol=TOL, clock="per-sample", controller=pathline.PID()
        ).ys

    theirs = torchode_solve(field, y0, t)
    counts, their_counts = field.counts(ours), field.counts(theirs)
    truth = reference(mu, y0, t)
    errors = [float((ys.double() - truth).abs().max()) for ys in (ours(), theirs().transpose(0, 1))]
    timed = compare(ours, theirs, pairs=pairs, warmup=1)
    return Row(
        f"van der Pol, mu={mu:g}, to t={end:g}",
        timed.ratio,
        timed.bounds[0],
        "x",
        bar=2.0,
        notes={
            "ms": timed.milliseconds(),
            "calls": (counts[0], their_counts[0]),
            "rows evaluated": (counts[1], their_counts[1]),
            "error": tuple(errors),
        },
    )


def torchode_solve(field: Oscillators, y0: Tensor, t: Tensor) -> Callable[[], Tensor]:
    """Torchode's solve with the same method, integral controller and tolerance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies, under this torch
        import torchode  # a peer may be missing

        term = torchode.ODETerm(field)
        controller = torchode.IntegralController(atol=TOL, rtol=TOL, term=term)
        solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
        problem = torchode.InitialValueProblem(y0=y0, t_eval=t.repeat(len(y0), 1))

    @torch.no_grad()
    def work() -> Tensor:
        return solver.solve(problem).ys

    return work


def reference(mu: float, y0: Tensor, t: Tensor) -> Tensor:
    """The trajectories at 1e-11 in float64, ``(times, batch, 2)``, by scipy."""

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        u, v = y.reshape(-1, 2).T
        return np.stack((v, mu * (1.0 - u * u) * v - u), -1).reshape(-1)

    times = t.double().numpy()
    answer = solve_ivp(
        rate, (times[0], times[-1]), y0.double().numpy().reshape(-1), "LSODA", t_eval=times, rtol=1e-11, atol=1e-11
    )
    return torch.from_numpy(answer.y.T.copy()).reshape(len(times), -1, 2)


# --- Robertson, beside a loop over scipy's Radau


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
