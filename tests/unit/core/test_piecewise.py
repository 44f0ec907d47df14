"""Curves by polynomials between knots, against polynomials written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathline.controls.piecewise import PiecewisePolynomial

SHAPES = st.sampled_from([(), (2,), (2, 3)])


@st.composite
def curves(draw):
    pieces = draw(st.integers(1, 5))
    steps = draw(st.lists(st.floats(0.1, 2.0), min_size=pieces, max_size=pieces))
    knots = torch.tensor([draw(st.floats(-2.0, 2.0)), *steps], dtype=torch.float64).cumsum(0)
    if draw(st.booleans()):
        knots = knots.flip(0)
    degree, shape = draw(st.integers(0, 5)), draw(SHAPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    coefficients = torch.randn(pieces, degree + 1, *shape, dtype=torch.float64, generator=generator)
    return PiecewisePolynomial(knots, coefficients)


def by_hand(curve, piece, theta, order=0):
    c, width = curve.coefficients[piece], curve.knots[piece + 1] - curve.knots[piece]
    if order == 0:
        return sum(c[j] * theta**j for j in range(len(c)))
    return sum((c[j] * j * theta ** (j - 1) for j in range(1, len(c))), torch.zeros_like(c[0])) / width


@settings(max_examples=25)
@given(curves(), st.floats(0.001, 0.999), st.data())
def test_inside_a_piece(curve, theta, data):
    piece = data.draw(st.integers(0, len(curve.coefficients) - 1))
    t = curve.knots[piece] + theta * (curve.knots[piece + 1] - curve.knots[piece])
    for after in (False, True):
        torch.testing.assert_close(curve(t, after=after), by_hand(curve, piece, theta), rtol=1e-8, atol=1e-8)
        slope = by_hand(curve, piece, theta, order=1)
        torch.testing.assert_close(curve.derivative(t, after=after), slope, rtol=1e-7, atol=1e-7)


@settings(max_examples=25)
@given(curves())
def test_at_the_knots(curve):
    """The earlier piece, or the later one with `after`; at either end the only one there is."""
    pieces = len(curve.coefficients)
    for k, t in enumerate(curve.knots):
        before, later = max(k - 1, 0), min(k, pieces - 1)
        for after, piece in ((False, before), (True, later)):
            theta = float(piece < k)
            torch.testing.assert_close(curve(t, after=after), by_hand(curve, piece, theta), rtol=1e-9, atol=1e-9)
            slope = by_hand(curve, piece, theta, order=1)
            torch.testing.assert_close(curve.derivative(t, after=after), slope, rtol=1e-9, atol=1e-9)


@settings(max_examples=25)
@given(curves(), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6))
def test_many_times_are_single_times_stacked(curve, where):
    t = curve.knots[0] + torch.tensor(where, dtype=torch.float64) * (curve.knots[-1] - curve.knots[0])
    t = torch.minimum(torch.maximum(t, curve.knots.min()), curve.knots.max())
    values = curve(t)
    assert values.shape == (len(t), *curve.coefficients.shape[2:])
    torch.testing.assert_close(values, torch.stack([curve(s) for s in t]))
    assert curve(t.reshape(1, -1, 1)).shape == (1, len(t), 1, *curve.coefficients.shape[2:])


@settings(max_examples=25)
@given(curves(), st.floats(0.01, 10.0), st.booleans())
def test_outside_is_an_error(curve, far, low):
    low_end, high_end = float(curve.knots.min()), float(curve.knots.max())
    t = low_end - far if low else high_end + far
    with pytest.raises(ValueError, match=r"The curve is known from t = .*Solve over a longer span"):
        curve(t)
    with pytest.raises(ValueError, match=r"it was asked for t = nan"):
        curve.derivative(math.nan)


@settings(max_examples=25)
@given(curves())
def test_derivatives_by_autograd(curve):
    t = (0.3 * curve.knots[:-1] + 0.7 * curve.knots[1:]).requires_grad_()
    values = curve(t)
    (slope,) = torch.autograd.grad(values.flatten(1).sum() if values.dim() > 1 else values.sum(), t, allow_unused=True)
    direct = curve.derivative(t.detach())
    direct = direct.flatten(1).sum(1) if direct.dim() > 1 else direct
    torch.testing.assert_close(torch.zeros_like(direct) if slope is None else slope, direct, rtol=1e-8, atol=1e-8)


def test_times_rounded_to_float32_are_taken():
    curve = PiecewisePolynomial(torch.tensor([0.1, 0.7], dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    at = torch.tensor([0.1, 0.7])  # 0.1 is above, 0.7 below its neighbour in double precision
    torch.testing.assert_close(curve(at), torch.tensor([1.0, 2.0], dtype=torch.float64), rtol=0.0, atol=1e-6)
    with pytest.raises(ValueError, match="known from"):
        curve(torch.tensor(0.7001))


def test_complex_values():
    knots = torch.tensor([0.0, 2.0], dtype=torch.float64)
    curve = PiecewisePolynomial(knots, torch.tensor([[1.0, 2.0j]], dtype=torch.complex128))
    assert curve(1.0).item() == 1.0 + 1.0j
    assert curve.derivative(1.0).item() == 1.0j
