"""Events on both clocks: what fires, when, what is kept, and how all of it is differentiated."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import pathline
from pathline import PID, Event, FixedStep, Save, Status

D = torch.float64
CLOCKS = ["shared", "per-sample"]
MODES = ["backprop", "checkpointed", "adjoint"]
LINE = torch.linspace(0.0, 2.0, 5, dtype=D)
TIGHT = {"rtol": 1e-9, "atol": 1e-11}

both_clocks = pytest.mark.parametrize("clock", CLOCKS)
all_modes = pytest.mark.parametrize("gradient", MODES)


def climb(t, y):
    """y' = 1: the state is the time passed."""
    return torch.ones_like(y)


def height(level):
    """A crossing of one sample on either clock: one number, or one for each of the rows."""
    return lambda t, y: y.reshape(-1) - level


def run(clock, events, *, f=climb, y0=0.0, t=LINE, **options):
    """One sample with one component, so that both clocks return the same shapes but for the batch of times."""
    start = y0 if isinstance(y0, torch.Tensor) else torch.tensor([[y0]], dtype=D)
    return pathline.solve(f, start, t, events=events, clock=clock, **options)


def status_of(solution):
    return solution.status[0] if isinstance(solution.status, tuple) else solution.status


def times_of(record):
    return record.t.flatten().tolist()


# --- crossings ---------------------------------------------------------------------------------------------------


@both_clocks
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3", "kvaerno5", "bdf", "auto", "rodas5p"])
def test_a_terminal_crossing_ends_the_solve(method, clock):
    solution = run(clock, Event(crossing=height(0.7)), method=method)
    assert status_of(solution) is Status.EVENT
    assert bool(solution.status)
    assert solution.message == ""
    assert solution.t1.item() == pytest.approx(0.7, abs=1e-12)
    assert solution.y1.item() == pytest.approx(0.7, abs=1e-12)
    assert solution.valid.flatten().tolist() == [True, True, False, False, False]
    assert solution.ys.flatten().tolist() == pytest.approx([0.0, 0.5, 0.5, 0.5, 0.5])
    record = solution.events[0]
    assert record.t.shape == ((1,) if clock == "shared" else (1, 1))
    assert record.before.shape == record.after.shape == record.y.shape == (1, 1, 1)
    assert (int(record.count), bool(record.fired), record.valid.all().item()) == (1, True, True)
    assert times_of(record) == [solution.t1.item()]


@both_clocks
def test_an_event_that_never_fires_ends_at_the_end(clock):
    solution = run(clock, {"roof": Event(crossing=height(5.0))})
    assert status_of(solution) is Status.SUCCESS
    assert solution.t1.item() == 2.0
    assert solution.valid.all()
    record = solution.events["roof"]
    assert record.t.shape == ((0,) if clock == "shared" else (0, 1))
    assert record.before.shape == record.after.shape == (0, 1, 1)
    assert (int(record.count), bool(record.fired), record.valid.shape) == (0, False, record.t.shape)


@both_clocks
@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("direction", "fires"), [(0, True), (1, True), (-1, False)])
def test_the_direction_is_that_of_the_solve(direction, fires, backwards, clock):
    """Backwards in time the state falls from 0 to -2, so ``-y - 0.7`` rises along the way, whatever the sign of dt."""
    crossing = (lambda t, y: -y.reshape(-1) - 0.7) if backwards else height(0.7)
    event = Event(crossing=crossing, direction=direction)
    solution = run(clock, event, t=LINE.flip(0) if backwards else LINE)
    assert bool(solution.events[0].fired) is fires
    assert status_of(solution) is (Status.EVENT if fires else Status.SUCCESS)
    if fires:
        assert solution.t1.item() == pytest.approx(1.3 if backwards else 0.7, abs=1e-12)


@both_clocks
def test_a_root_at_the_start_counts_only_when_it_is_crossed_again(clock):
    assert status_of(run(clock, Event(crossing=height(0.0)))) is Status.SUCCESS
    again = run(clock, Event(crossing=lambda t, y: (y * (1 - y)).reshape(-1)))
    assert again.t1.item() == pytest.approx(1.0, abs=1e-9)
    assert int(again.events[0].count) == 1


@both_clocks
def test_a_crossing_that_stays_at_zero_never_fires(clock):
    assert status_of(run(clock, Event(crossing=lambda t, y: 0 * y.reshape(-1)))) is Status.SUCCESS


@both_clocks
def test_a_crossing_of_time_alone_and_of_the_state_alone(clock):
    when = run(clock, Event(crossing=lambda t, y: t.reshape(-1) - 0.3))
    assert when.t1.item() == pytest.approx(0.3, abs=1e-12)
    where = run(clock, Event(crossing=lambda y: y.reshape(-1) - 0.4))
    assert where.t1.item() == pytest.approx(0.4, abs=1e-12)


@both_clocks
def test_args_reach_crossing_and_reset(clock):
    event = Event(
        crossing=lambda t, y, args: y.reshape(-1) - args, terminal=False, reset=lambda t, y, args: y - 2 * args
    )
    solution = run(clock, event, f=lambda t, y, args: torch.ones_like(y), args=torch.tensor(0.7, dtype=D))
    assert times_of(solution.events[0]) == pytest.approx([0.7], abs=1e-12)
    assert solution.y1.item() == pytest.approx(0.6, abs=1e-12)


