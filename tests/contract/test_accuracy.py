"""Orders of convergence, measured; and the 25 Enright-Pryce problems beside scipy."""

from __future__ import annotations

import math

import pytest

import pathline
from benchmarks.enright_pryce import METHODS, measure, tolerances
from pathline.testing import check_dense_order, check_order, measured_order
from pathline.testing.problems import order_problems
from tests.problems import ENRIGHT_PRYCE

ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "ralston": 2,
    "heun3": 3,
    "rk4": 4,
    "rk4_38": 4,
    "fehlberg2": 2,
    "bosh3": 3,
    "tsit5": 5,
    "dopri5": 5,
    "dopri8": 8,
}


@pytest.mark.parametrize("method", ORDERS)
def test_registry_knows_the_order_in_print(method):
    assert pathline.METHODS[method].order == ORDERS[method]


CASES = [
    (name, problem) for name in sorted(pathline.METHODS) for problem in order_problems(pathline.METHODS[name].needs)
]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("method", "problem"), CASES, ids=lambda x: x if isinstance(x, str) else x.name)
def test_orders(method, problem, backward):
    """At the ends of the steps and between them: one solve serves both."""
    check_order(method, problem, backward=backward)
    check_dense_order(method, problem, backward=backward)


@pytest.mark.parametrize(("method", "tol"), [(method, tol) for method in METHODS for tol in tolerances(method)])
@pytest.mark.parametrize("problem", ENRIGHT_PRYCE, ids=lambda p: p.name)
def test_enright_pryce(problem, method, tol):
    row = measure(problem, method, tol)
    assert row.accurate, f"error {row.error:.3g} tolerances, {row.peer} {row.peer_error:.3g}"
    assert row.cheap, f"{row.evaluations} evaluations, {row.peer} {row.peer_evaluations}"


def test_measured_order_is_a_regression_over_usable_steps():
    assert measured_order(lambda n: 7.0 / n**3 + 1e-16) == pytest.approx(3.0, abs=1e-6)
    assert measured_order(lambda n: 1.0 / n) == pytest.approx(1.0)


def test_measured_order_refuses_what_does_not_converge():
    with pytest.raises(AssertionError, match="at least 4 step sizes"):
        measured_order(lambda n: 1.0)
    with pytest.raises(AssertionError, match="finite error"):
        measured_order(lambda n: math.nan)
