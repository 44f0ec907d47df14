"""The automatic method: explicit where it can be, stiff where it must."""

from __future__ import annotations

import pytest
import torch

import pathline
from pathline.testing import finite_difference, relative_error
from tests.problems import ENRIGHT_PRYCE, STIFF

NAMED = {p.name: p for p in (*ENRIGHT_PRYCE, *STIFF)}


def modes(**options):
    """The solution, and whether each accepted step was stiff."""
    stiff = []
    hooks = pathline.Hooks(on_accept=lambda t0, t1, y, step: stiff.append(step.parts[0].again.stiff))
    return pathline.solve(method="auto", hooks=hooks, **options), stiff


@pytest.mark.parametrize("name", ["A3", "B1", "B5", "C5", "D4", "E2", "E3"])
def test_it_is_tsit5_where_nothing_is_stiff(name):
    p = NAMED[name]
    options = {"f": p.field, "y0": p.start(), "t": p.span, "rtol": 1e-6, "atol": 1e-6}
    solution, stiff = modes(**options)
    plain = pathline.solve(method="tsit5", **options)
    assert not any(stiff)
    assert solution.stats.evaluations <= plain.stats.evaluations + 2
    torch.testing.assert_close(solution.y1, plain.y1, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["van der Pol, mu=1e6", "Robertson", "HIRES"])
def test_it_finishes_stiff_problems(name):
    p = NAMED[name]
    tol = 1e-4
    solution, stiff = modes(f=p.field, y0=p.start(), t=(0.0, *p.known()), rtol=tol, atol=tol * p.atol)
    error = (solution.ys[1:] - p.rows()).abs() / (tol * (1.0 + p.rows().abs()))
    assert float(error.max()) < 50.0
    assert not stiff[0]
    assert any(stiff)


@pytest.mark.parametrize("mu", [1e3, 1e5])
def test_van_der_pol_of_any_stiffness(mu):
    """Over half a cycle and more, in the slow time: the jump at 0.8 and back again."""

    def field(t, y):
        u, v = y.unbind(-1)
        return torch.stack((v, mu * ((1.0 - u * u) * v - u)), -1)

    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    solution, stiff = modes(f=field, y0=y0, t=(0.0, 1.5), rtol=1e-5, atol=1e-7)
    exact = pathline.solve(field, y0, (0.0, 1.5), method="rodas5p", rtol=1e-6, atol=1e-8).y1
    torch.testing.assert_close(solution.y1, exact, rtol=1e-3, atol=1e-3)
    assert solution.stats.steps < 2000
    assert any(stiff)


def between(t, y, a):
    """Fast relaxation to cos(t) in the middle third of the span, a slow one outside."""
    fast = torch.sigmoid(40.0 * (t - 2.0)) * torch.sigmoid(40.0 * (4.0 - t))
    return -(1.0 + 1e5 * a * fast) * (y - torch.cos(t))


def test_it_changes_to_the_stiff_method_and_back():
    one = torch.ones((), dtype=torch.float64)
    solution, stiff = modes(f=between, y0=one.reshape(1), t=(0.0, 12.0), args=one, rtol=1e-6, atol=1e-8)
    first, last = stiff.index(True), len(stiff) - stiff[::-1].index(True)
    assert all(stiff[first:last])
    assert not any(stiff[last:])
    assert len(stiff) - last > 5
    # the slow relaxation from the target at the end of the fast one
    exact = pathline.solve(between, one.reshape(1), (0.0, 12.0), args=one, method="rodas5p", rtol=1e-8, atol=1e-10).y1
    torch.testing.assert_close(solution.y1, exact, rtol=0.0, atol=1e-4)


def test_every_row_has_its_own_mode():
    a = torch.tensor([[0.0], [1.0], [1e-3]], dtype=torch.float64)
    y0 = torch.ones(3, 1, dtype=torch.float64)
    options = {"rtol": 1e-5, "atol": 1e-7, "method": "auto", "clock": "per-sample", "t": torch.linspace(0.0, 8.0, 9)}
    seen = []
    hooks = pathline.Hooks(on_accept=lambda t0, t1, y, step: seen.append(len(getattr(step, "step", step).parts)))
    together = pathline.solve(between, y0, args=pathline.PerSample(a), hooks=hooks, **options)
    assert max(seen) == 2
    for row in range(3):
        alone = pathline.solve(between, y0[row : row + 1], args=pathline.PerSample(a[row : row + 1]), **options)
        torch.testing.assert_close(together.ys[:, row], alone.ys[:, 0], rtol=1e-10, atol=1e-12)
        assert int(together.stats.rows.accepted[row]) == int(alone.stats.rows.accepted[0])


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_gradients_through_changes_of_the_mode(clock):
    a = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    y0 = torch.tensor([[0.7], [1.2]], dtype=torch.float64)

    def loss(y0, a, **options):
        args = pathline.PerSample(a) if clock == "per-sample" else a
        return (
            pathline.solve(between, y0, torch.tensor([0.0, 1.0, 2.5, 5.0]).double(), args=args, **options)
            .ys.sin()
            .sum()
        )

    tight = {"method": "auto", "clock": clock, "rtol": 1e-4, "atol": 1e-6}
    found = []
    for gradient in ("backprop", "checkpointed"):
        inputs = [x.clone().requires_grad_() for x in (y0, a)]
        found.append(torch.autograd.grad(loss(*inputs, gradient=gradient, **tight), inputs))
    for kept, remade in zip(*found, strict=True):
        assert relative_error(remade, kept) < 1e-9
    if clock == "shared":
        times: list[float] = [0.0]
        hooks = pathline.Hooks(on_accept=lambda t0, t1, y, step: times.append(float(t1)))
        loss(y0, a, hooks=hooks, **tight)
        replay = {"method": "auto", "controller": pathline.Grid(times)}
        for kept, x, end in (
            (found[0][0], y0, lambda v: loss(v, a, **replay)),
            (found[0][1], a, lambda v: loss(y0, v, **replay)),
        ):
            assert relative_error(kept, finite_difference(end, x, step=1e-4)) < 1e-6
