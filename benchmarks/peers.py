"""Other people's solvers, called alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from tests.problems import Problem


@dataclass(frozen=True)
class Outcome:
    """A state at the end of a span, and what it cost."""

    y1: NDArray[np.float64]
    evaluations: int


def scipy_solve(problem: Problem, method: str, rtol: float, atol: float) -> Outcome:
    """Solve a catalogue problem with scipy in float64."""

    def rate(t: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            return problem.field(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y.copy())).numpy()

    answer = solve_ivp(rate, problem.span, np.array(problem.y0), method=method, rtol=rtol, atol=atol)
    if not answer.success:
        raise RuntimeError(f"scipy's {method} failed on {problem.name}: {answer.message}")
    return Outcome(answer.y[:, -1], int(answer.nfev))
