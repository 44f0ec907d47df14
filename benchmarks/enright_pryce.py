"""`python -m benchmarks.enright_pryce`: the 25 non-stiff problems, beside scipy at the same tolerance.

The error is max|e| / (tol (1 + |y|)) at the end of the span, with atol = rtol = tol. The bar: no worse than three times
scipy's, or within 50 tolerances, whichever is larger, with at most 1.2 times its evaluations.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import pathline
from benchmarks.environment import environment
from benchmarks.peers import scipy_solve
from tests.problems import ENRIGHT_PRYCE, Problem

METHODS = {"bosh3": "RK23", "tsit5": "RK45", "dopri5": "RK45", "dopri8": "DOP853"}
TOLERANCES = (1e-3, 1e-6, 1e-9)
ERROR_RATIO, ERROR_BOUND, EVALUATION_RATIO = 3.0, 50.0, 1.2
RESULT = Path(__file__).parents[1] / "docs" / "results" / "enright_pryce.json"


@dataclass(frozen=True)
class Row:
    """One problem, method and tolerance; errors are in tolerances."""

    problem: str
    method: str
    peer: str
    tol: float
    error: float
    peer_error: float
    evaluations: int
    peer_evaluations: int

    @property
    def accurate(self) -> bool:
        """Whether the error meets the bar."""
        return self.error <= max(ERROR_RATIO * self.peer_error, ERROR_BOUND)

    @property
    def cheap(self) -> bool:
        """Whether the evaluations meet the bar."""
        return self.evaluations <= EVALUATION_RATIO * self.peer_evaluations


def tolerances(method: str) -> tuple[float, ...]:
    """A method of order 3 isn't asked for nine digits."""
    return TOLERANCES if pathline.METHODS[method].order > 3 else (1e-3, 1e-5)


def scaled_error(problem: Problem, y1: torch.Tensor, tol: float) -> float:
    """max|e| / (tol (1 + |y|)) at the end of the span."""
    exact = problem.end()
    return float(((y1 - exact).abs() / (tol * (1.0 + exact.abs()))).max())


def measure(problem: Problem, method: str, tol: float) -> Row:
    """Solve one problem with both libraries."""
    with torch.no_grad():
        ours = pathline.solve(problem.field, problem.start(), problem.span, method=method, rtol=tol, atol=tol)
    peer = scipy_solve(problem, METHODS[method], tol, tol)
    return Row(
        problem=problem.name,
        method=method,
        peer=f"scipy {METHODS[method]}",
        tol=tol,
        error=scaled_error(problem, ours.y1, tol),
        peer_error=scaled_error(problem, torch.from_numpy(peer.y1), tol),
        evaluations=ours.stats.evaluations,
        peer_evaluations=peer.evaluations,
    )


def table(rows: list[Row]) -> str:
    """The rows as fixed-width text."""
    lines = ["problem method  tol    error (ours, scipy)    evaluations (ours, scipy, ratio)"]
    for row in rows:
        ratio = row.evaluations / row.peer_evaluations
        verdict = "PASS" if row.accurate and row.cheap else "MISS"
        errors, counts = f"{row.error:9.3g} {row.peer_error:9.3g}", f"{row.evaluations:6d} {row.peer_evaluations:6d}"
        lines.append(f"{row.problem:7s} {row.method:7s} {row.tol:.0e}  {errors}    {counts}  {ratio:.2f}  {verdict}")
    return "\n".join(lines)


def main() -> int:
    """Run all, print the table, write it; the exit status is 1 where a bar is missed."""
    torch.set_num_threads(1)
    rows = [measure(p, method, tol) for method in METHODS for tol in tolerances(method) for p in ENRIGHT_PRYCE]
    print(table(rows))
    missed = [row for row in rows if not (row.accurate and row.cheap)]
    print(f"{len(rows) - len(missed)} of {len(rows)} within the bars")
    entries = [asdict(row) | {"accurate": row.accurate, "cheap": row.cheap} for row in rows]
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment("scipy"), "rows": entries}, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
