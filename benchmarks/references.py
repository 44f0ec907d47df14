"""`python -m benchmarks.references [NAME ...]`: recompute `tests/references.json`, problems without a closed form.

A non-stiff one is solved by scipy's DOP853 at its tightest tolerance; the distance to LSODA (another family of methods,
at 1e-12) and to DOP853 at a five times looser tolerance is stored beside it as the estimate of its error. A stiff one
is solved by scipy's Radau at 1e-12, beside LSODA at 1e-12 and Radau at a five times looser tolerance.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import scipy

from benchmarks.peers import Array, scipy_solve
from tests.problems import PROBLEMS, REFERENCES, STIFF, Problem

TIGHTEST = {"DOP853": 3e-14, "Radau": 1e-12}  # scipy raises rtol below 100 eps; Newton's iteration needs more


def reference(problem: Problem) -> dict[str, object]:
    """The states at the known times of one problem, with two estimates of their error."""
    stiff = "Radau" if problem in STIFF else "DOP853"
    tight = TIGHTEST[stiff]
    small = problem.atol if problem in STIFF else 1e-2  # an atol of 1e-2 rtol is as good as none there
    best = scipy_solve(problem, stiff, tight, small * tight).rows
    looser = scipy_solve(problem, stiff, 5 * tight, 5 * small * tight).rows
    other = scipy_solve(problem, "LSODA", 1e-12, 1e-14).rows
    return {
        "solver": f"scipy {scipy.__version__} {stiff}, rtol {tight:g}",
        "rows": best.tolist(),
        "to_looser": _distance(best, looser),
        "to_lsoda": _distance(best, other),
    }


def _distance(a: Array, b: Array) -> float:
    return float(np.max(np.abs(a - b) / (1.0 + np.abs(a))))


def main() -> None:
    """Write the file; with names, those entries of it."""
    known = json.loads(REFERENCES.read_text())["problems"] if REFERENCES.exists() else {}
    wanted = [p for p in (*PROBLEMS.values(), *STIFF) if p.exact is None]
    for problem in wanted:
        if len(sys.argv) > 1 and problem.name not in sys.argv[1:]:
            continue
        known[problem.name] = answer = reference(problem)
        print(f"{problem.name:20s} to looser {answer['to_looser']:.1e}, to LSODA {answer['to_lsoda']:.1e}", flush=True)
    answers = {p.name: known[p.name] for p in wanted if p.name in known}
    REFERENCES.write_text(json.dumps({"problems": answers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
