"""Tableaus: order conditions in exact fractions, and rows that are no tableau."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathline.tableaus import (
    TABLEAUS,
    Tableau,
    _density,
    _nodes,
    _square,
    _stage_weights,
    dense_order_of,
    order_of,
    printed,
    rooted_trees,
)

RATIONAL = {
    "euler": (1, []),
    "midpoint": (2, []),
    "heun": (2, []),
    "ralston": (2, []),
    "heun3": (3, []),
    "rk4": (4, []),
    "rk4_38": (4, []),
    "fehlberg2": (2, [1]),
    "adaptive_heun": (2, [1]),
    "bosh3": (3, [2]),
    "dopri5": (5, [4]),
}
DECIMAL = {"tsit5": (5, [4]), "vern7": (7, [6]), "dopri8": (8, [5, 3])}
DENSE = {"bosh3": 3, "tsit5": 4, "dopri5": 4, "vern7": 6, "dopri8": 7, "rk4": 3, "rk4_38": 3, "heun3": 3}
STAGES = {
    "euler": 1,
    "heun": 2,
    "heun3": 3,
    "rk4": 4,
    "fehlberg2": 3,
    "bosh3": 4,
    "tsit5": 7,
    "dopri5": 7,
    "vern7": 10,
    "dopri8": 12,
}


@pytest.mark.parametrize("name", RATIONAL)
def test_orders_in_exact_fractions(name):
    tableau, (order, embedded) = TABLEAUS[name], RATIONAL[name]
    assert order_of(tableau.b, tableau.a, exact=True) == order == tableau.order
    assert [order_of(row, tableau.a, exact=True) for row in tableau.embedded] == embedded


@pytest.mark.parametrize("name", RATIONAL)
def test_rows_sum_to_their_nodes_exactly(name):
    tableau = TABLEAUS[name]
    assert [sum(row, F(0)) for row in tableau.a] == list(tableau.c)
    assert {sum(row) for row in (tableau.b, *tableau.embedded)} == {F(1)}


@pytest.mark.parametrize("name", DECIMAL)
def test_orders_of_decimals(name):
    tableau, (order, embedded) = TABLEAUS[name], DECIMAL[name]
    assert tableau.order == order
    assert [order_of(row, tableau.a) for row in tableau.embedded] == embedded


def test_the_whole_registry_is_covered():
    assert set(TABLEAUS) == set(RATIONAL) | set(DECIMAL)
    assert all(name == tableau.name and tableau.source for name, tableau in TABLEAUS.items())


@pytest.mark.parametrize("name", STAGES)
def test_stages(name):
    assert TABLEAUS[name].stages == STAGES[name]


@pytest.mark.parametrize("name", TABLEAUS)
def test_first_same_as_last(name):
    assert TABLEAUS[name].fsal == (name in ("bosh3", "tsit5", "dopri5"))


@pytest.mark.parametrize("name", TABLEAUS)
def test_order_of_the_error_estimate(name):
    expected = {"fehlberg2": 1, "adaptive_heun": 1, "bosh3": 2, "tsit5": 4, "dopri5": 4, "vern7": 6, "dopri8": 7}
    assert TABLEAUS[name].embedded_order == expected.get(name)


@pytest.mark.parametrize("name", DENSE)
def test_order_of_dense_output(name):
    assert TABLEAUS[name].dense_order == dense_order_of(TABLEAUS[name]) == DENSE[name]


@pytest.mark.parametrize("name", TABLEAUS)
def test_dense_output_starts_at_the_start_and_ends_at_the_end(name):
    """b(1) = b, b'(0) = the first stage, b'(1) = the slope at the end."""
    tableau = TABLEAUS[name]
    weights = tableau.dense_weights
    b = np.array([float(x) for x in tableau.b] + [0.0] * (len(weights) - len(tableau.b)))
    np.testing.assert_allclose(weights.sum(1), b, atol=1e-12)
    first, last = np.zeros(len(weights)), np.zeros(len(weights))
    first[0] = 1.0
    last[tableau.stages - tableau.fsal] = 1.0
    np.testing.assert_allclose(weights[:, 0], first, atol=1e-12)
    np.testing.assert_allclose(weights @ np.arange(1, weights.shape[1] + 1), last, atol=1e-10)


def test_the_digits_of_verners_pair():
    """Twenty digits: every condition of the pair and of its dense output, in exact fractions."""
    tableau = TABLEAUS["vern7"]
    stages = (*tableau.a, tableau.b, *(row for _, row in tableau.extra))
    pad = [F(0)] * (len(stages) - len(tableau.b))
    for weights, order in ((tableau.b, 7), (tableau.embedded[0], 6)):
        assert max(map(abs, residuals([*weights, *pad], stages, order, lambda n: F(1)))) < F(1, 10**16)
    for k in range(7):
        weights = [row[k] for row in tableau.dense]
        power = residuals(weights, stages, 6, lambda n, k=k: F(int(n == k + 1)))
        assert max(map(abs, power)) < F(1, 10**15), k


def residuals(weights, stages, order, scale):
    """``sum b_i Phi_i(tree) - scale(nodes) / density`` for every tree up to the order, in exact fractions."""
    phi = _stage_weights(_square(stages, object))
    trees = [tree for n in range(1, order + 1) for tree in rooted_trees(n)]
    return [np.array(weights) @ phi(tree) - scale(_nodes(tree)) / _density(tree) for tree in trees]


def test_rooted_trees_are_counted_as_in_the_book():
    assert [len(rooted_trees(n)) for n in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]


# --- properties --------------------------------------------------------------------------------------------------

fractions = st.fractions(-2, 2, max_denominator=12)


@settings(max_examples=20)
@given(st.fractions(F(1, 12), 1, max_denominator=12))
def test_the_family_of_two_stage_methods_of_order_two(node):
    """b2 = 1 / (2 c2): order two for every c2, and never more."""
    b2 = 1 / (2 * node)
    assert order_of((1 - b2, b2), ((), (node,)), exact=True) == 2


@settings(max_examples=20)
@given(fractions, fractions)
def test_any_other_weight_has_order_one(node, weight):
    expected = 2 if weight * node == F(1, 2) else 1
    assert order_of((1 - weight, weight), ((), (node,)), exact=True) == expected


@settings(max_examples=20)
@given(fractions.filter(bool))
def test_weights_that_do_not_sum_to_one_have_no_order(extra):
    assert order_of((1 + extra,), ((),), exact=True) == 0


@settings(max_examples=20)
@given(st.fractions(F(1, 12), F(11, 12), max_denominator=12), st.fractions(F(1, 12), 1, max_denominator=12))
def test_the_family_of_three_stage_methods_of_order_three(u, v):
    """Kutta's two-parameter family, for nodes u and v that differ."""
    if u in (v, F(2, 3)):
        return
    b2, b3 = (2 - 3 * v) / (6 * u * (u - v)), (2 - 3 * u) / (6 * v * (v - u))
    a32 = F(1, 6) / (b3 * u)
    assert order_of((1 - b2 - b3, b2, b3), ((), (u,), (v - a32, a32)), exact=True) == 3


