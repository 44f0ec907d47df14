"""Bracketing root finders: guaranteed, and fast where the function is smooth."""

from __future__ import annotations

import math

import pytest
import torch

from pathline.roots import bracket, bracket_rows

FUNCTIONS = {
    "cubic": (lambda t: t**3 - 2.0 * t - 5.0, 2.0, 3.0, 2.0945514815423265),
    "cosine": (lambda t: math.cos(t) - t, 0.0, 1.0, 0.7390851332151607),
    "flat": (lambda t: (t - 0.3) ** 9, 0.0, 1.0, 0.3),
    "steep": (lambda t: math.atan(1e6 * (t - 0.123)), -1.0, 1.0, 0.123),
    "jump": (lambda t: 1.0 if t > 0.7 else -1.0, 0.0, 1.0, 0.7),
    "falling": (lambda t: math.exp(-t) - 0.5, 0.0, 5.0, math.log(2.0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("turned", [False, True])
def test_finds_the_root(name, turned):
    g, a, b, root = FUNCTIONS[name]
    if turned:
        a, b = b, a
    calls = []

    def counted(t):
        calls.append(t)
        return g(t)

    found = bracket(counted, a, b, g(a), g(b), 1e-12)
    assert abs(found - root) < (1e-12 if name != "flat" else 1e-11)
    assert min(a, b) <= min(calls) <= max(calls) <= max(a, b)
    assert len(calls) <= (15 if name in ("cubic", "cosine", "falling") else 120)


def test_rows_find_their_own_roots_and_agree_with_single_ones():
    shift = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)

    def g(t):
        return torch.tanh(5 * (t - shift)) + 0.3 * (t - shift) ** 2

    a, b = torch.zeros_like(shift), torch.ones_like(shift)
    found = bracket_rows(g, a, b, g(a), g(b), 1e-13)
    torch.testing.assert_close(found, shift, rtol=0.0, atol=1e-12)
    for i, s in enumerate(shift.tolist()):
        one = bracket(
            lambda t, s=s: math.tanh(5 * (t - s)) + 0.3 * (t - s) ** 2, 0.0, 1.0, g(a)[i].item(), g(b)[i].item(), 1e-13
        )
        assert abs(one - s) < 1e-12


def test_a_root_at_an_end_costs_nothing():
    def never(t):
        raise AssertionError(t)

    assert bracket(never, 1.0, 2.0, 0.0, 3.0, 1e-9) == 1.0
    assert bracket(never, 1.0, 2.0, -1.0, 0.0, 1e-9) == 2.0
    one, two = torch.ones(2), torch.full((2,), 2.0)
    found = bracket_rows(never, one, two, torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.0]), 1e-6)
    assert found.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("values", [(1.0, 2.0), (math.nan, 1.0)])
def test_values_of_one_sign_are_refused(values):
    with pytest.raises(ValueError, match="opposite sign"):
        bracket(lambda t: t, 0.0, 1.0, *values, 1e-9)
    a, b = (torch.tensor([v]) for v in values)
    with pytest.raises(ValueError, match="in row 0"):
        bracket_rows(lambda t: t, torch.zeros(1), torch.ones(1), a, b, 1e-9)
