"""Orders of convergence, measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pathline
from pathline.testing.problems import Problem

#: Numbers of steps: halvings of two starts, so that a method of order 8 has enough of them before rounding.
STEPS = tuple(start * 2**k for k in range(7) for start in (4, 6) if start * 2**k <= 256)


def measured_order(
    error: Callable[[int], float],
    *,
    floor: float = 2e-14,
    ceiling: float = 0.1,
    most: int = STEPS[-1],
    finest: int = 8,
) -> float:
    """The slope of log(error) against log(steps), by regression over the usable halvings of the step.

    Step sizes are usable while the error lies between ``ceiling`` (above it the leading term doesn't lead yet) and
    ``floor`` (below it rounding does); the finest of them are taken.

    Args:
        error: the error with a given number of equal steps.
        floor: the smallest usable error.
        ceiling: the largest usable error.
        most: the largest number of steps to take.
        finest: so many usable step sizes enter the regression, at least 4.

    Returns:
        The measured order, positive for a method that converges.

    Raises:
        AssertionError: fewer than four step sizes are usable, or an error isn't finite.

    Example:
        >>> round(measured_order(lambda n: 3.0 / n**4), 6)
        4.0
    """
    usable: list[tuple[float, float]] = []
    for steps in (n for n in STEPS if n <= most):
        try:
            size = error(steps)
        except pathline.NewtonError:
            continue  # steps so long that the equations of an implicit method have no solution say nothing of its order
        if not math.isfinite(size):
            raise AssertionError(f"Expected a finite error with {steps} steps, came {size}. Look for NaN in the step.")
        if size < floor:
            break
        if size <= ceiling:
            usable.append((math.log(steps), math.log(size)))
    if len(usable) < 4:
        raise AssertionError(
            f"Expected at least 4 step sizes with an error in [{floor}, {ceiling}], came {len(usable)}. "
            "Either the method doesn't converge, or the problem is too easy for it."
        )
    x, y = np.array(usable[-finest:]).T
    return -float(np.polyfit(x, y, 1)[0])


def equal_steps(
    method: str, problem: Problem, steps: int, *, backward: bool = False, save: pathline.Save | None = None
) -> pathline.Solution:
    """Solve a problem with a given number of equal steps, whatever the method.

    Args:
        method: a name from the registry.
        problem: one with a closed form when run backward.
        steps: number of steps over the span.
        backward: from the end of the span to its start.
        save: as in ``pathline.solve``.

    Returns:
        The solution, in float64.
    """
    solver = pathline.METHODS[method]
    start, stop = reversed(problem.span) if backward else problem.span
    y0 = problem.at(start) if backward else problem.start()
    with torch.no_grad():
        return pathline.solve(
            problem.posed(solver.needs),
            y0,
            (start, stop),
            method=method,
            save=save,
            **fixed(method, abs(stop - start) / steps),
        )


def fixed(method: str, dt: float) -> dict[str, Any]:
    """The options of ``pathline.solve`` for equal steps of a method, adaptive or not."""
    return {"controller": pathline.FixedStep(dt)} if pathline.METHODS[method].adaptive else {"dt": dt}


def step_order(method: str, problem: Problem, *, backward: bool = False) -> float:
    """The measured order of the largest error over the ends of the steps.

    The error at a single time can pass through zero as the step shrinks, which spoils a regression; the largest can't.

    Example:
        >>> from pathline.testing import LINEAR
        >>> 3.9 < step_order("rk4", LINEAR) < 4.2
        True
    """
    return measured_order(
        lambda n: _errors(pathline.METHODS[method], method, problem, n, backward)[0], **_range(method)
    )


def dense_order(method: str, problem: Problem, *, backward: bool = False) -> float:
    """The measured order of the dense output: its largest error over 199 times, few of them on a step.

    Example:
        >>> from pathline.testing import LINEAR
        >>> 3.7 < dense_order("rk4", LINEAR) < 4.3
        True
    """
    return measured_order(
        lambda n: _errors(pathline.METHODS[method], method, problem, n, backward)[1], **_range(method)
    )


def _range(method: str) -> dict[str, int]:
    """Steps of an implicit method cost a system of equations each; those of higher order need fewer.

    Of order 4 those that iterate take long to show it: they are measured on their finest steps.
    """
    solver = pathline.METHODS[method]
    if not getattr(solver, "implicit", False) or solver.order == 1:
        return {}
    if solver.order == 4 and hasattr(solver, "newton"):
        return {"most": 192, "finest": 4}
    return {"most": 96 if solver.order > 2 else 128}


@lru_cache(maxsize=64)
def _errors(solver: Any, method: str, problem: Problem, steps: int, backward: bool) -> tuple[float, float]:
    """The largest errors at the ends of the steps and between them, of one solve (``solver`` is the cache's key)."""
    solution = equal_steps(method, problem, steps, backward=backward, save=pathline.Save(steps=True, dense=True))
    inside = torch.linspace(*problem.span, 201, dtype=torch.float64)[1:-1]
    ends = distance(solution.ys, exact_rows(problem, solution.ts))
    return ends, distance(solution(inside), exact_rows(problem, inside))


def exact_rows(problem: Problem, times: Tensor) -> Tensor:
    """The closed form at some times, shape (times, n)."""
    return torch.stack([problem.at(t) for t in times.tolist()])


def distance(y: Tensor, exact: Tensor) -> float:
    """max |y - exact| / (1 + |exact|)."""
    return float(((y - exact).abs() / (1.0 + exact.abs())).max())