@both_clocks
def test_two_events_in_one_step_fire_in_their_order(clock):
    a, b = (Event(crossing=height(level), terminal=False) for level in (0.8, 0.7))
    solution = run(clock, {"late": a, "early": b}, controller=PID(first_step=2.0))
    assert times_of(solution.events["early"]) == pytest.approx([0.7], abs=1e-12)
    assert times_of(solution.events["late"]) == pytest.approx([0.8], abs=1e-12)
    first = run(clock, [Event(crossing=height(0.8)), Event(crossing=height(0.7))], controller=PID(first_step=2.0))
    assert first.t1.item() == pytest.approx(0.7, abs=1e-12)
    assert [bool(first.events[i].fired) for i in (0, 1)] == [False, True]


@both_clocks
def test_simultaneous_events_happen_one_after_the_other_in_the_order_given(clock):
    add = Event(crossing=height(0.7), terminal=False, reset=lambda t, y: y + 1)
    double = Event(crossing=lambda t, y: 0.7 - y.reshape(-1), terminal=False, reset=lambda t, y: 2 * y)
    assert run(clock, [add, double]).y1.item() == pytest.approx(2 * (0.7 + 1) + 1.3, abs=1e-12)
    assert run(clock, [double, add]).y1.item() == pytest.approx(2 * 0.7 + 1 + 1.3, abs=1e-12)
    end = Event(crossing=height(0.7), reset=lambda t, y: y + 1)
    solution = run(clock, {"end": end, "double": double})
    assert solution.y1.item() == pytest.approx(3.4, abs=1e-12)  # both happen before the solve ends
    assert solution.events["double"].before.item() == pytest.approx(1.7, abs=1e-12)


@both_clocks
def test_two_roots_in_a_step_cancel_unless_the_step_is_bounded(clock):
    event = Event(crossing=lambda t, y: ((y - 0.7) * (y - 0.8)).reshape(-1), terminal=False)
    unseen = run(clock, event, controller=PID(first_step=2.0))
    assert int(unseen.events[0].count) == 0
    seen = run(clock, event, controller=PID(max_step=0.05))
    assert times_of(seen.events[0]) == pytest.approx([0.7, 0.8], abs=1e-12)


@both_clocks
def test_a_crossing_that_only_touches_zero_is_no_crossing(clock):
    solution = run(clock, Event(crossing=lambda t, y: (y.reshape(-1) - 0.7) ** 2))
    assert status_of(solution) is Status.SUCCESS


@both_clocks
def test_the_time_of_a_crossing_is_found_to_a_tolerance(clock):
    rough = run(clock, Event(crossing=lambda t, y: y.reshape(-1) ** 3 - 0.343, tolerance=0.1))
    exact = run(clock, Event(crossing=lambda t, y: y.reshape(-1) ** 3 - 0.343))
    assert abs(exact.t1.item() - 0.7) < 1e-12
    assert 1e-12 < abs(rough.t1.item() - 0.7) <= 0.1


@both_clocks
def test_rows_at_the_time_of_a_terminal_event_hold_the_state_behind_it(clock):
    event = Event(crossing=lambda t, y: t.reshape(-1) - 0.5, reset=lambda t, y: y + 10)
    solution = run(clock, event)
    assert solution.t1.item() == 0.5
    assert solution.ys.flatten()[1].item() == pytest.approx(10.5)
    assert solution.valid.flatten().tolist() == [True, True, False, False, False]


# --- resets ------------------------------------------------------------------------------------------------------


@both_clocks
@pytest.mark.parametrize("t", [LINE, LINE.flip(0)], ids=["forward", "backward"])
def test_a_reset_that_goes_on(t, clock):
    """Integrate and fire: back to zero at 0.7, twice in a span of two."""
    sign = 1.0 if t[-1] > t[0] else -1.0
    event = Event(crossing=height(sign * 0.7), terminal=False, reset=lambda t, y: 0 * y)
    solution = run(clock, event, t=t)
    record = solution.events[0]
    assert [abs(x - t[0].item()) for x in times_of(record)] == pytest.approx([0.7, 1.4], abs=1e-11)
    assert record.before.flatten().tolist() == pytest.approx([0.7 * sign, 0.7 * sign], abs=1e-12)
    assert record.after.flatten().tolist() == [0.0, 0.0]
    assert torch.equal(record.y, record.after)
    expected = [sign * x for x in (0.0, 0.5, 0.3, 0.1, 0.6)]
    assert solution.ys.flatten().tolist() == pytest.approx(expected, abs=1e-11)


@both_clocks
def test_a_reset_in_place_changes_no_record_of_before(clock):
    solution = run(clock, Event(at=[0.5, 1.3], reset=lambda t, y: y.add_(10)))
    assert solution.events[0].before.flatten().tolist() == pytest.approx([0.5, 11.3])
    assert solution.events[0].after.flatten().tolist() == pytest.approx([10.5, 21.3])
    assert solution.ys.flatten().tolist() == pytest.approx([0.0, 10.5, 11.0, 21.5, 22.0])


@both_clocks
def test_a_crossing_without_reset_that_goes_on_changes_nothing(clock):
    plain = run(clock, ())
    watched = run(clock, Event(crossing=height(0.7), terminal=False))
    assert int(watched.events[0].count) == 1
    torch.testing.assert_close(watched.ys, plain.ys, rtol=1e-12, atol=1e-12)