@pytest.mark.parametrize("name", RATIONAL)
@settings(max_examples=20)
@given(data=st.data())
def test_one_changed_digit_is_found(name, data):
    """Moving one weight makes a row that does not sum to its node: refused; moving two lowers the order."""
    tableau = TABLEAUS[name]
    slip = data.draw(st.fractions(F(1, 1000), 1, max_denominator=1000))
    i = data.draw(st.integers(0, tableau.stages - 1))
    b = list(tableau.b)
    b[i] += slip
    with pytest.raises(ValueError, match=rf"Tableau '{name}': weights sums to .*Compare the row with the printed one"):
        Tableau(name, tableau.a, tuple(b), tableau.c)
    if tableau.stages > 1:
        b[(i + 1) % tableau.stages] -= slip
        assert order_of(tuple(b), tableau.a, exact=True) < tableau.order


# --- refused -----------------------------------------------------------------------------------------------------


def make(**changed):
    parts = {"a": ((), (F(1, 2),)), "b": (F(0), F(1)), "c": (F(0), F(1, 2)), **changed}
    return Tableau("mine", **parts)


def test_a_row_that_does_not_sum_to_its_node():
    with pytest.raises(ValueError, match=r"Tableau 'mine': stage 2 sums to 0\.5, its node is 0\.25"):
        make(c=(F(0), F(1, 4)))


def test_a_row_of_the_wrong_length():
    with pytest.raises(ValueError, match=r"Tableau 'mine': stage 2 has 2 coefficients, expected 1"):
        make(a=((), (F(1, 4), F(1, 4))))
    with pytest.raises(ValueError, match=r"Tableau 'mine': weights has 1 coefficients, expected 2"):
        make(b=(F(1),))
    with pytest.raises(ValueError, match=r"Tableau 'mine': weights has 3 coefficients, expected 2"):
        make(embedded=((F(1), F(0), F(0)),))


def test_weights_that_do_not_sum_to_one():
    with pytest.raises(ValueError, match=r"Tableau 'mine': weights sums to 0\.5, its node is 1\.0"):
        make(b=(F(0), F(1, 2)))
    with pytest.raises(ValueError, match=r"Tableau 'mine': weights sums to 2\.0, its node is 1\.0"):
        make(embedded=((F(1), F(1)),))


def test_another_number_of_nodes_than_of_rows():
    with pytest.raises(ValueError, match="shorter|longer|nodes"):
        make(c=(F(0),))


def test_extra_stages_and_dense_rows():
    with pytest.raises(ValueError, match=r"Tableau 'mine': extra stage 1 has 2 coefficients, expected 3"):
        make(extra=((F(1, 2), (F(1, 4), F(1, 4))),))
    with pytest.raises(ValueError, match=r"Tableau 'mine': extra stage 1 sums to 0\.25, its node is 0\.5"):
        make(extra=((F(1, 2), (F(1, 4), F(0), F(0))),))
    with pytest.raises(ValueError, match=r"Tableau 'mine': `dense` has 1 rows for 3 stages"):
        make(dense=((F(1),),))


def test_the_printed_form():
    tableau = printed("mine", "0 |\n1/2 | 1/2\n| 0 1\n| 1 0", source="a book")
    assert tableau == make(embedded=((F(1), F(0)),), source="a book")
    assert (tableau.order, tableau.embedded_order, tableau.stages, tableau.fsal) == (2, 1, 2, False)
