"""The requested times: what is accepted, what comes back, and what is said of the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pathline

Y0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def spiral(t, y):
    return torch.stack((-0.3 * y[..., 0] - 2 * y[..., 1], 2 * y[..., 0] - 0.3 * y[..., 1]), -1)


def exact(t, y0=Y0):
    z = torch.exp(torch.tensor(-0.3 + 2j, dtype=torch.complex128) * t)[:, None]
    w = z * torch.complex(y0[0], y0[1])
    return torch.cat((w.real, w.imag), 1)


# --- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tsit5", "rk4"])
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 1.0, 0.5], r"`t` is monotone; it goes from 1 to 0\.5 at index 2\. Sort it"),
        ([1.0, 0.0, 2.0], r"`t` is monotone; it goes from .* at index [12]\. Sort it"),
        ([0.0, 0.0, -1.0, 0.0], r"`t` is monotone; it goes from .* at index [23]\. Sort it"),
        ([1.0, 2.0, 1.0], r"`t` is monotone; it goes from 2 to 1 at index 2\. Sort it"),
        ([0.0, math.nan, 1.0], r"`t` is finite; it holds nan"),
        ([math.nan, math.nan], r"`t` is finite; it holds nan"),
        ([0.0, math.inf], r"`t` is finite; it holds inf"),
        ([], r"`t` is a 1-d tensor of at least one time; it has shape \(0,\)"),
        (1.0, r"`t` is a 1-d tensor of at least one time; it has shape \(\)"),
    ],
)
def test_times_that_are_no_times(times, message, method):
    with pytest.raises(ValueError, match=message):
        pathline.solve(spiral, Y0, torch.tensor(times), method=method)


@pytest.mark.parametrize("t", [torch.linspace(0.0, 1.0, 3).expand(4, 3), torch.zeros(3, 4)], ids=["(b, n)", "(n, b)"])
def test_times_of_their_own_for_each_sample_need_their_own_clocks(t):
    with pytest.raises(
        ValueError, match=r"`t` has shape \([34], [34]\)\. On the shared clock .* need clock=\"per-sample\""
    ):
        pathline.solve(spiral, torch.ones(4, 2), t)


def test_times_with_the_batch_first_are_refused_with_the_transpose():
    with pytest.raises(ValueError, match=r"`t` has shape \(4, 3\) for 4 samples.* Pass t\.T, or batch_first=True"):
        pathline.solve(spiral, torch.ones(4, 2), torch.linspace(0.0, 1.0, 3).expand(4, 3), clock="per-sample")


def test_nested_lists_are_refused_like_the_tensor_they_mean():
    with pytest.raises(ValueError, match=r"`t` has shape \(2, 2\).*clock=\"per-sample\""):
        pathline.solve(spiral, torch.ones(2, 2), [[0.0, 1.0], [0.0, 2.0]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64], ids=str)
def test_times_are_real_numbers(dtype):
    with pytest.raises(TypeError, match=rf"`t` is real; it has dtype {dtype}"):
        pathline.solve(spiral, Y0, torch.tensor([0, 1]).to(dtype))


@pytest.mark.parametrize("t", [None, 1.0, 3])
def test_one_bare_number_is_no_times(t):
    with pytest.raises(TypeError, match=rf"`t` is a tensor of times, or \(t0, t1\); it is {t}"):
        pathline.solve(spiral, Y0, t)


@pytest.mark.parametrize("t", ["ab", ["a", "b"]])
def test_words_are_no_times(t):
    with pytest.raises(TypeError, match=r"`t` is a tensor of times, or \(t0, t1\); it is "):
        pathline.solve(spiral, Y0, t)


# --- accepted ----------------------------------------------------------------------------------------------------

KINDS = {
    "float32 tensor": torch.tensor([0.0, 0.5, 2.0]),
    "float64 tensor": torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64),
    "list": [0.0, 0.5, 2.0],
    "tuple": (0, 0.5, 2),
    "array": np.array([0.0, 0.5, 2.0]),
    "list of 0-d tensors": [torch.tensor(0.0), torch.tensor(0.5), torch.tensor(2.0)],
    "list of both": [0, torch.tensor(0.5), 2.0],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["tsit5", "dopri5", "dopri8"])
def test_kinds_of_times(kind, method):
    solution = pathline.solve(spiral, Y0, KINDS[kind], method=method, **TIGHT)
    assert solution.ts.tolist() == [0.0, 0.5, 2.0]
    torch.testing.assert_close(solution.ys, exact(solution.ts.double()), rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("t", [(0, 2), [0, 2], (0.0, 2.0), torch.tensor([0, 2]), range(0, 3, 2)], ids=repr)
def test_a_pair_gives_two_rows(t):
    solution = pathline.solve(spiral, Y0, t, **TIGHT)
    assert solution.ys.shape == (2, 2)
    assert torch.equal(solution.ys[0], Y0)
    assert torch.equal(solution.ys[1], solution.y1)
    assert solution.t1.item() == 2.0
    torch.testing.assert_close(solution.ys, exact(torch.tensor([0.0, 2.0]).double()), rtol=0.0, atol=1e-8)


def test_integer_times_beyond_the_integers_of_float32():
    """Seconds since 1970 stand further apart in float32 than one second."""
    start = 1_700_000_001
    solution = pathline.solve(lambda t, y: torch.ones_like(y), torch.zeros(1), torch.tensor([start, start + 5]))
    assert solution.y1.item() == pytest.approx(5.0)


@pytest.mark.parametrize("method", ["tsit5", "rk4"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
@pytest.mark.parametrize("t", [[0.7], [0.7, 0.7], [0.7, 0.7, 0.7]], ids=len)
def test_a_zero_length_interval_returns_the_start(method, gradient, t):
    y0 = Y0.clone().requires_grad_()
    called = []

    def field(t, y):
        called.append(t)
        return spiral(t, y)

    times = torch.tensor(t, dtype=torch.float64)
    solution = pathline.solve(field, y0, times, method=method, gradient=gradient)
    assert solution.ys.shape == (len(t), 2)
    assert (solution.ys == Y0).all()
    assert solution.valid.all()
    assert solution.stats.steps == solution.stats.evaluations == len(called) == 0
    solution.ys.sum().backward()
    assert (y0.grad == len(t)).all()


@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_a_zero_length_interval_has_a_dense_output(method):
    solution = pathline.solve(spiral, Y0, (0.7, 0.7), method=method, save=pathline.Save(dense=True))
    assert torch.equal(solution(0.7), Y0)
    assert torch.isfinite(solution.derivative(0.7)).all()
    with pytest.raises(ValueError, match=r"known from t = 0\.7 to 0\.7; it was asked for t = 0\.8"):
        solution(0.8)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4"])
def test_equal_times_bring_equal_rows_and_each_carries_gradient(method, gradient):
    y0 = Y0.clone().requires_grad_()
    t = torch.tensor([0.0, 0.0, 0.4, 0.4, 0.4, 1.0, 1.0], dtype=torch.float64)
    options = TIGHT if method != "rk4" else {"dt": 0.01}
    ys = pathline.solve(spiral, y0, t, method=method, gradient=gradient, **options).ys
    assert torch.equal(ys[0], ys[1])
    assert torch.equal(ys[2], ys[3])
    assert torch.equal(ys[3], ys[4])
    assert torch.equal(ys[5], ys[6])
    once = torch.autograd.grad(ys[2].sum(), y0, retain_graph=True)[0]
    twice = torch.autograd.grad(ys[3].sum() + ys[4].sum(), y0, retain_graph=True)[0]
    torch.testing.assert_close(twice, 2 * once, rtol=1e-7, atol=1e-9)
    start = torch.autograd.grad(ys[1].sum(), y0, retain_graph=True)[0]
    torch.testing.assert_close(start, torch.ones_like(start))


def test_time_runs_backwards_when_the_times_do():
    t = torch.tensor([1.5, 1.0, 0.25, 0.0], dtype=torch.float64)
    start = exact(t[:1])[0]
    solution = pathline.solve(spiral, start, t, **TIGHT)
    torch.testing.assert_close(solution.ys, exact(t), rtol=0.0, atol=1e-8)
    assert solution.t1.item() == 0.0


@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_rows_at_the_ends_are_the_states_themselves(method):
    t = torch.tensor([0.1, 0.3, 0.7], dtype=torch.float32)
    solution = pathline.solve(spiral, Y0.float(), t, method=method)
    assert torch.equal(solution.ys[0], Y0.float())
    assert torch.equal(solution.ys[-1], solution.y1)
    assert torch.equal(solution.ts, t)


moments = st.lists(st.integers(-20, 20), min_size=1, max_size=8).map(sorted)


@settings(max_examples=30)
@given(moments, st.booleans(), st.sampled_from(["tsit5", "dopri5", "dopri8", "bosh3"]))
def test_rows_are_those_of_single_solves(grid, backwards, method):
    """Asking for more times changes no step, so every row is that of the same steps; and it solves the equation."""
    t = torch.tensor(grid[::-1] if backwards else grid, dtype=torch.float64) / 8
    options = {"rtol": 1e-7, "atol": 1e-9} if method == "bosh3" else TIGHT
    solution = pathline.solve(spiral, Y0, t, method=method, **options)
    assert solution.ys.shape == (len(t), 2)
    assert solution.valid.all()
    torch.testing.assert_close(solution.ys, exact(t - t[0]), rtol=1e-5, atol=3e-6 if method == "bosh3" else 1e-7)
    for i, end in enumerate(t):
        alone = pathline.solve(spiral, Y0, torch.stack((t[0], end)), method=method, **options).y1
        torch.testing.assert_close(solution.ys[i], alone, rtol=1e-5, atol=1e-5 if method == "bosh3" else 1e-7)


@settings(max_examples=30)
@given(moments, st.booleans(), st.sampled_from(["euler", "heun", "rk4"]))
def test_fixed_steps_walk_the_given_times(grid, backwards, method):
    t = torch.tensor(grid[::-1] if backwards else grid, dtype=torch.float64) / 8
    solution = pathline.solve(spiral, Y0, t, method=method)
    assert solution.stats.steps == len(set(grid)) - 1
    row, last = Y0, t[0]
    for i, end in enumerate(t):
        if end != last:
            row = pathline.solve(spiral, row, (last.item(), end.item()), method=method, dt=abs(end - last).item()).y1
        torch.testing.assert_close(solution.ys[i], row, rtol=1e-13, atol=1e-13)
        last = end


@settings(max_examples=30)
@given(st.floats(-3, 3), st.floats(0.05, 3.0), st.floats(0.01, 1.0), st.booleans())
def test_equal_steps_end_on_the_end_exactly(t0, span, dt, backwards):
    t1 = t0 - span if backwards else t0 + span
    steps = []
    hooks = pathline.Hooks(on_accept=lambda a, b, y, step: steps.append((a, b)))
    pathline.solve(spiral, Y0, (t0, t1), method="euler", dt=dt, hooks=hooks)
    assert steps[0][0] == t0
    assert steps[-1][1] == t1
    assert all(a[1] == b[0] for a, b in zip(steps, steps[1:], strict=False))
    lengths = [abs(b - a) for a, b in steps]
    assert max(lengths) <= dt * (1 + 2e-6)
    assert max(lengths) - min(lengths) <= 1e-12 * max(1.0, abs(t0), abs(t1))
    assert len(steps) == 1 or len(steps) - 1 < abs(t1 - t0) / dt
