"""Adams methods: their coefficients, unequal grids, the choice of the order."""

from __future__ import annotations

import math

import pytest
import torch

import pathline
from pathline.solvers.adams import Adams, rules
from pathline.testing import LINEAR


def equal(k):
    return rules(-torch.arange(k, dtype=torch.float64).unsqueeze(0))


@pytest.mark.parametrize(
    ("k", "printed"),
    [(1, [1]), (2, [3, -1]), (3, [23, -16, 5]), (4, [55, -59, 37, -9]), (5, [1901, -2774, 2616, -1274, 251])],
)
def test_bashforth_as_printed(k, printed):
    weights = equal(k).integrals[0].sum(0)
    torch.testing.assert_close(weights, torch.tensor(printed).double() / sum(printed), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("k", "printed"), [(1, [1, 1]), (2, [5, 8, -1]), (3, [9, 19, -5, 1])])
def test_moulton_as_printed(k, printed):
    found = equal(k)
    gain = found.gains[0, k]
    others = found.integrals[0].sum(0) - gain * found.ends[0].sum(0)
    weights = torch.cat([gain.reshape(1), others])
    torch.testing.assert_close(weights, torch.tensor(printed).double() / sum(printed), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("implicit", [False, True])
def test_polynomials_are_exact_on_any_grid(implicit):
    """Once the history is there: five slopes integrate a quartic, whatever their distances, and so does the curve."""
    gaps = torch.tensor([0.1, 0.07, 0.13, 0.1, 0.21, 0.05, 0.3, 0.11], dtype=torch.float64)
    grid = torch.cat([torch.zeros(1, dtype=torch.float64), gaps.cumsum(0)])
    power = 4

    def slope(t, y):
        return (power + 1) * t**power * torch.ones_like(y)

    method = Adams(implicit, 5, start="dopri8", choose=False)
    solution = pathline.solve(
        slope, torch.zeros(1).double(), grid, method=method, save=pathline.Save(steps=True, dense=True)
    )
    torch.testing.assert_close(solution.ys[:, 0], grid ** (power + 1), rtol=1e-12, atol=1e-13)
    inside = torch.linspace(float(grid[4]), float(grid[-1]), 23, dtype=torch.float64)
    torch.testing.assert_close(solution(inside)[:, 0], inside ** (power + 1), rtol=1e-11, atol=1e-12)


def test_equal_coefficients_are_wrong_on_unequal_grids():
    """What `equal` is for, and why it is not the default."""
    grid = torch.cat([torch.zeros(1), torch.tensor([0.02, 0.05]).repeat(28).cumsum(0)]).double()
    errors = []
    for fixed in (False, True):
        method = Adams(max_order=4, equal=fixed)
        y1 = pathline.solve(LINEAR.field, LINEAR.start(), grid, method=method).y1
        errors.append(float((y1 - LINEAR.at(float(grid[-1]))).abs().max()))
    assert errors[0] < 2e-4
    assert errors[1] > 20.0 * errors[0]


def test_the_order_falls_where_steps_are_too_long_for_it():
    """Twelve slopes are unstable here; the terms say so."""
    y0 = torch.ones(1, dtype=torch.float64)
    wild, tame = (
        float(pathline.solve(lambda t, y: -y, y0, (0.0, 40.0), method=Adams(choose=choose), dt=0.2).y1.abs())
        for choose in (False, True)
    )
    assert wild > 1e3
    assert tame < 1e-4


def test_the_order_rises_on_a_fine_grid():
    used = []
    hooks = pathline.Hooks(on_accept=lambda t0, t1, y, step: used.append(int(getattr(step, "used", torch.zeros(1)))))
    pathline.solve(LINEAR.field, LINEAR.start(), (0.0, 1.0), method=Adams(), dt=0.02, hooks=hooks)
    assert max(used) > 8


@pytest.mark.parametrize("name", ["explicit_adams", "implicit_adams"])
def test_as_the_original_on_equal_steps(name):
    """The coefficients of equal steps, after two Runge-Kutta steps, as torchdiffeq does it."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    t = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    implicit = name == "implicit_adams"
    method = Adams(implicit, 5 if implicit else 4, 10, choose=False, equal=True, start="rk4_38", starts=2)
    ours = pathline.solve(LINEAR.field, LINEAR.start(), t, method=method).ys
    theirs = torchdiffeq.odeint(
        LINEAR.field, LINEAR.start(), t, method=name, rtol=1e-12, atol=1e-12, options={"max_order": 5, "max_iters": 10}
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("implicit", [False, True])
def test_rows_with_grids_of_their_own(implicit):
    """A row among others steps as it does alone, with an order of its own."""
    t = torch.stack([torch.linspace(0.0, end, 25, dtype=torch.float64) for end in (0.5, 4.0, 1.0)], 1)
    y0 = torch.stack([LINEAR.start(), 2.0 * LINEAR.start(), LINEAR.start()])
    method = Adams(implicit)
    together = pathline.solve(LINEAR.field, y0, t, method=method, clock="per-sample").ys
    for row in range(3):
        alone = pathline.solve(LINEAR.field, y0[row], t[:, row], method=method).ys
        torch.testing.assert_close(together[:, row], alone, rtol=1e-11, atol=1e-11)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`max_order` lies between 1 and 12; it is 13"):
        Adams(max_order=13)
    with pytest.raises(ValueError, match="`max_order` lies between 2 and 12; it is 1"):
        Adams(implicit=True, max_order=1)
    with pytest.raises(ValueError, match="`max_iters` is at least 1"):
        Adams(implicit=True, max_iters=0)


@pytest.mark.parametrize("implicit", [False, True])
def test_a_state_that_is_one_number(implicit):
    solution = pathline.solve(lambda t, y: -y, torch.tensor(1.0), (0.0, 1.0), method=Adams(implicit), dt=0.05)
    assert solution.y1.shape == ()
    assert float(solution.y1) == pytest.approx(math.exp(-1.0), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implicit", [False, True])
def test_short_dtypes_stay(implicit, dtype):
    y1 = pathline.solve(lambda t, y: -y, torch.ones(2, dtype=dtype), (0.0, 1.0), method=Adams(implicit), dt=0.1).y1
    assert y1.dtype == dtype
    assert float(y1[0]) == pytest.approx(math.exp(-1.0), rel=4 * torch.finfo(dtype).eps)
