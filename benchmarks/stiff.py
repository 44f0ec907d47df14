"""`python -m benchmarks.stiff [--method NAME] [--problem NAME] [--tol 1e-4]`: the stiff set, beside scipy.

The error is the largest |e| / (rtol (1 + |y|)) over the known times of a problem, with the problem's own ratio of
absolute to relative tolerance. The bar: no worse than three times the nearest relative in scipy on the same row (Radau
for one-step methods, BDF for multistep ones), or within 50 tolerances, whichever is larger; `radau5` and `bdf` with at
most twice its evaluations, Jacobians and factorisations. Pairs of order 3 and below are held to it at 1e-4 alone: at
1e-7 they finish, or stop with `max_steps` and say so. Both libraries get an exact Jacobian.

With options only the rows named are measured anew; the others stay as they are on record.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pathline
from benchmarks.environment import environment
from benchmarks.peers import Outcome, scipy_solve
from tests.problems import BRUSSELATOR, HEAT, STIFF, Problem, second_difference

TOLERANCES = (1e-4, 1e-7)
ERROR_RATIO, ERROR_BOUND, COST_RATIO = 3.0, 50.0, 2.0
COSTS = ("evaluations", "jacobians", "factorizations")
HELD_TO_COSTS = ("radau5", "bdf")
RESULT = Path(__file__).parents[1] / "docs" / "results" / "stiff.json"


@dataclass(frozen=True)
class Cost:
    """What a solve took."""

    error: float
    steps: int
    evaluations: int
    jacobians: int
    factorizations: int


@dataclass(frozen=True)
class Row:
    """One problem, method and tolerance; errors are in tolerances."""

    problem: str
    method: str
    order: int
    rtol: float
    atol: float
    status: str
    ours: Cost
    peer: str
    theirs: Cost

    @property
    def held(self) -> bool:
        """Whether the row is held to the bars."""
        return self.order > 3 or self.rtol >= 1e-4

    @property
    def accurate(self) -> bool:
        """Whether it ended, with an error that meets the bar."""
        bound = max(ERROR_RATIO * self.theirs.error, ERROR_BOUND)
        return self.status == "success" and self.ours.error <= bound

    @property
    def cheap(self) -> bool:
        """Whether the counts meet the bar; asked of some methods only."""
        if self.method not in HELD_TO_COSTS:
            return True
        return all(getattr(self.ours, cost) <= COST_RATIO * getattr(self.theirs, cost) for cost in COSTS)

    @property
    def verdict(self) -> str:
        """PASS or MISS; a row that isn't held to the bars says how it ended."""
        if self.held:
            return "PASS" if self.accurate and self.cheap else "MISS"
        return "PASS" if self.status in ("success", "max_steps") else "MISS"

    def entry(self) -> dict[str, Any]:
        """The row for a JSON file."""
        return asdict(self) | {"verdict": self.verdict}

    def __str__(self) -> str:
        costs = "  ".join(f"{getattr(self.ours, c):6d} {getattr(self.theirs, c):6d}" for c in ("steps", *COSTS))
        errors = f"{self.ours.error:9.3g} {self.theirs.error:9.3g}"
        end = self.verdict if self.status == "success" else f"{self.verdict} ({self.status})"
        return f"{self.problem:20s} {self.method:12s} {self.rtol:.0e}  {errors}  {costs}  {end}"


HEADING = f"{'problem':20s} {'method':12s} rtol   {'error, peer':>19s}  " + "  ".join(
    f"{name:>13s}" for name in ("steps, peer", "evaluations", "jacobians", "factorizations")
)


def methods() -> list[str]:
    """The adaptive implicit methods of the registry, and those that switch to one."""
    return [
        name
        for name, solver in pathline.METHODS.items()
        if solver.adaptive and stiff(solver) and "backprop" in gradients(solver)
    ]


def stiff(solver: Any) -> bool:
    """Whether a solver is made for stiff problems: implicit, or of a changing order that may turn so."""
    return getattr(solver, "implicit", False) or getattr(solver, "variable_order", False)


def gradients(solver: Any) -> tuple[str, ...]:
    """The gradient modes of a solver."""
    return getattr(solver, "gradients", ("backprop", "checkpointed", "adjoint"))


