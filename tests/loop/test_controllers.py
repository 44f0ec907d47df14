"""Which steps are taken: lengths, limits, stops, jumps, given grids."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pathline
from pathline import PID, FixedStep, Grid, Hooks, Save, StepSizeUnderflow

#: Adaptive methods that leave the choice of steps to the controller.
ADAPTIVE = [
    name for name, solver in pathline.METHODS.items() if solver.adaptive and not getattr(solver, "whole", False)
]


def steps_of(field, t, y0=None, **options):
    taken, refused = [], []
    hooks = Hooks(
        on_accept=lambda t0, t1, y, step: taken.append((t0, t1)),
        on_reject=lambda t0, t1, y, step: refused.append((t0, t1)),
    )
    y0 = torch.ones(2, dtype=torch.float64) if y0 is None else y0
    solution = pathline.solve(field, y0, t, hooks=hooks, **options)
    assert solution.stats.accepted == len(taken)
    assert solution.stats.rejected == len(refused)
    assert all(a[1] == b[0] for a, b in zip(taken, taken[1:], strict=False))
    return taken, refused, solution


def posed(method, field):
    """The field as the method wants it: halves of a sum for one that needs parts."""
    if pathline.METHODS[method].needs != "parts":
        return field
    half = lambda t, y: field(t, y) / 2  # noqa: E731
    return pathline.Sum(half, half)


def lengths(steps):
    return [abs(b - a) for a, b in steps]


def decay(t, y):
    return -y


def wiggle(t, y):
    return torch.cos(15 * t) * y


# --- lengths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [(0.0, 2.0), (2.0, 0.0)], ids=["forward", "backward"])
def test_the_first_step_can_be_given(t):
    taken, refused, _ = steps_of(decay, t, controller=PID(first_step=1e-3))
    assert lengths(taken)[0] == pytest.approx(1e-3)
    assert not refused


@pytest.mark.parametrize("t", [(0.0, 2.0), (2.0, 0.0)], ids=["forward", "backward"])
@pytest.mark.parametrize("first", [None, 1.5])
def test_no_step_is_longer_than_the_largest(t, first):
    taken, refused, _ = steps_of(decay, t, controller=PID(max_step=0.03, first_step=first))
    assert max(lengths(taken + refused)) <= 0.03 * (1 + 1e-12)
    assert len(taken) >= 66
    free, _, _ = steps_of(decay, t)
    assert len(free) < len(taken) / 2


def test_steps_never_fall_below_the_least_unless_forced():
    controller = PID(min_step=0.05, first_step=0.5)
    with pytest.raises(StepSizeUnderflow, match="The step size fell"):
        steps_of(lambda t, y: torch.cos(60 * t) * y, (0.0, 1.0), controller=controller, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("t", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward"])
def test_a_forced_least_step_counts_whatever_its_error(t):
    controller = PID(min_step=0.05, force_min_step=True)
    field = lambda t, y: torch.cos(60 * t) * y  # noqa: E731
    taken, _, solution = steps_of(field, t, controller=controller, rtol=1e-10, atol=1e-12)
    assert lengths(taken)[5:-1] == pytest.approx([0.05] * (len(taken) - 6))
    assert solution.status


def test_a_forced_least_step_does_not_swallow_nan():
    controller = PID(min_step=0.05, force_min_step=True)
    field = lambda t, y: y * (math.nan if t > 0.5 else 1.0)  # noqa: E731
    with pytest.raises(pathline.NonFiniteError):
        steps_of(field, (0.0, 1.0), controller=controller)


def test_factors_stay_within_their_limits():
    """Nothing to see at first: growth is limited by `grow`; then a cliff: shrinking by `shrink`."""
    field = lambda t, y: torch.exp(-(((t - 1.0) / 0.01) ** 2)) * 100 * torch.ones_like(y)  # noqa: E731
    controller = PID(first_step=1e-4, grow=3.0, shrink=0.5)
    taken, refused, _ = steps_of(field, (0.0, 2.0), controller=controller)
    sizes = lengths(taken)
    assert sizes[:6] == pytest.approx([1e-4 * 3**k for k in range(6)])
    assert max(b / a for a, b in zip(sizes, sizes[1:], strict=False)) <= 3.0 * 1.011
    assert refused
    tried = sorted(taken + refused, key=lambda s: (s[0], -s[1]))
    ratios = [(b[1] - b[0]) / (a[1] - a[0]) for a, b in zip(tried, tried[1:], strict=False) if a[0] == b[0]]
    assert min(ratios) >= 0.5 * (1 - 1e-9)


#: Methods that propose the change of a step themselves, or change their order.
OWN_STEPS = ("radau5", "bdf", "auto")


@pytest.mark.parametrize("gains", [(0.0, 1.0, 0.0), (0.4, 0.3, 0.0), (0.2, 0.4, 0.1)], ids=["I", "PI", "PID"])
@pytest.mark.parametrize("method", [m for m in ADAPTIVE if m not in OWN_STEPS])
def test_the_next_step_follows_the_formula(method, gains):
    """h' = h s r_n^(-(p+i+d)/k) r_(n-1)^((p+2d)/k) r_(n-2)^(-d/k), read off the norms of the error estimates.

    Implicit methods keep a step that would grow by little, and with it their factorisation.
    """
    solver = pathline.METHODS[method]
    norms, tried = [], []

    def norm(scaled):
        norms.append(float(scaled.square().mean().sqrt()))
        return norms[-1]

    def note(accepted):
        def hook(t0, t1, y, step):
            fine, *coarse = norms
            ratio = fine**2 / math.hypot(fine, 0.1 * coarse[0]) if coarse else fine
            tried.append((abs(t1 - t0), ratio, accepted, t1))
            norms.clear()

        return hook

    p, i, d = gains
    controller = PID(first_step=0.01, norm=norm, safety=0.6, shrink=0.01, grow=100.0, p=p, i=i, d=d)
    pathline.solve(
        posed(method, lambda t, y: torch.cos(t) * y),
        torch.ones(2, dtype=torch.float64),
        (0.0, 3.0),
        method=method,
        controller=controller,
        rtol=1e-5,
        atol=1e-7,
        hooks=Hooks(on_accept=note(True), on_reject=note(False)),
    )
    k, deadband = solver.embedded_order + 1, getattr(solver, "deadband", 1.0)
    before = last = 1.0
    checked = 0
    for n, ((h, ratio, accepted, _), (following, _, _, end)) in enumerate(zip(tried[:-2], tried[1:-1], strict=True)):
        if not accepted:
            continue
        if (n == 0 or tried[n - 1][2]) and end != 3.0:  # not right behind a rejected step, nor cut by the end
            factor = 0.6 * ratio ** (-(p + i + d) / k) * last ** ((p + 2 * d) / k) * before ** (-d / k)
            factor = 1.0 if 1.0 <= factor < deadband else factor
            assert following / h == pytest.approx(factor, rel=1e-6)
            checked += 1
        before, last = last, max(ratio, 1e-10)  # a step without error must not blow up the next ones
    assert checked >= 3


def test_a_norm_of_the_users_own_sees_the_structure():
    seen = []

    def norm(error):
        seen.append(error)
        return error["a"].abs().max()

    y0 = {"a": torch.ones(2, dtype=torch.float64), "b": torch.ones(3, dtype=torch.float64)}
    field = lambda t, y: {"a": -y["a"], "b": torch.cos(40 * t) * y["b"]}  # noqa: E731
    own, _, _ = steps_of(field, (0.0, 2.0), y0, controller=PID(norm=norm))
    both, _, _ = steps_of(field, (0.0, 2.0), y0)
    assert {tuple(e["b"].shape) for e in seen} == {(3,)}
    assert len(own) < len(both) / 2


@pytest.mark.parametrize("coefficients", [{"p": 0.4, "i": 0.3}, {"p": 0.3, "i": 0.3, "d": 0.1}], ids=["PI", "PID"])
def test_other_coefficients_give_other_steps_and_the_same_answer(coefficients):
    taken, _, solution = steps_of(wiggle, (0.0, 3.0), controller=PID(**coefficients), rtol=1e-8, atol=1e-10)
    plain, _, _ = steps_of(wiggle, (0.0, 3.0), rtol=1e-8, atol=1e-10)
    assert taken != plain
    truth = torch.exp(torch.sin(torch.tensor(45.0, dtype=torch.float64)) / 15).expand(2)
    torch.testing.assert_close(solution.y1, truth, rtol=1e-6, atol=0.0)


def test_no_step_after_a_rejected_one_grows():
    taken, refused, _ = steps_of(
        lambda t, y: torch.where(t > 1.0, 50.0, 0.0) * torch.ones_like(y), (0.0, 2.0), controller=PID(first_step=0.3)
    )
    assert refused
    retried = {a for a, _ in refused}
    sizes = {a: b - a for a, b in taken}
    for (a, b), (c, d) in zip(taken, taken[1:], strict=False):
        if a in retried and d != 2.0:
            assert d - c <= (b - a) * (1 + 1e-9)
    assert sizes


def test_the_end_is_met_without_a_sliver():
    """Within a hundredth of the end a step is stretched to it."""
    for t in ((0.0, 1.005), (1.005, 0.0)):
        taken, _, _ = steps_of(decay, t, controller=PID(first_step=1.0), rtol=1e-2, atol=1e-2)
        assert taken == [t]
        taken, _, _ = steps_of(decay, t, controller=PID(first_step=1.0, max_step=1.0), rtol=1e-2, atol=1e-2)
        assert lengths(taken) == pytest.approx([1.0, 0.005])  # the largest step is a promise


# --- times that must be hit --------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.integers(-100, 300).map(lambda k: k / 100), max_size=5), st.booleans(), st.booleans())
def test_stops_are_hit_exactly_and_none_outside(stops, backwards, as_tensor):
    t = (2.0, 0.0) if backwards else (0.0, 2.0)
    given_as = torch.tensor(stops, dtype=torch.float64) if as_tensor else stops
    taken, _, _ = steps_of(decay, t, controller=PID(must_hit=given_as))
    ends = {b for _, b in taken}
    inside = {s for s in stops if 0.0 < s < 2.0}
    assert inside <= ends
    assert taken[-1][1] == t[1]
    assert all(min(t) <= b <= max(t) for b in ends)


def test_the_step_before_a_stop_does_not_shorten_those_behind_it():
    free, _, _ = steps_of(decay, (0.0, 10.0), controller=PID(max_step=0.5))
    hit, _, _ = steps_of(decay, (0.0, 10.0), controller=PID(max_step=0.5, must_hit=[5.001]))
    assert len(hit) <= len(free) + 2


# --- jumps -------------------------------------------------------------------------------------------------------

CASES = [
    (torch.float64, 1.3),
    (torch.float32, 1.3),
    (torch.float32, 1.0),
    (torch.float32, 16777.3),
    (torch.bfloat16, 1.3),
]


@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize(("dtype", "jump"), CASES, ids=str)
def test_no_stage_sees_the_other_side_of_a_jump(dtype, jump, method, backwards):
    """During a step before the jump all times lie before it in the field's own dtype, and strictly so."""
    side = None
    wrong = []

    def on_step(t0, t1, y):
        nonlocal side
        side = "low" if max(t0, t1) <= jump else "high"
        assert not min(t0, t1) < jump < max(t0, t1)

    def field(t, y):
        if side is not None and ((side == "low") != (t.double().item() < jump) or t.double().item() == jump):
            wrong.append((side, t.item()))
        return torch.where(t < jump, -1.0, 2.0).to(y.dtype) * torch.ones_like(y)

    low, high = jump - 1.0, jump + 0.7
    t = (high, low) if backwards else (low, high)
    y0 = torch.zeros(2, dtype=dtype)
    options = {"rtol": 1e-3, "atol": 1e-3, "save": Save(dense=True), "hooks": Hooks(on_step=on_step)}
    times = torch.tensor([t[0], jump, t[1]], dtype=torch.float64)
    solution = pathline.solve(posed(method, field), y0, times, method=method, controller=PID(jumps=[jump]), **options)
    assert not wrong
    change = (2.0 * 0.7 - 1.0) * (-1 if backwards else 1)
    if dtype != torch.bfloat16 or not getattr(pathline.METHODS[method], "implicit", False):  # of large coefficients
        assert solution.y1[0].item() == pytest.approx(change, abs=2e-2 if dtype == torch.bfloat16 else 2e-3)
    if dtype != torch.bfloat16:  # whose rounding alone exceeds the tolerance now and then
        assert solution.stats.rejected == 0


