"""Other people's solvers, called alike."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from tests.problems import Problem

Array = NDArray[np.float64]
#: Methods of scipy that take the Jacobian of the field.
IMPLICIT = ("Radau", "BDF", "LSODA")


@dataclass(frozen=True)
class Outcome:
    """States at the known times of a problem, and what they cost."""

    rows: Array
    steps: int
    evaluations: int
    jacobians: int
    factorizations: int

    @property
    def y1(self) -> Array:
        """The state at the end."""
        return self.rows[-1]


def scipy_solve(problem: Problem, method: str, rtol: float, atol: float, **options: Any) -> Outcome:
    """Solve a catalogue problem with scipy in float64; implicit methods are given the exact Jacobian of a stiff one."""

    def rate(t: float, y: Array) -> Array:
        with torch.no_grad():
            return problem.field(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y.copy())).numpy()

    def jacobian(t: float, y: Array) -> Array:
        time = torch.tensor(t, dtype=torch.float64)
        return torch.func.jacrev(lambda y: problem.field(time, y))(torch.from_numpy(y.copy())).numpy()

    if method in IMPLICIT and "stiff" in problem.tags:
        options["jac"] = jacobian
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lsoda", category=UserWarning)  # a step at the resolution of time
        answer = solve_ivp(
            rate,
            problem.span,
            np.array(problem.y0),
            method=method,
            rtol=rtol,
            atol=atol,
            dense_output=len(problem.known()) > 1,
            **options,
        )
    if not answer.success:
        raise RuntimeError(f"scipy's {method} failed on {problem.name}: {answer.message}")
    rows = [answer.sol(t) for t in problem.known()[:-1]]
    return Outcome(
        rows=np.stack([*rows, answer.y[:, -1]]),
        steps=len(answer.t) - 1,
        evaluations=int(answer.nfev),
        jacobians=int(answer.njev),
        factorizations=int(answer.nlu),
    )
