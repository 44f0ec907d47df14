"""`python -m benchmarks.references`: recompute `tests/references.json`, the ends of problems without a closed form.

Each is solved by scipy's DOP853 at its tightest tolerance; the distance to LSODA (another family of methods, at 1e-12)
and to DOP853 at a five times looser tolerance is stored beside it as the estimate of its error.
"""

from __future__ import annotations

import json

import numpy as np
import scipy

from benchmarks.peers import scipy_solve
from tests.problems import PROBLEMS, REFERENCES, Problem

TIGHTEST = 3e-14  # scipy raises rtol below 100 eps


def reference(problem: Problem) -> dict[str, list[float] | float]:
    """The end state of one problem, with two estimates of its error."""
    best = scipy_solve(problem, "DOP853", TIGHTEST, 1e-16).y1
    looser = scipy_solve(problem, "DOP853", 5 * TIGHTEST, 1e-15).y1
    other = scipy_solve(problem, "LSODA", 1e-12, 1e-14).y1
    scale = 1.0 + np.abs(best)
    return {
        "y1": best.tolist(),
        "to_looser": float(np.max(np.abs(best - looser) / scale)),
        "to_lsoda": float(np.max(np.abs(best - other) / scale)),
    }


def main() -> None:
    """Write the file."""
    answers = {name: reference(p) for name, p in PROBLEMS.items() if p.exact is None}
    text = json.dumps({"solver": f"scipy {scipy.__version__} DOP853, rtol 3e-14", "problems": answers}, indent=1)
    REFERENCES.write_text(text + "\n")
    for name, answer in answers.items():
        print(f"{name:20s} against looser {answer['to_looser']:.1e}, against LSODA {answer['to_lsoda']:.1e}")


if __name__ == "__main__":
    main()