@pytest.mark.parametrize("t", [(0.0, 2.0), (2.0, 0.0)], ids=["forward", "backward"])
def test_a_known_jump_is_exact_and_cheap_and_an_unknown_one_is_neither(t):
    sign = 1.0 if t[1] > t[0] else -1.0
    field = lambda t, y: torch.where(t < 0.7, 1.0, -3.0) * torch.ones_like(y)  # noqa: E731
    y0 = torch.zeros(1, dtype=torch.float64)
    _, refused, known = steps_of(field, t, y0, controller=PID(jumps=[0.7]))
    _, unknown_refused, unknown = steps_of(field, t, y0)
    assert not refused
    assert unknown_refused
    assert known.y1.item() == pytest.approx(sign * (0.7 - 3 * 1.3), abs=1e-12)
    assert known.stats.evaluations < unknown.stats.evaluations / 2


def test_the_dense_derivative_has_two_sides_at_a_jump():
    field = lambda t, y: torch.where(t < 0.5, 1.0, -3.0) * torch.ones_like(y)  # noqa: E731
    y0 = torch.zeros(1, dtype=torch.float64)
    solution = pathline.solve(field, y0, (0.0, 1.0), controller=PID(jumps=[0.5]), save=Save(dense=True))
    assert solution.derivative(0.5, after=False).item() == pytest.approx(1.0, abs=1e-9)
    assert solution.derivative(0.5).item() == pytest.approx(-3.0, abs=1e-9)
    assert solution(0.5).item() == pytest.approx(solution(0.5, after=False).item(), abs=1e-12)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
