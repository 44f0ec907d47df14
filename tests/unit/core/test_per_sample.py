"""A clock for each sample: times, shapes, tolerances, controllers, failures, records, gradients."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import pathline
from pathline import PID, BatchError, FixedStep, Hooks, PerSample, Save, Status

D = torch.float64
MODES = ["backprop", "checkpointed", "adjoint"]
TIGHT = {"rtol": 1e-9, "atol": 1e-11}
ENDS = torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=D)
Y0 = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 1.0], [1.0, 1.0]], dtype=D)

all_modes = pytest.mark.parametrize("gradient", MODES)


def decay(t, y):
    return -y


def solve(f=decay, y0=Y0, t=(0.0, 1.0), **options):
    return pathline.solve(f, y0, t, clock="per-sample", **options)


def decayed(t, y0=Y0):
    """The exact rows ``(n, batch, 2)`` at times ``(n, batch)``."""
    return y0 * torch.exp(-(t - t[0]))[..., None]


# --- times -------------------------------------------------------------------------------------------------------


def test_times_that_all_samples_share():
    t = torch.linspace(0.0, 1.0, 3, dtype=D)
    solution = solve(t=t, **TIGHT)
    assert solution.ts.shape == solution.valid.shape == (3, 4)
    assert solution.ys.shape == (3, 4, 2)
    assert solution.t1.tolist() == [1.0] * 4
    assert solution.valid.all()
    torch.testing.assert_close(solution.ys, decayed(solution.ts), rtol=1e-8, atol=0)


def test_times_of_each_samples_own():
    """Forwards, longer, backwards, and a sample that stays where it is."""
    t = torch.tensor([[0.0, 0.0, 1.0, 0.3], [0.25, 1.5, 0.2, 0.3], [0.5, 2.0, -0.5, 0.3]], dtype=D)
    solution = solve(t=t, **TIGHT)
    assert torch.equal(solution.ts, t)
    assert torch.equal(solution.t1, t[-1])
    torch.testing.assert_close(solution.ys, decayed(t), rtol=1e-8, atol=0)
    assert torch.equal(solution.ys[:, 3], Y0[3].expand(3, 2))
    assert torch.equal(solution.ys[-1], solution.y1)
    assert list(solution.status) == [Status.SUCCESS] * 4
    assert solution.stats.rows.accepted[3] == 0


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4", "kvaerno5", "bdf", "rodas5p"])
def test_forward_backward_and_resting_samples_for_every_kind_of_method(method):
    t = torch.tensor([[0.0, 1.0, 0.3, 0.0], [0.5, 0.4, 0.3, 1.0]], dtype=D)
    options = {"controller": FixedStep(0.02)} if method == "rk4" else {"rtol": 1e-7, "atol": 1e-9}
    solution = solve(t=t, method=method, save=Save(dense=True), **options)
    torch.testing.assert_close(solution.ys, decayed(t), rtol=1e-4, atol=0)
    torch.testing.assert_close(solution(t), solution.ys, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.derivative(t), -decayed(t), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "t",
    [
        (torch.zeros(4), ENDS),
        (0.0, ENDS),
        [torch.tensor(0.0), ENDS],
        (torch.zeros(4), torch.zeros(4), ENDS),
        torch.stack([torch.zeros(4, dtype=D), ENDS]),
        [[0.0] * 4, ENDS.tolist()],
    ],
    ids=["pair", "number", "list", "three", "tensor", "nested"],
)
def test_starts_and_ends(t):
    solution = solve(t=t, **TIGHT)
    assert solution.t1.tolist() == ENDS.tolist()
    torch.testing.assert_close(solution.y1, Y0 * torch.exp(-ENDS)[:, None], rtol=1e-8, atol=0)


@pytest.mark.parametrize("batch_first", [False, True])
def test_ragged_times(batch_first):
    t = [torch.tensor([0.0]), torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])]
    solution = solve(t=t, batch_first=batch_first, **TIGHT)
    ts, ys, valid = solution.ts, solution.ys, solution.valid
    assert ts.shape == valid.shape == ((4, 3) if batch_first else (3, 4))
    assert ys.shape == (*ts.shape, 2)
    if not batch_first:
        ts, ys, valid = ts.T, ys.transpose(0, 1), valid.T
    assert valid.sum(1).tolist() == [1, 3, 2, 2]
    for i, times in enumerate(t):
        n = len(times)
        assert ts[i].tolist() == times.tolist() + [times[-1].item()] * (3 - n)  # filled up with the last
        exact = Y0[i] * torch.exp(-(times - times[0]).double())[:, None]
        torch.testing.assert_close(ys[i, :n], exact, rtol=1e-8, atol=0)
        assert torch.equal(ys[i, n:], ys[i, n - 1].expand(3 - n, 2))
    squares = solution.masked_mean(solution.ys.square().sum(-1))
    assert squares.item() == pytest.approx(ys.square().sum(-1)[valid].mean().item())


def test_batch_first_turns_all_of_them():
    t = torch.tensor([[0.0, 0.5], [0.0, 2.0], [1.0, 0.0], [0.3, 0.3]], dtype=D)
    turned, plain = solve(t=t, batch_first=True), solve(t=t.T)
    assert torch.equal(turned.ts, t)
    assert torch.equal(turned.ys, plain.ys.transpose(0, 1))
    assert torch.equal(turned.valid, plain.valid.T)
    assert torch.equal(turned.y1, plain.y1)


@pytest.mark.parametrize(
    ("t", "error", "message"),
    [
        (torch.zeros(4, 3), ValueError, r"`t` has shape \(4, 3\) for 4 samples.* Pass t\.T, or batch_first=True"),
        (torch.zeros(3, 5), ValueError, r"`t` has shape \(3, 5\) for 4 samples.* Pass \(n,\) for all samples, or"),
        (torch.zeros(0, 4), ValueError, r"`t` has shape \(0, 4\)"),
        (torch.zeros(2, 4, 1), ValueError, r"`t` has shape \(2, 4, 1\)"),
        (torch.tensor([[0.0] * 4, [1.0, 1.0, math.nan, 1.0]]), ValueError, "`t` is finite; it holds NaN or infinite"),
        (
            torch.tensor([[0.0] * 4, [1.0, 1.0, -1.0, 1.0], [2.0] * 4]),
            ValueError,
            r"`t` is monotone for every sample; that of sample 2 goes from 0 to -1 at index 1\. Sort it",
        ),
        (torch.zeros(2, 4, dtype=torch.bool), TypeError, r"`t` is real; it has dtype torch\.bool"),
        (
            [torch.zeros(4), ENDS],
            ValueError,
            r"as a list has one 1-d tensor .* 4 samples; it has 2 .* tuple \(t0, t1\)",
        ),
        ([torch.zeros(0)] + [torch.zeros(2)] * 3, ValueError, r"of at least one time .* of lengths \[0, 2, 2, 2\]"),
        ((torch.zeros(3), torch.ones(3)), ValueError, r"`t` as a pair holds numbers or tensors of one time for each"),
        (1.0, TypeError, r"`t` is a tensor of times, or \(t0, t1\); it is 1\.0"),
        ("ab", TypeError, r"`t` is a tensor of times, or \(t0, t1\); it is 'ab'"),
    ],
    ids=range(12),
)
def test_times_that_are_none(t, error, message):
    with pytest.raises(error, match=message):
        solve(t=t)


def test_a_state_without_a_batch():
    for y0 in (torch.tensor(1.0), {"a": torch.zeros(2), "b": torch.zeros(3)}):
        with pytest.raises(ValueError, match=r'clock="per-sample" gives each entry of the first dimension .*unsqueeze'):
            pathline.solve(lambda t, y: y, y0, (0.0, 1.0), clock="per-sample")


@all_modes
@pytest.mark.parametrize("save", [Save(), Save(steps=True), Save(dense=True)], ids=["rows", "steps", "dense"])
def test_a_batch_of_none(save, gradient):
    y0 = torch.ones(0, 2, dtype=D, requires_grad=True)
    solution = solve(y0=y0, t=torch.linspace(0, 1, 3), save=save, gradient=gradient)
    assert solution.ys.shape == (3, 0, 2)
    assert solution.y1.shape == (0, 2)
    assert solution.t1.shape == (0,)
    assert bool(solution.status)
    assert len(solution.status) == 0
    assert "success" in repr(solution)
    (g,) = torch.autograd.grad(solution.ys.sum(), y0)
    assert g.shape == (0, 2)
    if save.dense:
        assert solution(0.5).shape == (0, 2)


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3", "rk4"])
def test_a_batch_of_one_is_the_shared_clock(method):
    t = torch.linspace(0.0, 3.0, 4, dtype=D)
    f = lambda t, y: torch.cos(3 * t) * y  # noqa: E731
    one, shared = solve(f, Y0[:1], t, method=method), pathline.solve(f, Y0[:1], t, method=method)
    assert one.stats.rows.accepted.tolist() == [shared.stats.accepted]
    assert one.stats.rows.rejected.tolist() == [shared.stats.rejected]
    torch.testing.assert_close(one.ys, shared.ys, rtol=1e-12, atol=1e-13)


# --- what the field receives -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y0", "shape"),
    [
        (torch.ones(3), (3,)),
        (torch.ones(3, 2), (3, 1)),
        (torch.ones(3, 2, 4), (3, 1, 1)),
        ((torch.ones(3, 2), torch.ones(3)), (3,)),
        ({"a": torch.ones(3, 2, 2)}, (3,)),
    ],
    ids=["()", "(2,)", "(2, 4)", "tuple", "dict"],
)
def test_the_time_has_one_entry_for_each_sample(y0, shape):
    seen = set()

    def field(t, y):
        seen.add((tuple(t.shape), t.dtype))
        channels = [leaf for leaf in pytree.tree_leaves(y) if leaf.dim() > 1]
        assert all(pathline.time_like(t, leaf).shape == (*leaf.shape[:-1], 1) for leaf in channels)
        return pytree.tree_map(torch.neg, y)

    solution = pathline.solve(field, y0, (0.0, 1.0), clock="per-sample")
    assert seen == {(shape, torch.float32)}
    assert bool(solution.status)


def test_a_time_channel_is_each_samples_own():
    t = torch.tensor([0.5, 2.0])
    for leaf in (torch.zeros(2, 3), torch.zeros(2, 4, 3)):
        for time in (t, t.reshape(2, *[1] * (leaf.dim() - 1))):
            channel = pathline.time_like(time, leaf)
            assert channel.shape == (*leaf.shape[:-1], 1)
            assert (channel[0] == 0.5).all()
            assert (channel[1] == 2.0).all()


def test_a_non_autonomous_field_has_each_samples_own_time():
    t = torch.tensor([[0.0, 1.0], [2.0, 0.0]], dtype=D)
    y1 = solve(lambda t, y: 2 * t * torch.ones_like(y), torch.zeros(2, 3, dtype=D), t, **TIGHT).y1
    torch.testing.assert_close(y1, torch.tensor([[4.0], [-1.0]], dtype=D).expand(2, 3), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4"])
def test_dtypes(dtype, method):
    seen = set()

    def field(t, y):
        seen.add((t.dtype, y.dtype))
        return -y if not y.is_complex() else -1j * y

    t = torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 0.6]])
    options = {"controller": FixedStep(0.05)} if method == "rk4" else {}
    solution = pathline.solve(field, torch.ones(2, 1, dtype=dtype), t, method=method, clock="per-sample", **options)
    assert solution.ys.dtype == solution.y1.dtype == dtype
    assert {x for x, _ in seen} == {torch.float64 if dtype == torch.complex128 else torch.float32}
    rate = -1j if dtype.is_complex else -1.0
    exact = torch.exp(rate * t.to(torch.complex128 if dtype.is_complex else D))
    bar = 5e-2 if dtype == torch.bfloat16 else 1e-3
    torch.testing.assert_close(solution.ys[..., 0].to(exact.dtype), exact, rtol=bar, atol=bar)


# --- args --------------------------------------------------------------------------------------------------------


def test_leaves_of_args_go_with_the_active_samples():
    rates = torch.tensor([[0.5], [1.0], [2.0], [4.0]], dtype=D)
    sizes = set()

    def field(t, y, args):
        sizes.add((len(y), len(args["own"]["rate"]), len(args["all"])))
        return -args["own"]["rate"] * y * args["all"].sum()

    args = {"own": PerSample({"rate": rates}), "all": torch.tensor([0.25, 0.75], dtype=D), "name": "x"}
    solution = solve(field, t=(torch.zeros(4), ENDS), args=args, **TIGHT)
    torch.testing.assert_close(solution.y1, Y0 * torch.exp(-rates * ENDS[:, None]), rtol=1e-8, atol=0)
    assert all(rows == own and shared == 2 for rows, own, shared in sizes)
    assert len({rows for rows, _, _ in sizes}) >= 3


def test_on_the_shared_clock_they_are_what_they_hold():
    rates = torch.tensor([[0.5], [1.0], [2.0], [4.0]], dtype=D)
    shared = pathline.solve(lambda t, y, a: -a * y, Y0, (0.0, 1.0), args=PerSample(rates), **TIGHT)
    torch.testing.assert_close(shared.y1, Y0 * torch.exp(-rates), rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("value", "came"), [(torch.ones(3, 1), r"\(3, 1\)"), (2.0, "float"), (torch.tensor(1.0), r"\(\)")], ids=str
)
def test_leaves_of_another_length_are_refused(value, came):
    with pytest.raises(
        ValueError, match=rf"`PerSample` holds tensors with one entry for each of the 4 .* holds {came}"
    ):
        solve(lambda t, y, a: -y, args={"x": [PerSample(value)]})


@all_modes
def test_gradients_to_leaves_of_each_samples_own(gradient):
    rates = torch.tensor([[0.5], [1.0], [2.0], [4.0]], dtype=D, requires_grad=True)
    common = torch.tensor(0.3, dtype=D, requires_grad=True)
    y0 = Y0.clone().requires_grad_()
    solution = solve(
        lambda t, y, a: -(a[0] + a[1]) * y, y0, (torch.zeros(4), ENDS), args=(PerSample(rates), common),
        gradient=gradient, **TIGHT,
    )  # fmt: skip
    found = torch.autograd.grad(solution.y1.sum(), (y0, rates, common))
    exact = Y0 * torch.exp(-(rates + common) * ENDS[:, None])
    truth = torch.autograd.grad((y0 * torch.exp(-(rates + common) * ENDS[:, None])).sum(), (y0, rates, common))
    torch.testing.assert_close(solution.y1, exact, rtol=1e-8, atol=0)
    for mine, true in zip(found, truth, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "mixes",
    [
        lambda t, y: y - y.mean(0, keepdim=True),
        lambda t, y: y.flip(0),
        lambda t, y: y[[2, 1, 0, 3]],
        lambda t, y: y[[0, 3, 2, 1]],
        lambda t, y: -y * y.norm(),
    ],
    ids=["mean", "flip", "swap 0 2", "swap 1 3", "norm"],
)
def test_a_field_that_mixes_samples_is_found(mixes):
    with pytest.raises(ValueError, match=r'`f` mixes samples: .* use clock="shared"'):
        solve(mixes, check_rows=True)


def test_a_field_that_mixes_none_passes():
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    for size in (0, 1, 3, 5):
        assert bool(solve(lambda t, y: net(y), torch.rand(size, 2), check_rows=True).status)
    assert bool(solve(lambda t, y, a: a * t * y, args=PerSample(Y0), check_rows=True).status)


# --- tolerances and controllers ----------------------------------------------------------------------------------


def test_tolerances_of_each_samples_own():
    """A sample with its own tolerance takes the steps that it takes alone."""
    y0, f = torch.ones(3, 2, dtype=D), lambda t, y: torch.cos(4 * t) * y
    rtol = torch.tensor([[1e-3], [1e-6], [1e-9]], dtype=D)
    together = solve(f, y0, (0.0, 3.0), rtol=rtol, atol=1e-12).stats.rows
    assert together.accepted.tolist() == sorted(together.accepted.tolist())
    assert together.accepted[2] > 3 * together.accepted[0]
    for i in range(3):
        alone = solve(f, y0[:1], (0.0, 3.0), rtol=rtol[i].item(), atol=1e-12).stats.rows
        assert (together.accepted[i], together.rejected[i]) == (alone.accepted[0], alone.rejected[0])


def test_tolerances_of_each_component():
    y0 = torch.ones(3, 2, dtype=D)
    f = lambda t, y: torch.stack((-y[:, 0], torch.cos(20 * t[:, 0])), 1)  # noqa: E731
    tight, loose = (solve(f, y0, rtol=0.0, atol=torch.tensor([1e-6, a])).stats.accepted for a in (1e-6, 1e3))
    assert loose < tight / 2
    state = {"a": y0, "b": torch.ones(3, dtype=D)}
    g = lambda t, y: {"a": -y["a"], "b": torch.cos(20 * t)}  # noqa: E731
    rows = {"a": torch.full((3, 1), 1e-6), "b": torch.tensor([1e-8, 1e-4, 1e3])}
    counts = solve(g, state, rtol=0.0, atol=rows).stats.rows.accepted.tolist()
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[2]
    with pytest.raises(ValueError, match=r"`rtol` of shape \(3,\) does not broadcast to the state's \(3, 2\)"):
        solve(decay, y0, rtol=torch.full((3,), 1e-3))


def test_first_steps_of_each_samples_own():
    first, least = {}, torch.tensor([1e-3, 1e-2, 5.0], dtype=D)

    def note(t0, t1, y):
        first.setdefault("length", (t1 - t0).tolist())

    y0 = torch.ones(3, 1, dtype=D)
    solve(decay, y0, (torch.zeros(3), torch.tensor([1.0, -1.0, 0.5])), controller=PID(first_step=least),
          hooks=Hooks(on_step=note))  # fmt: skip
    assert first["length"] == pytest.approx([1e-3, -1e-2, 0.5])
    with pytest.raises(ValueError, match=r"`first_step` is a number, or has one for each of the 4 samples"):
        solve(controller=PID(first_step=least))


def test_limits_of_steps():
    lengths = []
    hooks = Hooks(on_step=lambda t0, t1, y: lengths.extend((t1 - t0).abs().tolist()))
    solve(t=(torch.zeros(4), ENDS), controller=PID(max_step=0.1), hooks=hooks)
    assert max(lengths) <= 0.1 * (1 + 1e-12)
    f = lambda t, y: torch.cos(60 * t) * y  # noqa: E731
    solution = solve(f, t=(torch.zeros(4), ENDS), controller=PID(min_step=0.05), on_failure="return", **TIGHT)
    assert list(solution.status) == [Status.STEP_UNDERFLOW] * 3 + [Status.SUCCESS]
    forced = solve(f, t=(torch.zeros(4), ENDS), controller=PID(min_step=0.05, force_min_step=True), **TIGHT)
    assert bool(forced.status)
    assert forced.stats.rows.accepted[1] <= 41


@pytest.mark.parametrize("own", [False, True], ids=["for all", "each one's own"])
def test_times_that_must_be_hit(own):
    ends = {i: set() for i in range(4)}

    def note(t0, t1, y, step):
        for sample, t in zip(step.index.tolist(), t1.tolist(), strict=True):
            ends[sample].add(t)

    hits = torch.tensor([[0.3, 1.1, 0.7, 0.1], [0.1, 0.2, 0.9, 5.0]], dtype=D) if own else [0.3, 1.1]
    solve(t=(torch.zeros(4), ENDS), controller=PID(must_hit=hits), hooks=Hooks(on_accept=note))
    for i, end in enumerate(ENDS.tolist()):
        wanted = {t for t in (hits[:, i].tolist() if own else hits) if 0.0 < t < end}
        assert wanted <= ends[i]
        assert end == 0.0 or max(ends[i]) == end
    with pytest.raises(ValueError, match=r"Times to hit are `\(n,\)` for all samples or `\(n, batch\)`"):
        solve(controller=PID(must_hit=torch.zeros(2, 3)))


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "kvaerno5", "rodas5p"])
def test_each_samples_own_jump(method):
    """Every field sees its own side only, in both directions of time, and no step is rejected."""
    jump = torch.tensor([[0.3], [1.2], [0.7]], dtype=D)
    t = torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 0.2]], dtype=D)
    field = lambda t, y, jump: torch.where(t < jump, 1.0, -3.0).to(D) * torch.ones_like(y)  # noqa: E731
    controller = PID(jumps=jump.T)
    solution = solve(
        field, torch.zeros(3, 2, dtype=D), t, args=PerSample(jump), controller=controller, method=method,
        save=Save(dense=True),
    )  # fmt: skip
    exact = torch.tensor([0.3 - 2.1, 1.2 - 2.4, -(-3 * 0.3 + 0.5)], dtype=D)
    torch.testing.assert_close(solution.y1, exact[:, None].expand(3, 2), rtol=0, atol=1e-9)
    assert solution.stats.rows.rejected.tolist() == [0, 0, 0]
    before, after = solution.derivative(jump[:, 0], after=False)[:, 0], solution.derivative(jump[:, 0])[:, 0]
    torch.testing.assert_close(before, torch.tensor([1.0, 1.0, -3.0], dtype=D), rtol=0, atol=1e-8)
    torch.testing.assert_close(after, torch.tensor([-3.0, -3.0, 1.0], dtype=D), rtol=0, atol=1e-8)


def test_a_norm_of_the_users_own():
    y0 = {"a": torch.ones(3, 2, dtype=D), "b": torch.ones(3, dtype=D)}
    f = lambda t, y: {"a": -y["a"], "b": torch.cos(40 * t)}  # noqa: E731
    both = solve(f, y0)
    one = solve(f, y0, controller=PID(norm=lambda e: e["a"].abs().amax(1)))
    assert one.stats.accepted < both.stats.accepted / 2
    with pytest.raises(ValueError, match=r"`norm` returned shape \(\) for 3 samples\. .* one number for each sample"):
        solve(f, y0, controller=PID(norm=lambda e: e["a"].abs().max()))


def test_equal_steps_of_different_numbers():
    solution = solve(t=(torch.zeros(4), ENDS), method="rk4", dt=0.1)
    assert solution.stats.rows.accepted.tolist() == [5, 20, 10, 0]
    assert solution.stats.steps == 20
    torch.testing.assert_close(solution.y1, Y0 * torch.exp(-ENDS)[:, None], rtol=1e-4, atol=0)


def test_max_steps_are_those_of_each_sample():
    rates = PerSample(torch.tensor([[0.01], [30.0]], dtype=D))
    f = lambda t, y, a: -a * y  # noqa: E731
    solution = solve(f, Y0[:2], (0.0, 3.0), args=rates, max_steps=9, on_failure="return")
    assert list(solution.status) == [Status.SUCCESS, Status.MAX_STEPS]
    rows = solution.stats.rows
    assert (rows.accepted + rows.rejected)[1] == 9
    with pytest.raises(pathline.MaxStepsError, match=r"1 of 2 samples failed\. Sample 1 took `max_steps` steps"):
        solve(f, Y0[:2], (0.0, 3.0), args=rates, max_steps=9)


def test_hooks_see_the_active_samples_and_progress_their_sum():
    seen, heard = [], []

    def accepted(t0, t1, y, step):
        assert len(t0) == len(t1) == len(y) == len(step.index) == len(step.y1)
        assert step.coefficients().shape[1:] == y.shape
        seen.append(step.index.tolist())

    solution = solve(t=(torch.zeros(4), ENDS), hooks=Hooks(on_accept=accepted), progress=heard.append)
    counts = [sum(i in index for index in seen) for i in range(4)]
    assert counts == solution.stats.rows.accepted.tolist()
    assert counts[3] == 0
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1.0)


# --- what is kept ------------------------------------------------------------------------------------------------


@all_modes
def test_every_step_of_every_sample(gradient):
    y0 = Y0.clone().requires_grad_()
    solution = solve(y0=y0, t=(torch.zeros(4), ENDS), save=Save(steps=True), gradient=gradient, **TIGHT)
    n = (solution.stats.rows.accepted + 1).tolist()
    assert solution.valid.sum(0).tolist() == n
    assert solution.ts.shape == solution.valid.shape == (max(n), 4)
    for i in range(4):
        ts = solution.ts[:, i]
        assert ts[n[i] - 1 :].tolist() == [ENDS[i].item()] * (max(n) - n[i] + 1)
        assert (ts[: n[i]].diff() > 0).all()
        exact = Y0[i] * torch.exp(-ts)[:, None]
        torch.testing.assert_close(solution.ys[:, i].detach(), exact, rtol=1e-8, atol=0)
    (g,) = torch.autograd.grad(solution.masked_mean(solution.ys[..., 0]), y0)
    exact = torch.where(solution.valid, torch.exp(-solution.ts), 0.0).sum(0) / solution.valid.sum()
    torch.testing.assert_close(g[:, 0], exact, rtol=1e-6, atol=1e-9)


@all_modes
def test_the_dense_output_of_every_sample(gradient):
    y0 = Y0.clone().requires_grad_()
    t = torch.tensor([[0.0, 0.0, 1.0, 0.3], [0.5, 2.0, -0.5, 0.3]], dtype=D)
    solution = solve(y0=y0, t=t, save=Save(dense=True), gradient=gradient, **TIGHT)
    for shape in ((), (4,), (7, 4), (2, 3, 4)):
        part = torch.linspace(0.0, 1.0, max(1, math.prod(shape) // 4), dtype=D).reshape(*shape[:-1], 1)
        at = (t[0] + part * (t[1] - t[0])).reshape(shape) if shape else torch.tensor(0.3, dtype=D)
        if shape:
            values, slopes = solution(at), solution.derivative(at)
            exact = Y0 * torch.exp(-(at - t[0]))[..., None]
            assert values.shape == (*shape, 2)
            torch.testing.assert_close(values.detach(), exact, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(slopes.detach()[..., :3, :], -exact[..., :3, :], rtol=1e-3, atol=1e-3)
        else:
            assert solution(at).shape == solution(0.3).shape == (4, 2)
    if gradient != "adjoint":
        (g,) = torch.autograd.grad(solution(0.3).sum(), y0)
        exact = torch.exp(-(0.3 - t[0]))[:, None].expand(4, 2)
        torch.testing.assert_close(g, exact, rtol=1e-5, atol=1e-6)


def test_a_curve_asked_outside_or_in_another_shape():
    solution = solve(t=(torch.zeros(4), ENDS + 1), save=Save(dense=True))
    with pytest.raises(ValueError, match=r"The curve of sample 0 is known from t = 0 to 1\.5; it was asked for t = 2"):
        solution(2.0)
    with pytest.raises(ValueError, match=r"The curve of sample 3 is known from t = 0 to 1; it was asked for t = 1\.2"):
        solution(torch.tensor([0.0, 0.0, 0.0, 1.2]))
    with pytest.raises(ValueError, match=r"Times for 4 samples are a number or \(\.\.\., 4\).*t\.unsqueeze\(-1\)"):
        solution(torch.zeros(3))
    assert solution(torch.zeros(3, 1)).shape == (3, 4, 2)
    with pytest.raises(ValueError, match=r"was not kept\. Solve with save=pathline\.Save\(dense=True\)"):
        solve()(0.5)


@all_modes
def test_a_function_of_the_rows(gradient):
    y0 = Y0.clone().requires_grad_()
    fn = lambda t, y: {"sum": y.sum(-1), "ty": t * y}  # noqa: E731
    t = torch.tensor([[0.0] * 4, [0.3, 0.4, 0.5, 0.0], ENDS.tolist()], dtype=D)
    solution = solve(y0=y0, t=t, save=Save(fn=fn), gradient=gradient, **TIGHT)
    exact = decayed(t)
    torch.testing.assert_close(solution.ys["sum"].detach(), exact.sum(-1), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(solution.ys["ty"].detach(), t[..., None] * exact, rtol=1e-8, atol=1e-9)
    (g,) = torch.autograd.grad(solution.ys["sum"].sum(), y0)
    torch.testing.assert_close(g, torch.exp(-t).sum(0)[:, None].expand(4, 2), rtol=1e-6, atol=0)


def test_a_function_of_the_rows_keeps_the_samples_first():
    with pytest.raises(ValueError, match=r"`Save\(fn=\.\.\.\)` returned shape \(\) for 4 samples"):
        solve(save=Save(fn=lambda t, y: y.sum()))


# --- failures ----------------------------------------------------------------------------------------------------


def fates(t, y, a):
    """Sample 0 and 3 decay, 1 blows up at t = 1.25, the field of 2 is NaN after t = 0.6."""
    broken = torch.where(t > 0.6, math.nan, -y)
    return torch.where(a == 0, -y, torch.where(a == 1, y * y, broken))


KINDS = PerSample(torch.tensor([[0.0], [1.0], [2.0], [0.0]], dtype=D))
SPAN = torch.linspace(0.0, 2.0, 5, dtype=D)
STARTS = torch.tensor([[1.0], [0.8], [1.0], [1.0]], dtype=D)


@pytest.mark.parametrize("save", [Save(), Save(dense=True)], ids=["rows", "dense"])
@all_modes
def test_samples_that_fail_among_samples_that_finish(gradient, save):
    y0 = STARTS.clone().requires_grad_()
    solution = solve(fates, y0, SPAN, args=KINDS, on_failure="return", gradient=gradient, save=save, **TIGHT)
    assert list(solution.status) == [Status.SUCCESS, Status.STEP_UNDERFLOW, Status.NON_FINITE, Status.SUCCESS]
    assert not solution.status
    assert solution.status.failed == [1, 2]
    assert solution.status.value == "2 of 4 failed"
    assert "2 success" in repr(solution.status)
    assert "2 of 4 failed" in repr(solution)
    assert solution.t1.tolist() == pytest.approx([2.0, 1.25, 0.6, 2.0], abs=1e-4)
    assert solution.valid.sum(0).tolist() == [5, 3, 2, 5]
    assert torch.isfinite(solution.ys).all()
    good = solution.ys[:, [0, 3], 0].detach()
    torch.testing.assert_close(good, torch.exp(-SPAN)[:, None].expand(5, 2), rtol=1e-8, atol=0)
    for sample, text in ((1, "Sample 1 ran into a vanishing step size"), (2, "Sample 2 became infinite or NaN")):
        n = int(solution.valid[:, sample].sum())
        assert text in solution.message
        assert (solution.ys[n:, sample] == solution.ys[n - 1, sample]).all()
    (g,) = torch.autograd.grad(solution.masked_mean(solution.ys[..., 0]), y0)
    exact = torch.exp(-SPAN).sum() / 15
    torch.testing.assert_close(g[[0, 3], 0], exact.expand(2), rtol=1e-6, atol=0)
    blown = (1 / (1 - 0.8 * SPAN[:3]) ** 2).sum() / 15
    torch.testing.assert_close(g[1, 0], blown, rtol=1e-4, atol=0)
    torch.testing.assert_close(g[2, 0], torch.exp(-SPAN[:2]).sum() / 15, rtol=1e-6, atol=0)
    if save.dense:
        torch.testing.assert_close(solution(0.4)[[0, 3], 0].detach(), torch.full((2,), math.exp(-0.4), dtype=D))


def test_failures_of_several_kinds_are_one_error():
    with pytest.raises(BatchError, match=r"2 of 4 samples failed\. .* the others finished and are right") as caught:
        solve(fates, STARTS, SPAN, args=KINDS)
    again = pickle.loads(pickle.dumps(caught.value))
    assert list(again.solution.status) == list(caught.value.solution.status)
    one_kind = PerSample(torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=D))
    with pytest.raises(pathline.StepSizeUnderflow, match=r"Sample 1 \(and 1 more like it\) ran into a vanishing step"):
        solve(fates, STARTS, SPAN, args=one_kind)


def test_fixed_steps_that_overflow_end_their_sample_alone():
    solution = solve(fates, STARTS, SPAN, args=KINDS, method="rk4", dt=0.25, on_failure="return")
    assert list(solution.status) == [Status.SUCCESS, Status.NON_FINITE, Status.NON_FINITE, Status.SUCCESS]
    assert solution.valid.sum(0).tolist()[0] == solution.valid.sum(0).tolist()[3] == 5
    assert torch.isfinite(solution.ys).all()


def test_a_slope_that_only_a_row_needs_is_watched_too():
    """The last stage of an 8th-order step serves rows inside it alone; NaN there must not pass as success."""
    times = []
    note = lambda t, y: (times.append(t.flatten()[0].item()), -y)[1]  # noqa: E731
    options = {"method": "dopri8", "controller": PID(first_step=1.0), "rtol": 1e-1, "atol": 1e-1}
    t = torch.tensor([0.0, 0.5, 1.0], dtype=D)
    solve(note, Y0, t, **options)
    hole = times[-1]
    solution = solve(lambda t, y: torch.where(t == hole, math.nan, -y), Y0, t, on_failure="return", **options)
    assert list(solution.status) == [Status.NON_FINITE] * 4
    assert solution.valid.tolist() == [[True] * 4, [False] * 4, [False] * 4]
    assert torch.isfinite(solution.ys).all()


# --- counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "kvaerno3"])
def test_samples_cost_what_they_cost_alone(method):
    """The field is not evaluated for samples that are done; accepted steps are those of single runs."""
    rates = torch.tensor([[0.5], [20.0], [3.0], [1.0]], dtype=D)
    f = lambda t, y, a: -a * y  # noqa: E731
    solution = solve(f, t=(torch.zeros(4), ENDS), args=PerSample(rates), method=method)
    alone = [
        solve(f, Y0[i : i + 1], (0.0, ENDS[i].item()), args=PerSample(rates[i : i + 1]), method=method).stats
        for i in range(4)
    ]
    counts = solution.stats.rows
    assert counts.accepted.tolist() == [s.accepted for s in alone]
    assert counts.rejected.tolist() == [s.rejected for s in alone]
    assert counts.evaluations.sum() == pytest.approx(sum(int(s.rows.evaluations) for s in alone), rel=0.05, abs=4)


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3"])
def test_evaluations_are_counted_for_the_samples_that_they_were_made_for(method):
    rows = 0

    def counted(t, y, a):
        nonlocal rows
        rows += len(y)
        return -a * y

    rates = PerSample(torch.tensor([[0.5], [20.0], [3.0], [1.0]], dtype=D))
    solution = solve(counted, t=torch.stack([torch.zeros(4), ENDS / 3, ENDS]), args=rates, method=method)
    assert solution.stats.rows.evaluations.sum() == rows


# --- copies, modes, transforms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"])
def test_copies_of_a_solution(copied):
    y0 = {"a": torch.ones(3, 2, dtype=D), "b": torch.ones(3, dtype=D)}
    solution = solve(lambda t, y: {"a": -y["a"], "b": -y["b"]}, y0, save=Save(dense=True))
    other = copied(solution)
    assert list(other.status) == list(solution.status)
    assert torch.equal(other.ys["a"], solution.ys["a"])
    assert torch.equal(other(0.3)["b"], solution(0.3)["b"])
    assert torch.equal(other.stats.rows.accepted, solution.stats.rows.accepted)
    assert repr(other) == repr(solution)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@all_modes
def test_without_gradients(gradient, mode):
    y0 = Y0.clone().requires_grad_()
    with mode():
        solution = solve(y0=y0, t=(torch.zeros(4), ENDS), gradient=gradient)
    assert not solution.ys.requires_grad
    assert not solution.t1.requires_grad
    assert solution.stats.rows.accepted[3] == 0


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_second_derivatives(gradient):
    """y' = -a y^2: y = y0 / (1 + a y0 t); the Hessian against autograd through the closed form."""
    x = torch.tensor([0.7, 1.3], dtype=D, requires_grad=True)

    def value(x):
        y0 = x[0] * torch.tensor([[1.0], [2.0], [0.5], [1.0]], dtype=D)
        solution = solve(lambda t, y, a: -a * y**2, y0, (torch.zeros(4), ENDS), args=x[1], gradient=gradient, **TIGHT)
        return solution.y1.square().sum()

    def exact(x):
        y0 = x[0] * torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=D)
        return (y0 / (1 + x[1] * y0 * ENDS)).square().sum()

    (g,) = torch.autograd.grad(value(x), x, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(gi, x, retain_graph=True)[0] for gi in g])
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(exact, x.detach()), rtol=1e-6, atol=1e-7)