def problems(method: str) -> tuple[Problem, ...]:
    """The problems for a method: one that treats two parts differently needs problems that have them."""
    return (HEAT, BRUSSELATOR) if pathline.METHODS[method].needs == "parts" else STIFF


def posed(problem: Problem, method: str) -> Any:
    """The field; for a method in two parts diffusion is the stiff one."""
    if pathline.METHODS[method].needs != "parts":
        return problem.field
    diffusion = {HEAT.name: _heat_diffusion, BRUSSELATOR.name: _brusselator_diffusion}[problem.name]
    return pathline.Sum(diffusion, lambda t, y: problem.field(t, y) - diffusion(t, y))


def _heat_diffusion(t: Tensor, y: Tensor) -> Tensor:
    return second_difference(y, 0.0, 0.0)


def _brusselator_diffusion(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unflatten(-1, (2, -1)).unbind(-2)
    return 0.02 * torch.cat((second_difference(u, 1.0, 1.0), second_difference(v, 3.0, 3.0)), -1)


def relative(method: str) -> str:
    """The nearest relative in scipy: BDF for multistep methods, Radau for one-step ones and what switches to them."""
    solver = pathline.METHODS[method]
    multistep = getattr(solver, "variable_order", False) and getattr(solver, "implicit", False)
    return "BDF" if multistep else "Radau"


@lru_cache
def peer_outcome(problem: Problem, peer: str, rtol: float) -> Outcome:
    """Scipy's solve of a problem, once for all methods."""
    return scipy_solve(problem, peer, rtol, problem.atol * rtol)


def scaled_error(problem: Problem, rows: Tensor, rtol: float) -> float:
    """max |e| / (rtol (1 + |y|)) over the known times."""
    exact = problem.rows()
    return float(((rows - exact).abs() / (rtol * (1.0 + exact.abs()))).max())


def measure(problem: Problem, method: str, rtol: float) -> Row:
    """Solve one problem with both libraries."""
    times = torch.tensor((0.0, *problem.known()), dtype=torch.float64)
    with torch.no_grad():
        ours = pathline.solve(
            posed(problem, method),
            problem.start(),
            times,
            method=method,
            rtol=rtol,
            atol=problem.atol * rtol,
            on_failure="return",
        )
    theirs = peer_outcome(problem, relative(method), rtol)
    stats = ours.stats
    return Row(
        problem=problem.name,
        method=method,
        order=pathline.METHODS[method].order,
        rtol=rtol,
        atol=problem.atol * rtol,
        status=ours.status.value,
        ours=Cost(
            error=scaled_error(problem, ours.ys[1:], rtol),
            steps=stats.accepted,
            evaluations=stats.evaluations,
            jacobians=stats.jacobians,
            factorizations=stats.factorizations,
        ),
        peer=f"scipy {relative(method)}",
        theirs=Cost(
            error=scaled_error(problem, torch.from_numpy(theirs.rows), rtol),
            steps=theirs.steps,
            evaluations=theirs.evaluations,
            jacobians=theirs.jacobians,
            factorizations=theirs.factorizations,
        ),
    )


def main() -> int:
    """Measure, print, write; the exit status is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stiff", description=__doc__)
    parser.add_argument("--method", choices=methods(), action="append")
    parser.add_argument("--problem", choices=[p.name for p in STIFF], action="append")
    parser.add_argument("--tol", type=float, action="append")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(HEADING)
    rows = []
    for problem in STIFF:
        if options.problem and problem.name not in options.problem:
            continue
        for tol in options.tol or TOLERANCES:
            for method in options.method or methods():
                if problem in problems(method):
                    rows.append(measure(problem, method, tol))
                    print(rows[-1], flush=True)
    missed = [row for row in rows if row.verdict == "MISS"]
    print(f"{len(rows) - len(missed)} of {len(rows)} within the bars")
    if not options.dry:
        write(rows)
    return 1 if missed else 0


def write(rows: list[Row]) -> None:
    """Update the committed results; rows that were not measured keep theirs, methods that are gone go."""
    known = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    entries = {(e["problem"], e["rtol"], e["method"]): e for e in (*known, *(row.entry() for row in rows))}
    order = [(p.name, tol, m) for p in STIFF for tol in TOLERANCES for m in methods()]
    kept = [entries[key] for key in order if key in entries]
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment("scipy"), "rows": kept}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