def test_gradients_across_a_jump(gradient):
    """y' = a y before the jump, b y behind it."""
    a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (-0.7, 0.4))
    field = lambda t, y: torch.where(t < 0.6, a, b) * y  # noqa: E731
    y0 = torch.ones(2, dtype=torch.float64)
    controller = PID(jumps=torch.tensor([0.6]).double())
    y1 = pathline.solve(field, y0, (0.0, 1.0), gradient=gradient, controller=controller, rtol=1e-9, atol=1e-11).y1
    g_a, g_b = torch.autograd.grad(y1.sum(), (a, b))
    end = 2 * math.exp(-0.7 * 0.6 + 0.4 * 0.4)
    assert g_a.item() == pytest.approx(0.6 * end, rel=1e-6)
    assert g_b.item() == pytest.approx(0.4 * end, rel=1e-6)


def test_two_jumps_next_to_each_other():
    field = lambda t, y: torch.where((t > 0.5) & (t < 0.5 + 1e-4), 1e4, 0.0) * torch.ones_like(y)  # noqa: E731
    y0 = torch.zeros(1, dtype=torch.float64)
    taken, refused, solution = steps_of(field, (0.0, 1.0), y0, controller=PID(jumps=[0.5, 0.5 + 1e-4]))
    assert solution.y1.item() == pytest.approx(1.0, rel=1e-9)
    assert not refused
    assert (0.5, 0.5 + 1e-4) in taken