@both_clocks
@pytest.mark.parametrize(
    ("reset", "message"),
    [
        (lambda t, y: None, r"`reset` returned NoneType for a state of torch\.float64 \(1, 1\)"),
        (lambda t, y: y[:, :0], r"`reset` returned torch\.float64 \(1, 0\)"),
        (lambda t, y: y.float(), r"`reset` returned torch\.float32 \(1, 1\)"),
    ],
    ids=["none", "shape", "dtype"],
)
def test_a_reset_returns_the_state(reset, message, clock):
    with pytest.raises((TypeError, ValueError), match=message):
        run(clock, Event(at=[0.5], reset=reset))


@both_clocks
def test_a_reset_to_nan_is_a_failure_with_the_rows_before_it(clock):
    solution = run(clock, Event(at=[0.5], reset=lambda t, y: y * math.nan), on_failure="return")
    assert status_of(solution) is Status.NON_FINITE
    assert solution.valid.flatten().tolist() == [True, False, False, False, False]
    assert solution.ys.flatten().tolist() == [0.0] * 5
    with pytest.raises(pathline.NonFiniteError):
        run(clock, Event(at=[0.0], reset=lambda t, y: y * math.nan))


@both_clocks
def test_infinitely_many_events_in_finite_time_are_stopped(clock):
    """A reset to just below the threshold fires again at once."""
    event = Event(crossing=height(0.7), terminal=False, reset=lambda t, y: 0 * y + 0.7 - 1e-11)
    solution = run(clock, event, on_failure="return")
    assert status_of(solution) is Status.ZENO
    assert not solution.status
    assert "fires infinitely often" in solution.message
    assert solution.t1.item() == pytest.approx(0.7, abs=1e-6)
    assert solution.valid.flatten().tolist() == [True, True, False, False, False]
    with pytest.raises(pathline.ZenoError, match=r"fires infinitely often .*terminal=True"):
        run(clock, event)


def fall(t, y):
    return torch.stack((y[..., 1], torch.full_like(y[..., 1], -9.81)), -1)


@both_clocks
def test_a_bouncing_ball_comes_to_rest_with_a_clear_stop(clock):
    """Bounces at T (1 + 2 r + 2 r^2 + ...), which end at T (1 + r) / (1 - r)."""
    r = 0.5
    ground = Event(
        crossing=lambda t, y: y[..., 0].reshape(-1),
        direction=-1,
        terminal=False,
        reset=lambda t, y: y * torch.tensor([0.0, -r], dtype=D),
    )
    y0 = torch.tensor([[1.0, 0.0]], dtype=D)
    solution = run(clock, {"ground": ground}, f=fall, y0=y0, t=(0.0, 3.0), on_failure="return")
    first = math.sqrt(2 / 9.81)
    bounces = times_of(solution.events["ground"])
    exact = [first * (1 + 2 * sum(r**j for j in range(1, k + 1))) for k in range(len(bounces))]
    assert bounces[:12] == pytest.approx(exact[:12], abs=1e-9)
    assert status_of(solution) is Status.ZENO
    assert solution.t1.item() == pytest.approx(first * (1 + r) / (1 - r), abs=1e-6)
    fewer = run(clock, {"ground": ground}, f=fall, y0=y0, t=(0.0, 1.0))
    assert int(fewer.events["ground"].count) == sum(t < 1.0 for t in exact)


# --- given times -------------------------------------------------------------------------------------------------


@both_clocks
@pytest.mark.parametrize("t", [LINE, LINE.flip(0)], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ["tsit5", "rk4", "kvaerno3"])
def test_given_times_inside_the_span_are_hit_exactly(method, t, clock):
    """At the start, twice at once, unsorted, at the end, and none outside; rows there hold the value after."""
    sign = 1.0 if t[-1] > t[0] else -1.0
    at = [1.3, 0.5, 0.0, 0.5, 2.0, 7.0, -1.0]
    options = {"controller": FixedStep(0.1)} if method == "rk4" else {}
    solution = run(clock, Event(at=at, reset=lambda t, y: y + 10), t=t, method=method, **options)
    record = solution.events[0]
    order = sorted([x for x in at if 0.0 <= x <= 2.0], reverse=sign < 0)
    assert times_of(record) == order
    passed = [(abs(x - t[0].item()), sum((o - x) * sign <= 0 for o in order)) for x in t.tolist()]
    assert solution.ys.flatten().tolist() == pytest.approx([sign * x + 10 * n for x, n in passed], abs=1e-11)
    assert solution.y1.item() == solution.ys.flatten()[-1].item()
    assert solution.valid.all()
    assert status_of(solution) is Status.SUCCESS
    torch.testing.assert_close(record.after, record.before + 10)


@both_clocks
@pytest.mark.parametrize("when", [0.0, 1.3, 2.0])
def test_a_terminal_given_time(when, clock):
    solution = run(clock, Event(at=[when], terminal=True, reset=lambda t, y: y + 10))
    assert status_of(solution) is Status.EVENT
    assert solution.t1.item() == when
    assert solution.y1.item() == pytest.approx(10 + when)
    assert solution.valid.flatten().tolist() == [x <= when for x in LINE.tolist()]
    rows = [10 + x if x == when else x for x in LINE.tolist() if x <= when]
    assert solution.ys.flatten().tolist()[: len(rows)] == pytest.approx(rows)


