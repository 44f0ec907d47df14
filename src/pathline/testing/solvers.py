"""What every method in the registry must do: one function a promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import pathline
from pathline.terms import Separable, Sum
from pathline.testing.gradients import check_gradient, modes
from pathline.testing.orders import dense_order, distance, exact_rows, fixed, step_order
from pathline.testing.problems import NONLINEAR, Problem, order_problems


def check_order(method: str, problem: Problem, *, backward: bool = False) -> None:
    """The measured order is the tableau's: at least p - 0.25 (7.5 for p = 8), at most p + 1 on a nonlinear problem.

    The upper bound finds a method that is better than it says, and a problem that flatters it. The window is wider
    where an eighth order leaves few step sizes between the first good one and rounding. A method whose order changes
    from step to step has none to be measured: its error must follow the tolerance instead, at least as its power 0.7.

    Args:
        method: a name from the registry.
        problem: one with a closed form.
        backward: from the end of the span to its start.

    Raises:
        AssertionError: the order is another.

    Example:
        >>> check_order("bosh3", NONLINEAR)
    """
    where = f"the {problem.name} problem{' backwards' if backward else ''}"
    solver = pathline.METHODS[method]
    if _varies(solver):
        _check_convergence(method, problem, where, backward=backward)
        return
    p = solver.order
    measured = step_order(method, problem, backward=backward)
    least = 7.5 if p == 8 else p - 0.25
    most = p + 1.0 if "nonlinear" in problem.tags else math.inf
    assert least <= measured <= most, (
        f"Expected {method} to converge with an order in [{least}, {most}] on {where}, came {measured:.2f}. "
        "Compare each coefficient with the printed tableau."
    )


def check_dense_order(method: str, problem: Problem, *, backward: bool = False) -> None:
    """Between the steps the error falls as at the steps: at order p up to 5, at 7 or better for an eighth order.

    The curve of an implicit method may be of a lower order, the one that it states as ``dense_order``; at least 3 from
    a method that has it.

    Args:
        method: a name from the registry.
        problem: one with a closed form.
        backward: from the end of the span to its start.

    Raises:
        AssertionError: the dense output converges slower.

    Example:
        >>> check_dense_order("bosh3", NONLINEAR)
    """
    solver = pathline.METHODS[method]
    if _varies(solver):
        return  # the same solves are looked at between the steps too
    p = solver.order
    wanted = max(min(p, solver.dense_order), min(p, 3)) if _implicit(solver) else min(p, 7) if p > 5 else p
    measured = dense_order(method, problem, backward=backward)
    assert measured >= wanted - 0.25, (
        f"Expected the dense output of {method} to converge with order {wanted} on the {problem.name} problem, came "
        f"{measured:.2f}. Cubic Hermite output carries a method of order 4; a higher one needs its own weights."
    )


def _varies(solver: Any) -> bool:
    return getattr(solver, "variable_order", False)


def _implicit(solver: Any) -> bool:
    return getattr(solver, "implicit", False)


def _check_convergence(method: str, problem: Problem, where: str, *, backward: bool) -> None:
    """The errors of a variable-order method follow the tolerance, or fall with the steps, at them and between."""
    sizes = [1e-3, 1e-5, 1e-7, 1e-9] if pathline.METHODS[method].adaptive else [2.0**-k for k in range(3, 8)]
    start, stop = reversed(problem.span) if backward else problem.span
    inside = torch.linspace(start, stop, 41, dtype=torch.float64)
    y0, exact = problem.at(start), exact_rows(problem, inside)
    errors = []
    for size in sizes:
        options: dict[str, Any] = {"rtol": size, "atol": size} if pathline.METHODS[method].adaptive else {"dt": size}
        with torch.no_grad():
            ys = pathline.solve(problem.field, y0, inside, method=method, **options).ys
        errors.append(distance(ys, exact))
    found = math.log(errors[0] / errors[-1]) / math.log(sizes[0] / sizes[-1])
    if pathline.METHODS[method].adaptive:
        assert found >= 0.7, (
            f"Expected the errors of {method} to follow the tolerances {sizes} on {where}, came {errors}."
        )
        assert all(e <= 300.0 * tol for e, tol in zip(errors, sizes, strict=True)), (
            f"Expected the errors of {method} within 300 times the tolerances {sizes} on {where}, came {errors}."
        )
        return
    least = min(pathline.METHODS[method].order, 4) - 0.25
    assert found >= least, f"Expected {method} to converge with order {least} on {where}, came {found:.2f}: {errors}."


def check_output_times(method: str) -> None:
    """The rows are exactly the requested ones, in both directions, repeats and a single time included.

    Example:
        >>> check_output_times("heun")
    """
    problem = order_problems(pathline.METHODS[method].needs)[0]
    for times in ([0.3, 0.6, 0.6, 1.01, 2.2], [2.2, 0.7, 0.3], [0.5], [0.5, 0.5]):
        t = torch.tensor(times, dtype=torch.float64)
        y0 = problem.at(times[0])
        solution = _solve(method, problem, y0, t)
        exact = torch.stack([problem.at(s) for s in times])
        assert torch.equal(solution.ts, t), f"Expected rows at {times}, came {solution.ts.tolist()}."
        assert torch.equal(solution.ys[0], y0), f"Expected the first row to be y0, came {solution.ys[0].tolist()}."
        assert torch.equal(solution.ys[-1], solution.y1), f"{method}: the last row and `y1` differ for t = {times}."
        if times.count(0.6) == 2:
            assert torch.equal(solution.ys[1], solution.ys[2]), f"{method}: a repeated time gave two states."
        torch.testing.assert_close(solution.ys, exact, rtol=0.0, atol=5e-2)


def check_dtypes(method: str) -> None:
    """Real and complex states of both precisions come back in their own dtype, and agree.

    Example:
        >>> check_dtypes("rk4")
    """
    linear, _, nonlinear = order_problems(pathline.METHODS[method].needs)
    turn = complex(math.cos(0.7), math.sin(0.7))  # the rate is linear: a complex multiple of a solution is one
    low = linear.span[0]
    for dtype in (torch.complex64, torch.complex128):
        y1 = _solve(method, linear, (turn * linear.start()).to(dtype), (low, low + 1.0)).y1
        assert y1.dtype == dtype, f"Expected a {dtype} state, came {y1.dtype}."
        torch.testing.assert_close(y1, (turn * linear.at(low + 1.0)).to(dtype), rtol=0.0, atol=5e-2)
    for dtype in (torch.float32, torch.float64):
        y1 = _solve(method, nonlinear, nonlinear.start(dtype), nonlinear.span).y1
        assert y1.dtype == dtype, f"Expected a {dtype} state, came {y1.dtype}."
        torch.testing.assert_close(y1.double(), nonlinear.end(), rtol=0.0, atol=5e-2)


def check_structures(method: str) -> None:
    """A nested state gives what the same numbers in one tensor give, with any shape of the leaves.

    Example:
        >>> check_structures("midpoint")
    """
    needs = pathline.METHODS[method].needs
    problem = order_problems(needs)[1]

    def nested(t: Tensor, y: dict[str, Any]) -> dict[str, Any]:
        rate = problem.field(t, torch.stack((y["u"], y["rest"][0]), -1))
        return {"u": rate[..., 0], "rest": (rate[..., 1],)}

    def part(share: float) -> Callable[..., dict[str, Any]]:
        return lambda t, y: tree_map(lambda dy, x: 0.5 * dy + share * x, nested(t, y), y)

    terms = {
        "rate": nested,
        "parts": Sum(part(-0.7), part(0.7)),  # as `Problem.posed` does
        "split": problem.posed("split") if problem.split else None,
    }
    u, v = (torch.full((2, 3), value, dtype=torch.float64) for value in problem.y0)
    together = _coarse(method, problem).y1
    start = (u, v) if needs == "split" else {"u": u, "rest": (v,)}
    with torch.no_grad():
        y1 = pathline.solve(terms[needs], start, problem.span, method=method, **_coarsely(method)).y1
    found = y1 if needs == "split" else (y1["u"], y1["rest"][0])
    close = 1e-9 if _implicit(pathline.METHODS[method]) or needs == "parts" else 1e-12
    for leaf, value in zip(found, together, strict=True):
        torch.testing.assert_close(leaf, value.expand(2, 3), rtol=close, atol=close)


def check_batch(method: str) -> None:
    """A row of a batch with equal steps is the single run of that row, in a field that uses the time.

    Example:
        >>> check_batch("heun3")
    """
    if _varies(pathline.METHODS[method]) and pathline.METHODS[method].adaptive:
        return  # one clock, one order for the whole batch: a row alone takes other steps
    needs = pathline.METHODS[method].needs
    problem = order_problems(needs)[1]
    starts = _starts(problem)
    options = {"method": method, **fixed(method, 0.1)}
    with torch.no_grad():
        batch = pathline.solve(problem.posed(needs), starts, problem.span, **options).y1
        single = torch.stack([pathline.solve(problem.posed(needs), y0, problem.span, **options).y1 for y0 in starts])
    close = 1e-9 if _implicit(pathline.METHODS[method]) else 1e-13
    torch.testing.assert_close(batch, single, rtol=close, atol=close)


def check_per_sample(method: str) -> None:
    """A row with a clock of its own is the single run of that row: the same steps, the same numbers.

    To a few roundings where the method is explicit; where it solves systems of equations, whose order of operations
    differs in a batch, within 10 tolerances and one step.

    Example:
        >>> check_per_sample("bosh3")
    """
    solver = pathline.METHODS[method]
    if "per-sample" not in getattr(solver, "clocks", ("shared", "per-sample")):
        return
    problem = order_problems(solver.needs)[1]
    starts, (low, high) = _starts(problem), problem.span
    ends = torch.tensor([high, high - 0.7, low + 0.4], dtype=torch.float64)
    t = low + (ends - low) * torch.linspace(0.0, 1.0, 4, dtype=torch.float64)[:, None]
    tol = 1e-5
    options: dict[str, Any] = {"method": method, **({"rtol": tol, "atol": tol} if solver.adaptive else {"dt": 0.05})}
    term = problem.posed(solver.needs)
    with torch.no_grad():
        together = pathline.solve(term, starts, t, clock="per-sample", **options)
        for i, y0 in enumerate(starts):
            alone = pathline.solve(term, y0, t[:, i], **options)
            counts = together.stats.rows
            assert counts is not None, "Expected counts of each row in `stats.rows`, came none."
            wanted, came = alone.stats.accepted, int(counts.accepted[i])
            loose = _implicit(solver) or _varies(solver)
            assert abs(came - wanted) <= loose, (
                f"Expected row {i} of {method} to take {wanted} steps as it does alone, came {came}."
            )
            rtol, atol = (
                (10.0 * tol, 10.0 * tol) if loose else (1e-12, 1e-12)
            )  # dense output of order 8 has large weights
            torch.testing.assert_close(together.ys[:, i], alone.ys, rtol=rtol, atol=atol)


def check_zero_length(method: str) -> None:
    """An interval of length zero returns the start, without a step.

    Example:
        >>> check_zero_length("tsit5")
    """
    solution = _solve(method, NONLINEAR, NONLINEAR.start(), (0.5, 0.5))
    assert torch.equal(solution.y1, NONLINEAR.start()), f"Expected y0 back, came {solution.y1.tolist()}."
    assert solution.stats.steps == 0, f"Expected no step, came {solution.stats.steps}."


def check_evaluations(method: str) -> None:
    """Every call of the field is counted; n equal steps of an explicit method cost n times the stages.

    A method whose last stage is the next first saves all but one of those. What a Newton iteration takes is not known
    beforehand: there the calls must be the counted evaluations and Jacobians.

    Example:
        >>> check_evaluations("bosh3")
    """
    calls = 0

    def counted(rate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(t: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return rate(t, y)

        return call

    solver = pathline.METHODS[method]
    n = 40 if _implicit(solver) else 8  # the equations of long implicit steps may have no solution
    terms = {
        "rate": lambda: counted(NONLINEAR.field),
        "parts": lambda: Sum(counted(lambda t, y: -y), counted(lambda t, y: NONLINEAR.field(t, y) + y)),
        "split": lambda: Separable(*map(counted, NONLINEAR.split or ())),
    }
    steps: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5} if getattr(solver, "whole", False) else fixed(method, 2.0 / n)
    with torch.no_grad():
        solution = pathline.solve(terms[solver.needs](), NONLINEAR.start(), (0.5, 2.5), method=method, **steps)
    stats = solution.stats
    if _implicit(solver) or _varies(solver):
        assert stats.evaluations <= calls <= stats.evaluations + stats.jacobians, (
            f"`stats` has {stats.evaluations} evaluations and {stats.jacobians} Jacobians for {calls} calls."
        )
        return
    wanted = n * (solver.stages - 1) + 1 if getattr(solver, "fsal", False) else n * solver.stages
    assert stats.accepted == n, f"Expected {n} steps, came {stats.accepted}."
    assert stats.evaluations == calls, f"`stats.evaluations` is {stats.evaluations} for {calls} calls."
    assert calls <= wanted, f"Expected {wanted} evaluations for {n} steps of {method}, came {calls}."


def check_tolerance(method: str) -> None:
    """An adaptive method's error follows the tolerance; a fixed-step method refuses one.

    Example:
        >>> check_tolerance("dopri5")
    """
    solver = pathline.METHODS[method]
    problem = order_problems(solver.needs)[0]
    term = problem.posed(solver.needs)
    if not solver.adaptive:
        try:
            pathline.solve(term, problem.start(), problem.span, method=method, rtol=1e-3, dt=0.1)
        except (TypeError, ValueError):
            return
        raise AssertionError(f"Expected a tolerance given to {method} to be refused, came a solution.")
    errors = []
    for tol in (1e-3, 1e-5, 1e-7):
        with torch.no_grad():
            solution = pathline.solve(term, problem.start(), problem.span, method=method, rtol=tol, atol=tol)
        errors.append(float((solution.y1 - problem.end()).abs().max()))
    assert errors[2] <= 1e3 * 1e-7, f"Expected an error within 1000 of tolerance 1e-7, came {errors[2]:.1e}."
    assert errors[0] >= 10.0 * errors[1] >= 100.0 * errors[2], (
        f"Expected errors that follow the tolerance, came {errors}."
    )


def check_stiffness(method: str) -> None:
    """An implicit method takes steps that are long beside 1 / stiffness, and stays at the solution.

    The problem is that of Prothero and Robinson: y' = lambda (y - cos t) - sin t with lambda = -1e6, started off the
    smooth solution cos t. A stiffly accurate method forgets the start at once; others must not let it grow.

    Example:
        >>> check_stiffness("tsit5")  # explicit: nothing is promised
    """
    solver = pathline.METHODS[method]
    if not _implicit(solver) or (_varies(solver) and not solver.adaptive):
        return

    def pulled(t: Tensor, y: Tensor) -> Tensor:
        return -1e6 * (y - torch.cos(t))

    def pushed(t: Tensor, y: Tensor) -> Tensor:
        return -torch.sin(t) * torch.ones_like(y)

    term = Sum(pulled, pushed)
    start = torch.tensor([2.0], dtype=torch.float64)
    with torch.no_grad():
        if not _varies(solver):
            y1 = pathline.solve(term, start, (0.0, 1.0), method=method, **fixed(method, 0.1)).y1
            bound = 1e-2 if getattr(solver, "stiffly_accurate", False) else 1.1
            error = abs(y1.item() - math.cos(1.0))
            assert error <= bound, f"Expected {method} within {bound} of the smooth solution, came {error:.2g}."
        if solver.adaptive:
            solution = pathline.solve(term, start, (0.0, 10.0), method=method, rtol=1e-4, atol=1e-4)
            error = abs(solution.y1.item() - math.cos(10.0))
            assert solution.stats.steps <= 600, f"Expected {method} to take long steps, came {solution.stats.steps}."
            assert error <= 1e-2, f"Expected {method} to stay at the smooth solution, came an error of {error:.2g}."


def check_symplecticity(method: str) -> None:
    """The energy of a pendulum under a symplectic method swings and doesn't drift.

    Over 50 swings the mean energy of the last quarter is that of the first, to a twentieth of how far it swings.

    Example:
        >>> check_symplecticity("rk4")  # not symplectic: nothing is promised
    """
    solver = pathline.METHODS[method]
    if not getattr(solver, "symplectic", False):
        return
    pendulum = Separable(kick=lambda t, q: -torch.sin(q), drift=lambda t, p: p)
    start = torch.tensor([2.0, 0.0], dtype=torch.float64)
    with torch.no_grad():
        t = torch.linspace(0.0, 400.0, 1001, dtype=torch.float64)
        q, p = pathline.solve(pendulum, start, t, method=method).ys.unbind(-1)
    energy = 0.5 * p * p - torch.cos(q)
    swing = float((energy - energy[0]).abs().max())
    drift = abs(float(energy[-250:].mean() - energy[:250].mean()))
    assert drift <= 0.05 * swing + 1e-9, (
        f"Expected the energy under {method} to return, came a drift of {drift:.2g} with swings of {swing:.2g}."
    )


def _check_gradients(method: str) -> None:
    for gradient in modes(method):
        check_gradient(method, gradient)


def _check_orders(method: str) -> None:
    for problem in order_problems(pathline.METHODS[method].needs):
        for backward in (False, True):
            check_order(method, problem, backward=backward)
            check_dense_order(method, problem, backward=backward)


#: The promises, by name, for a test's parametrisation.
SOLVER_CHECKS: dict[str, Callable[[str], None]] = {
    "orders": _check_orders,
    "output times": check_output_times,
    "dtypes": check_dtypes,
    "structures": check_structures,
    "batch": check_batch,
    "per-sample": check_per_sample,
    "zero length": check_zero_length,
    "evaluations": check_evaluations,
    "tolerance": check_tolerance,
    "stiffness": check_stiffness,
    "symplecticity": check_symplecticity,
    "gradients": _check_gradients,
}


def check_solver(method: str) -> None:
    """Everything a method in the registry promises; what a new method must pass to be admitted.

    Orders at the ends and between the steps (three problems, both directions), output times, dtypes, nested states,
    rows of a batch on both clocks, intervals of length zero, counts of evaluations, tolerances, and the gradients. What
    the solver's attributes promise beside: long steps on a stiff problem (``implicit``), no drift of the energy
    (``symplectic``). A few seconds; an implicit method takes longer.

    Args:
        method: a name from ``pathline.METHODS``.

    Raises:
        AssertionError: a promise is broken; the text says which.

    Example:
        >>> check_solver("midpoint")
    """
    for check in SOLVER_CHECKS.values():
        check(method)


def _starts(problem: Problem) -> Tensor:
    """Three starts, shape (3, n)."""
    return problem.start() * torch.tensor([[1.0], [3.0], [-0.5]], dtype=torch.float64)


def _solve(method: str, problem: Problem, y0: Tensor, t: Any) -> pathline.Solution:
    """A solve to a few hundredths at least."""
    solver = pathline.METHODS[method]
    fine: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
    if not solver.adaptive:
        fine = {"dt": 0.005 if solver.order == 1 else 0.02}
    with torch.no_grad():
        return pathline.solve(problem.posed(solver.needs), y0, t, method=method, **fine)


def _coarse(method: str, problem: Problem) -> pathline.Solution:
    with torch.no_grad():
        return pathline.solve(
            problem.posed(pathline.METHODS[method].needs),
            problem.start(),
            problem.span,
            method=method,
            **_coarsely(method),
        )


def _coarsely(method: str) -> dict[str, Any]:
    """Twenty equal steps; a variable order takes a tight tolerance instead, where one step more makes no difference."""
    solver = pathline.METHODS[method]
    return {"rtol": 1e-10, "atol": 1e-12} if _varies(solver) and solver.adaptive else fixed(method, 0.1)
