"""`python -m benchmarks.work_precision [--method NAME]`: error against evaluations, non-stiff, beside scipy.

The Enright-Pryce set (median error, evaluations of all 25 problems together), the Pleiades, a free rigid body and an
orbit of eccentricity 0.9. Adaptive methods run through tolerances (atol = rtol), fixed-step ones through numbers of
steps. The error is the largest |e| / (1 + |y|) at the end of the span.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import pathline
from benchmarks.environment import environment
from benchmarks.peers import scipy_solve
from tests.problems import ENRIGHT_PRYCE, PLEIADES, Problem

PEERS = ("RK23", "RK45", "DOP853")
TOLERANCES = tuple(10.0**-k for k in range(3, 12, 2))
STEPS = (64, 256, 1024, 4096)
#: An error estimate of low order asks for a great many steps at a tight tolerance.
TIGHTEST = {1: 1e-5, 2: 1e-7, 3: 1e-9}
SETS: dict[str, tuple[Problem, ...]] = {
    "Enright-Pryce": ENRIGHT_PRYCE,
    "Pleiades": (PLEIADES,),
    "rigid body": tuple(p for p in ENRIGHT_PRYCE if p.name == "B5"),
    "Kepler, e=0.9": tuple(p for p in ENRIGHT_PRYCE if p.name == "D5"),
}
RESULT = Path(__file__).parents[1] / "docs" / "results" / "work_precision.json"


def methods() -> list[str]:
    """The explicit methods that integrate any field; reversible ones don't bear the set's decays."""
    return [
        name
        for name, solver in pathline.METHODS.items()
        if solver.needs == "rate"
        and not getattr(solver, "implicit", False)
        and not getattr(solver, "reversible", False)
        and "backprop" in getattr(solver, "gradients", ("backprop",))
    ]


def settings(method: str) -> list[float]:
    """Tolerances, or numbers of steps."""
    if method in PEERS:
        return [tol for tol in TOLERANCES if tol >= (1e-9 if method == "RK23" else 0.0)]
    solver = pathline.METHODS[method]
    if not solver.adaptive:
        return list(STEPS)
    return [tol for tol in TOLERANCES if tol >= TIGHTEST.get(solver.embedded_order, 0.0)]


def error(problem: Problem, y1: torch.Tensor) -> float:
    """max |e| / (1 + |y|) at the end; infinite where the end isn't finite."""
    exact = problem.end()
    found = float(((y1 - exact).abs() / (1.0 + exact.abs())).max())
    return found if found == found else float("inf")


def solve(problem: Problem, method: str, setting: float) -> tuple[float, int]:
    """The error and the evaluations of one solve."""
    if method in PEERS:
        outcome = scipy_solve(problem, method, setting, setting)
        return error(problem, torch.from_numpy(outcome.y1)), outcome.evaluations
    options: dict[str, Any] = {"rtol": setting, "atol": setting, "max_steps": 200_000}
    if not pathline.METHODS[method].adaptive:
        options = {"dt": (problem.span[1] - problem.span[0]) / setting}
    with torch.no_grad():
        solution = pathline.solve(
            problem.field, problem.start(), problem.span, method=method, on_failure="return", **options
        )
    return error(problem, solution.y1) if solution.status else float("inf"), solution.stats.evaluations


def measure(method: str) -> Iterator[dict[str, Any]]:
    """The points of a method's curves."""
    for setting in settings(method):
        for name, problems in SETS.items():
            outcomes = [solve(problem, method, setting) for problem in problems]
            yield {
                "problem": name,
                "method": f"scipy {method}" if method in PEERS else method,
                "setting": setting,
                "error": statistics.median(e for e, _ in outcomes),
                "evaluations": sum(n for _, n in outcomes),
            }


def main() -> None:
    """Measure, print, write; with a method, that one anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.work_precision", description=__doc__)
    parser.add_argument("--method", choices=(*methods(), *PEERS), action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for method in options.method or (*methods(), *PEERS):
        for row in measure(method):
            rows.append(row)
            print("{problem:14s} {method:14s} {setting:8g}  {error:9.2e} {evaluations:9d}".format(**row), flush=True)
    write(rows)


def write(rows: list[dict[str, Any]]) -> None:
    """Update the committed results, one line a point; curves that were not measured keep theirs."""
    fresh = {row["method"] for row in rows}
    wanted = {*methods(), *(f"scipy {peer}" for peer in PEERS)}
    known = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    rows = [row for row in known if row["method"] in wanted - fresh] + rows
    lines = ",\n".join("  " + json.dumps(row | {"error": min(row["error"], 1e300)}) for row in rows)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps(environment("scipy"))
    RESULT.write_text(f'{{"environment": {head},\n "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