@both_clocks
@pytest.mark.parametrize("at", [0.5, [0.5], torch.tensor([0.5]), torch.tensor(0.5), [torch.tensor(0.5)]], ids=str)
def test_kinds_of_given_times(at, clock):
    assert run(clock, Event(at=at, reset=lambda t, y: y + 10)).y1.item() == pytest.approx(12.0)


@both_clocks
def test_no_given_times_are_no_events(clock):
    solution = run(clock, Event(at=[], reset=lambda t, y: y + 10))
    assert solution.y1.item() == pytest.approx(2.0)
    assert int(solution.events[0].count) == 0


@both_clocks
def test_the_field_sees_its_own_side_of_a_given_time(clock):
    """A field that jumps at the event is integrated without a rejected step."""
    seen = []

    def field(t, y):
        seen.append(t.max().item())
        return torch.where(t < 0.7, 1.0, -3.0) * torch.ones_like(y)

    solution = run(clock, Event(at=[0.7]), f=field, t=torch.tensor([0.0, 2.0], dtype=D))
    assert solution.stats.rejected == 0
    assert solution.y1.item() == pytest.approx(0.7 - 3 * 1.3, abs=1e-9)
    assert 0.7 not in seen


def test_given_times_of_each_samples_own():
    y0 = torch.zeros(3, 1, dtype=D)
    dose = lambda t, y: y + 10  # noqa: E731
    columns = torch.tensor([[0.2, 0.4, math.inf], [1.0, math.inf, math.inf]], dtype=D)
    ragged = [torch.tensor([0.2, 1.0]), torch.tensor([0.4]), torch.tensor([])]
    for at in (columns, ragged):
        solution = pathline.solve(climb, y0, LINE, events=Event(at=at, reset=dose), clock="per-sample")
        record = solution.events[0]
        assert record.count.tolist() == [2, 1, 0]
        assert record.fired.tolist() == [True, True, False]
        assert record.valid.tolist() == [[True, True, False], [True, False, False]]
        torch.testing.assert_close(record.t[record.valid], torch.tensor([0.2, 0.4, 1.0], dtype=D), rtol=0, atol=1e-7)
        assert record.t[~record.valid].tolist() == [2.0] * 3  # the others repeat the end of the solve
        assert solution.y1.flatten().tolist() == pytest.approx([22.0, 12.0, 2.0])
        assert record.before.shape == record.after.shape == (2, 3, 1)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_an_event_is_one_or_the_other():
    with pytest.raises(ValueError, match="either `crossing`, a function, or `at`, times; pass one"):
        Event()
    with pytest.raises(ValueError, match="either `crossing`, a function, or `at`, times; pass one"):
        Event(crossing=lambda t, y: y, at=[1.0])
    with pytest.raises(TypeError, match=r"`crossing` is a function of \(t, y\)"):
        Event(crossing=0.5)
    with pytest.raises(TypeError, match=r"`reset` is a function of \(t, y\)"):
        Event(at=[1.0], reset=0.0)
    for direction in (2, "up", 0.5):
        with pytest.raises(ValueError, match=r"`direction` is \+1 \(rising\), -1 \(falling\) or 0"):
            Event(crossing=lambda t, y: y, direction=direction)
    with pytest.raises(ValueError, match="`tolerance` is a positive time"):
        Event(crossing=lambda t, y: y, tolerance=0.0)


def test_a_batch_of_crossings_is_refused_on_the_shared_clock():
    with pytest.raises(ValueError, match=r'returned shape \(3,\)\. On the shared clock it is one number.*"per-sample"'):
        pathline.solve(climb, torch.zeros(3, 1), LINE, events=Event(crossing=lambda t, y: y[:, 0] - 1))


@pytest.mark.parametrize("bad", [lambda t, y: y.sum() - 1, lambda t, y: y - 1, lambda t, y: 0.5], ids=["0-d", "2", "x"])
def test_one_number_a_sample_on_the_per_sample_clock(bad):
    with pytest.raises(ValueError, match=r"`crossing` returned .* for 3 samples\. .* one number for each"):
        pathline.solve(climb, torch.zeros(3, 2), LINE, events=Event(crossing=bad), clock="per-sample")


@both_clocks
def test_a_crossing_is_a_number_and_no_verdict(clock):
    with pytest.raises(TypeError, match=r"`crossing` returned torch\.bool\. .* y - 1, not y > 1"):
        run(clock, Event(crossing=lambda t, y: y.reshape(-1) > 0.5))
    with pytest.raises(ValueError, match="`crossing` returned NaN"):
        run(clock, Event(crossing=lambda t, y: torch.log(0.5 - y.reshape(-1))))


@both_clocks
def test_given_times_are_real_times(clock):
    with pytest.raises(TypeError, match=r"`at` is a tensor of times, or numbers; it is 'noon'"):
        run(clock, Event(at="noon"))
    with pytest.raises(TypeError, match=r"`at` is real; it has dtype torch\.complex64"):
        run(clock, Event(at=torch.tensor([1j])))
    with pytest.raises(ValueError, match="`at` .*NaN"):
        run(clock, Event(at=[math.nan]))