@all_modes
def test_functional_call_under_torch_func_grad(gradient):
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def loss(weights):
        field = lambda t, y: torch.func.functional_call(net, weights, y)  # noqa: E731
        return solve(field, t=(torch.zeros(4), ENDS), gradient=gradient, **TIGHT).y1.square().sum()

    found = torch.func.grad(loss)(weights)
    plain = solve(lambda t, y: net(y), t=(torch.zeros(4), ENDS), **TIGHT).y1.square().sum()
    truth = dict(zip(weights, torch.autograd.grad(plain, list(net.parameters())), strict=True))
    for name, g in found.items():
        torch.testing.assert_close(g, truth[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["tsit5", "rk4"])
@all_modes
def test_gradients_to_times_of_each_samples_own(gradient, method):
    """y' = -y: dL/dt of the rows, the ends and the start, in closed form."""
    t = torch.tensor([[0.0, 0.2, 1.0, 0.3], [0.3, 1.0, 0.4, 0.3], [0.5, 2.0, -0.5, 0.3]], dtype=D, requires_grad=True)
    options = {"controller": FixedStep(0.01)} if method == "rk4" else TIGHT
    solution = solve(t=t, gradient=gradient, method=method, **options)
    weights = torch.tensor([[0.3, 0.1, -1.0, 0.0], [0.7, -1.0, 0.5, 0.0], [1.0, 0.4, 2.0, 0.0]], dtype=D)
    (found,) = torch.autograd.grad((weights[..., None] * solution.ys).sum(), t)
    (truth,) = torch.autograd.grad((weights[..., None] * decayed(t)).sum(), t)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["bosh3", "tsit5", "dopri8", "bdf"])
def test_a_sample_whose_first_step_is_rejected_keeps_its_gradient(method):
    """Beside samples whose first step counts: what it began with comes from no step before it."""

    def gradients(gradient):
        y0 = torch.tensor([[1.0], [0.7], [0.4]], dtype=torch.float64, requires_grad=True)
        rate = torch.tensor([[0.1], [9.0], [40.0]], dtype=torch.float64, requires_grad=True)
        solution = pathline.solve(
            lambda t, y, rate: torch.cos(t) - rate * y,
            y0,
            (0.0, 1.0),
            args=pathline.PerSample(rate),
            method=method,
            gradient=gradient,
            clock="per-sample",
            controller=pathline.PID(first_step=0.05),
            rtol=1e-4,
            atol=1e-6,
        )
        assert solution.stats.rows.rejected.tolist() != [0, 0, 0]
        return torch.autograd.grad(solution.y1.square().sum(), (y0, rate))

    for found, truth in zip(gradients("checkpointed"), gradients("backprop"), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)