# --- fixed steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "dt", "steps"), [((0.0, 1.0), 0.25, 4), ((0.0, 1.0), 0.3, 4), ((1.0, 0.0), 0.3, 4), ((0.0, 0.3), 0.1, 3)]
)
def test_equal_steps(span, dt, steps):
    taken, _, _ = steps_of(decay, span, method="rk4", dt=dt)
    assert len(taken) == steps
    assert taken[0][0] == span[0]
    assert taken[-1][1] == span[1]
    assert lengths(taken) == pytest.approx([abs(span[1] - span[0]) / steps] * steps)


def test_a_span_in_float32_makes_no_extra_step():
    for steps in (3, 7, 10, 30, 70):
        t = torch.tensor([0.0, steps * 0.1])
        assert pathline.solve(decay, torch.ones(1), t, method="euler", dt=0.1).stats.steps == steps


@pytest.mark.parametrize("method", ["euler", "rk4", "tsit5"])
def test_a_grid_is_walked_and_rows_lie_where_they_are_asked(method):
    grid = [0.0, 0.1, 0.35, 0.4, 1.0]
    t = torch.tensor([0.0, 0.2, 0.4, 1.0], dtype=torch.float64)
    for given_as in (grid, torch.tensor(grid, dtype=torch.float64)):
        taken, _, solution = steps_of(decay, t, method=method, controller=Grid(given_as))
        assert [a for a, _ in taken] + [taken[-1][1]] == grid
        tolerance = {"euler": 0.4, "rk4": 1e-2, "tsit5": 1e-3}[method]
        torch.testing.assert_close(solution.ys[:, 0], torch.exp(-t), rtol=tolerance, atol=0.0)


def test_a_grid_runs_backwards_too():
    taken, _, solution = steps_of(decay, (1.0, 0.0), method="rk4", controller=Grid([1.0, 0.6, 0.5, 0.0]))
    assert taken == [(1.0, 0.6), (0.6, 0.5), (0.5, 0.0)]
    assert solution.y1[0].item() == pytest.approx(math.e, rel=1e-3)


def test_fixed_step_object_is_dt():
    with_dt = pathline.solve(decay, torch.ones(2), (0.0, 1.0), method="heun", dt=0.3).y1
    with_controller = pathline.solve(decay, torch.ones(2), (0.0, 1.0), method="heun", controller=FixedStep(0.3)).y1
    assert torch.equal(with_dt, with_controller)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_an_adaptive_method_under_equal_steps_has_exact_gradients_to_its_times(gradient):
    """The end moves every step: compare with differences of the discrete map itself."""
    t = torch.tensor([0.1, 0.9], dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, dtype=torch.float64)
    field = lambda t, y: torch.cos(5 * t) * y  # noqa: E731
    options = {"method": "tsit5", "controller": FixedStep(0.33)}
    torch.autograd.gradcheck(lambda t: pathline.solve(field, y0, t, gradient=gradient, **options).y1, t)
