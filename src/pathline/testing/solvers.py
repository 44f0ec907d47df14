"""What every method in the registry must do: one function a promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import pathline
from pathline.testing.gradients import check_gradient
from pathline.testing.orders import dense_order, equal_steps, step_order
from pathline.testing.problems import LINEAR, NONLINEAR, ORDER_PROBLEMS, Problem


def check_order(method: str, problem: Problem, *, backward: bool = False) -> None:
    """The measured order is the tableau's: at least p - 0.25 (7.5 for p = 8), at most p + 1 on a nonlinear problem.

    The upper bound finds a method that is better than it says, and a problem that flatters it. The window is wider
    where an eighth order leaves few step sizes between the first good one and rounding.

    Args:
        method: a name from the registry.
        problem: one with a closed form.
        backward: from the end of the span to its start.

    Raises:
        AssertionError: the order is another.

    Example:
        >>> check_order("bosh3", NONLINEAR)
    """
    p = pathline.METHODS[method].order
    measured = step_order(method, problem, backward=backward)
    least = 7.5 if p == 8 else p - 0.25
    most = p + 1.0 if "nonlinear" in problem.tags else math.inf
    assert least <= measured <= most, (
        f"Expected {method} to converge with an order in [{least}, {most}] on the {problem.name} problem"
        f"{' backwards' if backward else ''}, came {measured:.2f}. Compare each coefficient with the printed tableau."
    )


def check_dense_order(method: str, problem: Problem, *, backward: bool = False) -> None:
    """Between the steps the error falls as at the steps: at order p up to 5, at 7 or better for an eighth order.

    Args:
        method: a name from the registry.
        problem: one with a closed form.
        backward: from the end of the span to its start.

    Raises:
        AssertionError: the dense output converges slower.

    Example:
        >>> check_dense_order("bosh3", NONLINEAR)
    """
    p = pathline.METHODS[method].order
    wanted = min(p, 7) if p > 5 else p
    measured = dense_order(method, problem, backward=backward)
    assert measured >= wanted - 0.25, (
        f"Expected the dense output of {method} to converge with order {wanted} on the {problem.name} problem, came "
        f"{measured:.2f}. Cubic Hermite output carries a method of order 4; a higher one needs its own weights."
    )


def check_output_times(method: str) -> None:
    """The rows are exactly the requested ones, in both directions, repeats and a single time included.

    Example:
        >>> check_output_times("heun")
    """
    for times in ([0.0, 0.3, 0.3, 0.71, 1.9], [1.9, 0.4, 0.0], [0.5], [0.5, 0.5]):
        t = torch.tensor(times, dtype=torch.float64)
        y0 = LINEAR.at(times[0])
        solution = pathline.solve(LINEAR.field, y0, t, method=method, **_fine(method))
        exact = torch.stack([LINEAR.at(s) for s in times])
        assert torch.equal(solution.ts, t), f"Expected rows at {times}, came {solution.ts.tolist()}."
        assert torch.equal(solution.ys[0], y0), f"Expected the first row to be y0, came {solution.ys[0].tolist()}."
        assert torch.equal(solution.ys[-1], solution.y1), f"{method}: the last row and `y1` differ for t = {times}."
        if times.count(0.3) == 2:
            assert torch.equal(solution.ys[1], solution.ys[2]), f"{method}: a repeated time gave two states."
        torch.testing.assert_close(solution.ys, exact, rtol=0.0, atol=5e-2)


def check_dtypes(method: str) -> None:
    """Real and complex states of both precisions come back in their own dtype, and agree.

    Example:
        >>> check_dtypes("rk4")
    """
    rate = complex(-0.3, 1.0)
    exact = complex(math.e ** (-0.3) * math.cos(1.0), math.e ** (-0.3) * math.sin(1.0))
    for dtype in (torch.complex64, torch.complex128):
        y1 = pathline.solve(
            lambda t, y: rate * y, torch.ones(2, dtype=dtype), (0.0, 1.0), method=method, **_fine(method)
        ).y1
        assert y1.dtype == dtype, f"Expected a {dtype} state, came {y1.dtype}."
        torch.testing.assert_close(y1, torch.full((2,), exact, dtype=dtype), rtol=0.0, atol=5e-2)
    for dtype in (torch.float32, torch.float64):
        y1 = pathline.solve(NONLINEAR.field, NONLINEAR.start(dtype), NONLINEAR.span, method=method, **_fine(method)).y1
        assert y1.dtype == dtype, f"Expected a {dtype} state, came {y1.dtype}."
        torch.testing.assert_close(y1.double(), NONLINEAR.end(), rtol=0.0, atol=5e-2)


def check_structures(method: str) -> None:
    """A nested state gives what the same numbers in one tensor give, with any shape of the leaves.

    Example:
        >>> check_structures("midpoint")
    """

    def nested(t: Tensor, y: dict[str, Any]) -> dict[str, Any]:
        rate = LINEAR.field(t, torch.stack((y["u"], y["rest"][0]), -1))
        return {"u": rate[..., 0], "rest": (rate[..., 1],)}

    together = equal_steps(method, LINEAR, 20).y1
    start = {"u": torch.full((2, 3), LINEAR.y0[0]).double(), "rest": (torch.full((2, 3), LINEAR.y0[1]).double(),)}
    y1 = pathline.solve(nested, start, LINEAR.span, method=method, **_steps(method, 0.1)).y1
    torch.testing.assert_close(y1["u"], together[0].expand(2, 3), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y1["rest"][0], together[1].expand(2, 3), rtol=1e-12, atol=1e-12)


def check_zero_length(method: str) -> None:
    """An interval of length zero returns the start, without a step.

    Example:
        >>> check_zero_length("tsit5")
    """
    solution = pathline.solve(NONLINEAR.field, NONLINEAR.start(), (0.5, 0.5), method=method, **_fine(method))
    assert torch.equal(solution.y1, NONLINEAR.start()), f"Expected y0 back, came {solution.y1.tolist()}."
    assert solution.stats.steps == 0, f"Expected no step, came {solution.stats.steps}."


def check_evaluations(method: str) -> None:
    """n equal steps cost n times the stages; a method whose last stage is the next first saves all but one of those.

    Example:
        >>> check_evaluations("bosh3")
    """
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return NONLINEAR.field(t, y)

    solver, n = pathline.METHODS[method], 8
    solution = pathline.solve(counted, NONLINEAR.start(), (0.0, 2.0), method=method, **_steps(method, 0.25))
    wanted = n * (solver.stages - 1) + 1 if solver.fsal else n * solver.stages
    assert solution.stats.accepted == n, f"Expected {n} steps, came {solution.stats.accepted}."
    assert solution.stats.evaluations == calls, (
        f"`stats.evaluations` is {solution.stats.evaluations} for {calls} calls."
    )
    assert calls <= wanted, f"Expected {wanted} evaluations for {n} steps of {method}, came {calls}."


def check_tolerance(method: str) -> None:
    """An adaptive method's error follows the tolerance; a fixed-step method refuses one.

    Example:
        >>> check_tolerance("dopri5")
    """
    if not pathline.METHODS[method].adaptive:
        try:
            pathline.solve(LINEAR.field, LINEAR.start(), LINEAR.span, method=method, rtol=1e-3, dt=0.1)
        except (TypeError, ValueError):
            return
        raise AssertionError(f"Expected a tolerance given to {method} to be refused, came a solution.")
    errors = []
    for tol in (1e-3, 1e-5, 1e-7):
        solution = pathline.solve(LINEAR.field, LINEAR.start(), LINEAR.span, method=method, rtol=tol, atol=tol)
        errors.append(float((solution.y1 - LINEAR.end()).abs().max()))
    assert errors[2] <= 1e3 * 1e-7, f"Expected an error within 1000 of tolerance 1e-7, came {errors[2]:.1e}."
    assert errors[0] >= 10.0 * errors[1] >= 100.0 * errors[2], (
        f"Expected errors that follow the tolerance, came {errors}."
    )


def _check_gradients(method: str) -> None:
    for gradient in ("backprop", "checkpointed", "adjoint"):
        check_gradient(method, gradient)


def _check_orders(method: str) -> None:
    for problem in ORDER_PROBLEMS:
        check_order(method, problem)
        check_order(method, problem, backward=True)


def _check_dense_orders(method: str) -> None:
    for problem in ORDER_PROBLEMS:
        check_dense_order(method, problem)
        check_dense_order(method, problem, backward=True)


#: The promises, by name, for a test's parametrisation.
SOLVER_CHECKS: dict[str, Callable[[str], None]] = {
    "order": _check_orders,
    "dense order": _check_dense_orders,
    "output times": check_output_times,
    "dtypes": check_dtypes,
    "structures": check_structures,
    "zero length": check_zero_length,
    "evaluations": check_evaluations,
    "tolerance": check_tolerance,
    "gradients": _check_gradients,
}


def check_solver(method: str) -> None:
    """Everything a method in the registry promises; what a new method must pass to be admitted.

    Orders at the ends and between the steps (three problems, both directions), output times, dtypes, nested states,
    intervals of length zero, counts of evaluations, tolerances, and the three gradients. Takes a few seconds.

    Args:
        method: a name from ``pathline.METHODS``.

    Raises:
        AssertionError: a promise is broken; the text says which.

    Example:
        >>> check_solver("midpoint")
    """
    for check in SOLVER_CHECKS.values():
        check(method)


def _fine(method: str) -> dict[str, Any]:
    solver = pathline.METHODS[method]
    if solver.adaptive:
        return {"rtol": 1e-4, "atol": 1e-5}
    return {"dt": 0.002 if solver.order == 1 else 0.02}


def _steps(method: str, dt: float) -> dict[str, Any]:
    return {"controller": pathline.FixedStep(dt)} if pathline.METHODS[method].adaptive else {"dt": dt}