def test_given_times_have_the_shape_of_their_clock():
    with pytest.raises(ValueError, match=r'`at` has shape \(2, 1\)\. On the shared clock it is \(n,\).*"per-sample"'):
        run("shared", Event(at=torch.zeros(2, 1)))
    with pytest.raises(ValueError, match=r"`at` has shape \(2, 3\) for 1 samples"):
        run("per-sample", Event(at=torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="`at` as a list has one tensor for each of the 1 samples; it has 2"):
        run("per-sample", Event(at=[torch.zeros(1), torch.zeros(1)]))


def test_a_method_that_takes_the_span_in_one_step_sees_no_events():
    with pytest.raises(ValueError, match='"scipy" takes the whole span in one step and sees no events'):
        run("shared", Event(at=[1.0]), method="scipy")


# --- names, saving, states ---------------------------------------------------------------------------------------


@both_clocks
def test_names_of_events(clock):
    event = Event(crossing=height(0.7), terminal=False)
    assert list(run(clock, event).events) == [0]
    assert list(run(clock, [event, event]).events) == [0, 1]
    assert list(run(clock, (event,)).events) == [0]
    assert list(run(clock, {"b": event, "a": event}).events) == ["b", "a"]
    assert run(clock, ()).events == {}


@both_clocks
@all_modes
def test_saving_across_events(gradient, clock):
    """Every step: the state before each reset and the state behind it; a curve with two sides; a function of rows."""
    event = Event(crossing=height(0.7), terminal=False, reset=lambda t, y: 0 * y)
    y0 = torch.zeros(1, 1, dtype=D, requires_grad=True)
    options = {"y0": y0, "gradient": gradient}
    steps = run(clock, event, save=Save(steps=True), **options)
    ts, ys = steps.ts.flatten().tolist(), steps.ys.flatten().tolist()
    assert len(ts) == len(ys) == len(steps.valid)
    assert ts == sorted(ts)
    assert (ts[0], ts[-1]) == (0.0, 2.0)
    for when in (0.7, 1.4):
        here = [y for t, y in zip(ts, ys, strict=True) if abs(t - when) < 1e-9]
        assert here == pytest.approx([0.7, 0.0], abs=1e-9)
    dense = run(clock, event, save=Save(dense=True), **options)
    at = torch.tensor([0.0, 0.3, 0.69, 0.71, 1.0, 1.39, 1.41, 2.0], dtype=D)
    values = dense(at if clock == "shared" else at[:, None]).flatten()
    torch.testing.assert_close(values.detach(), at % 0.7, rtol=0, atol=1e-9)
    squares = run(clock, event, save=Save(fn=lambda t, y: {"y2": y**2}), **options)
    expected = [x**2 for x in (0.0, 0.5, 0.3, 0.1, 0.6)]
    assert squares.ys["y2"].flatten().tolist() == pytest.approx(expected, abs=1e-11)


@both_clocks
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forwards", "backwards"])
@pytest.mark.parametrize("when", [0.0, 0.7, 2.0], ids=["start", "inside", "end"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_rows_and_curve_have_one_side_at_a_jump(clock, sign, when, gradient):
    """The state behind it: rows that are asked for there, the curve, and the curve's last value."""
    event = Event(at=[sign * when], reset=lambda t, y: 10 * y)
    t = sign * torch.tensor([0.0, when, 2.0], dtype=D)
    y0 = torch.ones(1, 1, dtype=D, requires_grad=True)
    f = lambda t, y: y  # noqa: E731
    asked = {"save": Save(dense=True), "clock": clock, "gradient": gradient}
    solution = pathline.solve(f, y0, t, events=event, **asked, **TIGHT)
    exact = torch.where(t.abs() < when, 1.0, 10.0) * t.exp()
    places = t if clock == "shared" else t[:, None]
    torch.testing.assert_close(solution.ys.flatten(), exact, rtol=1e-8, atol=0.0)
    torch.testing.assert_close(solution(places).flatten(), exact, rtol=1e-8, atol=0.0)
    (slope,) = torch.autograd.grad(solution(places).sum(), y0)
    assert float(slope) == pytest.approx(float(exact.sum()), rel=1e-8)
    behind = solution.derivative(places).flatten()
    torch.testing.assert_close(behind, exact, rtol=1e-6, atol=0.0)
    if when:
        before = solution(sign * when, after=False)
        assert before.item() == pytest.approx(math.exp(sign * when), rel=1e-8)
        assert solution.derivative(sign * when, after=False).item() == pytest.approx(math.exp(sign * when), rel=1e-6)


@both_clocks
def test_the_curve_ends_behind_the_reset_that_ended_it(clock):
    solution = run(clock, Event(crossing=height(0.7), reset=lambda t, y: y - 5), save=Save(dense=True))
    assert solution.y1.item() == pytest.approx(-4.3, abs=1e-9)
    assert solution(solution.t1.double()).item() == pytest.approx(-4.3, abs=1e-9)
    assert solution(solution.t1.double(), after=False).item() == pytest.approx(0.7, abs=1e-9)
    assert solution(0.6).item() == pytest.approx(0.6, abs=1e-9)


@both_clocks
def test_structured_states(clock):
    f = lambda t, y: {"p": torch.ones_like(y["p"]), "q": -y["q"]}  # noqa: E731
    y0 = {"p": torch.zeros(1, 1, dtype=D), "q": torch.ones(1, 2, dtype=D)}
    event = Event(
        crossing=lambda t, y: y["p"].reshape(-1) - 0.7,
        terminal=False,
        reset=lambda t, y: {"p": 0 * y["p"], "q": y["q"] + 1},
    )
    solution = pathline.solve(f, y0, LINE, events=event, clock=clock, **TIGHT)
    record = solution.events[0]
    assert set(record.before) == set(record.after) == {"p", "q"}
    assert record.before["q"].shape == (2, 1, 2)
    q = math.exp(-0.7)
    assert record.before["q"][0].flatten().tolist() == pytest.approx([q, q], abs=1e-8)
    assert record.after["q"][0].flatten().tolist() == pytest.approx([q + 1, q + 1], abs=1e-8)
    with pytest.raises((TypeError, ValueError), match="`reset` returned"):
        pathline.solve(f, y0, LINE, events=Event(at=[0.5], reset=lambda t, y: y["p"]), clock=clock)


@both_clocks
def test_events_of_no_length(clock):
    here = torch.tensor([1.0, 1.0], dtype=D)
    assert status_of(run(clock, Event(crossing=height(0.0)), t=here)) is Status.SUCCESS
    solution = run(clock, Event(at=[1.0], reset=lambda t, y: y + 1), t=here)
    assert solution.ys.flatten().tolist() == [1.0, 1.0]
    assert times_of(solution.events[0]) == [1.0]


def test_no_samples_no_events():
    y0 = torch.zeros(0, 2, dtype=D)
    for event in (Event(crossing=lambda t, y: y[:, 0]), Event(at=[0.5], reset=lambda t, y: y + 1)):
        solution = pathline.solve(climb, y0, LINE, events=event, clock="per-sample")
        assert solution.ys.shape == (5, 0, 2)
        assert solution.events[0].t.shape == (0, 0)
        assert bool(solution.status)


def test_each_sample_has_its_own_events():
    """Ends at 0.45, never, 0.225; each row costs what it would cost alone."""
    speed = torch.tensor([[1.0], [0.1], [2.0]], dtype=D)
    f = lambda t, y, v: v * torch.ones_like(y)  # noqa: E731
    options = {"events": Event(crossing=lambda t, y: y[:, 0] - 0.45), "clock": "per-sample"}
    args = pathline.PerSample(speed)
    solution = pathline.solve(f, torch.zeros(3, 1, dtype=D), LINE, args=args, **options)
    assert list(solution.status) == [Status.EVENT, Status.SUCCESS, Status.EVENT]
    assert solution.t1.tolist() == pytest.approx([0.45, 2.0, 0.225])
    record = solution.events[0]
    assert record.count.tolist() == [1, 0, 1]
    assert record.valid.tolist() == [[True, False, True]]
    assert record.t[0].tolist() == pytest.approx([0.45, 2.0, 0.225])
    for i in range(3):
        one = slice(i, i + 1)
        alone = pathline.solve(f, torch.zeros(1, 1, dtype=D), LINE, args=pathline.PerSample(speed[one]), **options)
        assert solution.stats.rows.accepted[i] == alone.stats.rows.accepted[0]
        torch.testing.assert_close(solution.ys[:, one], alone.ys, rtol=1e-13, atol=1e-13)


@both_clocks
def test_a_crossing_at_a_given_time_or_a_jump_is_not_lost_between_its_sides(clock):
    dose = Event(at=[0.5], reset=lambda t, y: y + 1)
    cross = Event(crossing=lambda t, y: t.reshape(-1) - 0.5, terminal=False, reset=lambda t, y: y + 10)
    solution = run(clock, {"dose": dose, "cross": cross})
    assert solution.y1.item() == pytest.approx(13.0)
    assert times_of(solution.events["cross"]) == pytest.approx([0.5], abs=1e-12)
    stair = Event(crossing=lambda t, y: torch.where(t.reshape(-1) < 0.5, -1.0, 1.0).to(D), terminal=False)
    solution = run(clock, stair, controller=PID(jumps=[0.5]))
    assert times_of(solution.events[0]) == pytest.approx([0.5], abs=1e-9)


@both_clocks
def test_times_of_events_in_single_precision(clock):
    solution = run(clock, Event(crossing=height(0.7)), y0=torch.zeros(1, 1), t=LINE.float())
    assert solution.t1.dtype == solution.ts.dtype == torch.float32
    assert solution.events[0].t.dtype == torch.float64
    assert solution.t1.item() == pytest.approx(0.7, abs=1e-5)


@both_clocks
def test_max_steps_counts_all_stretches(clock):
    event = Event(crossing=height(0.1), terminal=False, reset=lambda t, y: 0 * y)
    solution = run(clock, event, max_steps=12, on_failure="return")
    assert status_of(solution) is Status.MAX_STEPS
    assert solution.stats.steps <= 12


# --- gradients ---------------------------------------------------------------------------------------------------


def differences(value, x, eps=1e-6):
    """Central differences of a number with respect to each element."""
    found = torch.zeros_like(x)
    for i in range(x.numel()):
        shift = torch.zeros_like(x).flatten()
        shift[i] = eps
        shift = shift.reshape(x.shape)
        with torch.no_grad():
            found.view(-1)[i] = (value(x + shift) - value(x - shift)) / (2 * eps)
    return found


def pulse(x, clock, gradient="backprop", **options):
    """Grow at a rate, fall back at a threshold, take a dose at a time: ``x`` is (y0, rate, level, reset, at, dose)."""
    y0, rate, level, low, when, dose = x
    fire = Event(
        crossing=lambda t, y, p: y.reshape(-1) - p["level"] - 0.1 * t.reshape(-1),
        terminal=False,
        reset=lambda t, y, p: p["low"] * y + 0.2 * t.reshape(-1, 1),
    )
    take = Event(at=when.reshape(1), reset=lambda t, y, p: y + p["dose"] * (1 + t.reshape(-1, 1)))
    return pathline.solve(
        lambda t, y, p: p["rate"] * (1 + 0.3 * t.reshape(-1, 1) + 0.2 * y),
        y0.reshape(1, 1),
        torch.tensor([0.0, 0.4, 2.0], dtype=D),
        args={"rate": rate, "level": level, "low": low, "dose": dose},
        events={"fire": fire, "take": take},
        clock=clock,
        gradient=gradient,
        **{"rtol": 1e-10, "atol": 1e-12, **options},
    )


X = torch.tensor([0.1, 1.1, 0.8, 0.3, 0.75, 0.05], dtype=D)


def summary(solution):
    record = solution.events["fire"]
    return solution.ys.square().sum() + record.t.sum() + (record.before * record.after).sum() + solution.y1.sum()


@functools.cache
def pulse_truth():
    return differences(lambda x: summary(pulse(x, "shared")), X)


@both_clocks
@all_modes
def test_gradients_of_times_and_states(gradient, clock):
    """To the start, the field, the crossing, the reset, the given time and the dose, against finite differences."""
    x = X.clone().requires_grad_()
    solution = pulse(x, clock, gradient)
    assert int(solution.events["fire"].count) == 6
    (found,) = torch.autograd.grad(summary(solution), x)
    torch.testing.assert_close(found, pulse_truth(), rtol=1e-6, atol=1e-6)


@both_clocks
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_gradients_of_fixed_steps_across_events(gradient, clock):
    """Exact ones of the discrete map: the steps that meet an event are a few of many."""
    options = {"method": "rk4", "controller": FixedStep(0.01), "rtol": None, "atol": None}
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(summary(pulse(x, clock, gradient, **options)), x)
    torch.testing.assert_close(found, pulse_truth(), rtol=1e-5, atol=1e-5)


@both_clocks
@all_modes
def test_the_gradient_of_a_terminal_event(gradient, clock):
    """y' = a, until y = level: t = (level - y0) / a."""
    y0, a, level = (torch.tensor(v, dtype=D, requires_grad=True) for v in (0.2, 1.5, 0.9))
    solution = run(
        clock,
        Event(crossing=lambda t, y, p: y.reshape(-1) - p[1]),
        f=lambda t, y, p: p[0] * torch.ones_like(y),
        y0=y0.reshape(1, 1),
        args=(a, level),
        gradient=gradient,
    )
    assert solution.t1.item() == pytest.approx(0.7 / 1.5)
    found = torch.autograd.grad(solution.t1.sum(), (y0, a, level), retain_graph=True)
    assert [g.item() for g in found] == pytest.approx([-1 / 1.5, -0.7 / 1.5**2, 1 / 1.5], abs=1e-9)
    found = torch.autograd.grad(solution.y1.sum(), (y0, a, level))
    assert [g.item() for g in found] == pytest.approx([0.0, 0.0, 1.0], abs=1e-9)


@both_clocks
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_second_derivatives_of_the_time_of_an_event(gradient, clock):
    """t = (level - y0) / a: all second derivatives in closed form."""
    x = torch.tensor([0.2, 1.5, 0.9], dtype=D, requires_grad=True)

    def when(x):
        return run(
            clock,
            Event(crossing=lambda t, y, p: y.reshape(-1) - p[2]),
            f=lambda t, y, p: p[1] * torch.ones_like(y),
            y0=x[0].reshape(1, 1),
            args=x,
            gradient=gradient,
        ).t1.sum()

    (g,) = torch.autograd.grad(when(x), x, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(gi, x, retain_graph=True)[0] for gi in g])
    a, gap = 1.5, 0.7
    exact = torch.tensor([[0.0, 1 / a**2, 0.0], [1 / a**2, 2 * gap / a**3, -1 / a**2], [0.0, -1 / a**2, 0.0]], dtype=D)
    torch.testing.assert_close(hessian, exact, rtol=1e-7, atol=1e-8)


@both_clocks
def test_torch_func_through_an_event(clock):
    def when(x):
        return run(
            clock,
            Event(crossing=lambda t, y, p: y.reshape(-1) - p[2]),
            f=lambda t, y, p: p[1] * torch.ones_like(y),
            y0=x[0].reshape(1, 1),
            args=x,
        ).t1.sum()

    g = torch.func.grad(when)(torch.tensor([0.2, 1.5, 0.9], dtype=D))
    torch.testing.assert_close(g, torch.tensor([-1 / 1.5, -0.7 / 1.5**2, 1 / 1.5], dtype=D), rtol=1e-8, atol=1e-8)


@all_modes
def test_gradients_to_given_times_of_each_samples_own(gradient):
    """y' = a y, a dose d at s: y1 = e^(a T) + d e^(a (T - s))."""
    at = torch.tensor([[0.3, 0.9], [1.2, math.inf]], dtype=D, requires_grad=True)
    d = torch.tensor(0.5, dtype=D, requires_grad=True)
    a = -0.7
    solution = pathline.solve(
        lambda t, y, d: a * y,
        torch.ones(2, 1, dtype=D),
        torch.tensor([0.0, 2.0], dtype=D),
        args=d,
        events=Event(at=at, reset=lambda t, y, d: y + d),
        clock="per-sample",
        gradient=gradient,
        **TIGHT,
    )
    assert solution.events[0].count.tolist() == [2, 1]
    g_at, g_d = torch.autograd.grad(solution.y1.sum(), (at, d))
    decay = torch.exp(a * (2.0 - at.detach()))
    finite = torch.isfinite(at.detach())
    torch.testing.assert_close(g_at[finite], (-a * 0.5 * decay)[finite], rtol=1e-6, atol=1e-7)
    assert (g_at[~finite] == 0).all()
    torch.testing.assert_close(g_d, decay[finite].sum(), rtol=1e-6, atol=1e-7)


@both_clocks
@all_modes
def test_rows_of_steps_stand_at_fixed_times(gradient, clock):
    """A dose d at s: the rows of ``Save(steps=True)`` stand where they are told, the last state and records move."""
    s = torch.tensor([0.5], dtype=D, requires_grad=True)
    event = Event(at=s, reset=lambda t, y: y + 0.5)
    options = {"f": lambda t, y: -0.7 * y, "y0": 1.0, "t": (0.0, 2.0), "save": Save(steps=True), **TIGHT}
    solution = run(clock, event, gradient=gradient, **options)
    (g,) = torch.autograd.grad(solution.y1.sum(), s, retain_graph=True)
    assert g.item() == pytest.approx(0.7 * 0.5 * math.exp(-0.7 * 1.5), abs=1e-8)
    (g,) = torch.autograd.grad(solution.events[0].before.sum(), s, retain_graph=True)
    assert g.item() == pytest.approx(-0.7 * math.exp(-0.35), abs=1e-8)
    (g,) = torch.autograd.grad(solution.ys.sum(), s)
    ts = solution.ts.flatten()
    behind = torch.arange(len(ts)) > int((ts < 0.5).sum())  # the state behind the dose stands at 0.5 a second time
    exact = (0.7 * 0.5 * torch.exp(-0.7 * (ts - 0.5)))[behind].sum()
    assert g.item() == pytest.approx(exact.item(), abs=1e-7)


@both_clocks
def test_given_times_in_a_list_keep_their_gradient(clock):
    s = torch.tensor(0.5, dtype=D, requires_grad=True)
    solution = run(clock, Event(at=[s], reset=lambda t, y: y + t.reshape(-1, 1) ** 2))
    (g,) = torch.autograd.grad(solution.y1.sum(), s)
    assert g.item() == pytest.approx(1.0)


@both_clocks
def test_a_grazing_event_has_no_derivative_and_says_so(clock):
    """y' = 0 where the time of the event would depend on y0."""
    y0 = torch.zeros(1, 1, dtype=D, requires_grad=True)
    event = Event(crossing=lambda t, y: torch.where(t.reshape(-1) < 0.5, -1.0, 1.0).to(D) + 0 * y.reshape(-1))
    with pytest.raises(ValueError, match="`crossing` grazes zero without passing through it, or depends on neither"):
        run(clock, event, y0=y0)
    with torch.no_grad():
        assert run(clock, event, y0=y0).t1.item() == pytest.approx(0.5, abs=1e-9)


@both_clocks
def test_without_gradients(clock):
    event = Event(crossing=height(0.7), terminal=False, reset=lambda t, y: 0 * y)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            solution = run(clock, event)
        assert times_of(solution.events[0]) == pytest.approx([0.7, 1.4])
        assert not solution.ys.requires_grad


@both_clocks
def test_the_curve_ends_where_the_solve_does_whatever_its_precision(clock):
    """The time at which a terminal event ends a solve comes rounded to the state's precision, and is the end all the same."""
    for k in range(1, 20):
        event = (
            Event(crossing=lambda t, y, k=k: (y - 0.05 * k).squeeze(-1), reset=lambda t, y: y - 5.0, terminal=True)
            if clock == "per-sample"
            else Event(crossing=lambda t, y, k=k: (y - 0.05 * k).squeeze(), reset=lambda t, y: y - 5.0, terminal=True)
        )
        solution = pathline.solve(
            lambda t, y: torch.ones_like(y), torch.zeros(1, 1), (0.0, 2.0), events=event, clock=clock,
            save=Save(dense=True),
        )  # fmt: skip
        assert torch.equal(solution(solution.t1).reshape(1, 1), solution.y1)


def test_a_state_where_no_rate_is_ends_a_curve():
    event = Event(crossing=lambda t, y: y.squeeze() - 1.0, reset=lambda t, y: y - 2.0, terminal=True)
    f = lambda t, y: torch.where(y < 0, torch.nan, torch.ones_like(y))  # noqa: E731
    solution = pathline.solve(f, torch.zeros(1, 1, dtype=D), (0.0, 2.0), events=event, save=Save(dense=True))
    torch.testing.assert_close(solution(solution.t1), solution.y1)
