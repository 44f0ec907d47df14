"""Events against closed forms and finite differences, on both clocks and in every gradient mode."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

import pathline
from pathline import Event, PerSample, Status
from pathline.testing import finite_difference

DOUBLE = torch.float64
MODES = ["backprop", "checkpointed", "adjoint"]
CLOCKS = ["shared", "per-sample"]
TIGHT = {"rtol": 1e-10, "atol": 1e-12}
G = 9.81


def tensor(*values):
    return torch.tensor(values, dtype=DOUBLE)


def on(clock, y0, **options):
    """One problem on either clock: a batch of one where each sample has its own."""
    return {"clock": clock, **TIGHT, **options}, (y0[None] if clock == "per-sample" else y0)


def alone(x, clock):
    """The only row of a batch of one, which is the second dimension behind the times."""
    return x[:, 0] if clock == "per-sample" else x


# --- a falling ball -------------------------------------------------------------------------------------------------------


def falling(t, y, g):
    return torch.stack((y[..., 1], torch.zeros_like(y[..., 1]) - g), -1)


def height(t, y):
    return y[..., 0]


def bounce(t, y, args=None):
    return torch.stack((torch.zeros_like(y[..., 0]), -0.5 * y[..., 1]), -1)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4"])
def test_the_floor_is_hit_where_it_is(method, gradient, clock):
    """t* = sqrt(2 h / g): time, speed and their derivatives with respect to the height and to gravity."""
    start, gravity = tensor(1.7, 0.0).requires_grad_(), tensor(G).squeeze().requires_grad_()
    options, y0 = on(clock, start, method=method, gradient=gradient)
    if method == "rk4":
        options = {k: v for k, v in options.items() if k not in TIGHT} | {"dt": 0.1}
    events = {"floor": Event(crossing=height, direction=-1)}
    solution = pathline.solve(falling, y0, (0.0, 5.0), args=gravity, events=events, **options)
    record = solution.events["floor"]
    t = alone(record.t, clock).squeeze()
    exact = torch.sqrt(2.0 * start[0] / gravity)
    assert t.item() == pytest.approx(exact.item(), rel=1e-12)
    assert solution.t1.item() == pytest.approx(exact.item(), rel=1e-12)
    y = solution.y1.reshape(2)
    assert y[0].item() == pytest.approx(0.0, abs=1e-10)
    assert y[1].item() == pytest.approx(-math.sqrt(2.0 * G * 1.7), rel=1e-12)
    inputs = (start, gravity)
    for found, truth in ((t, exact), (y[1], -torch.sqrt(2.0 * start[0] * gravity)), (solution.t1.sum(), exact)):
        came = torch.autograd.grad(found, inputs, retain_graph=True)
        want = torch.autograd.grad(truth, inputs, retain_graph=True)
        # the starting speed: t* = (v + sqrt(v^2 + 2 g h)) / g at v = 0
        slope = 1.0 / G if truth is exact else 0.0
        torch.testing.assert_close(came[0], tensor(float(want[0][0]), slope), rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(came[1], want[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("clock", CLOCKS)
def test_rows_behind_a_terminal_event_repeat_the_end(clock):
    options, y0 = on(clock, tensor(1.0, 0.0))
    t = torch.linspace(0.0, 1.0, 11, dtype=DOUBLE)
    solution = pathline.solve(falling, y0, t, args=G, events={"floor": Event(crossing=height)}, **options)
    end = math.sqrt(2.0 / G)
    reached = t <= end
    assert alone(solution.valid, clock).tolist() == reached.tolist()
    ys = alone(solution.ys, clock)
    torch.testing.assert_close(ys[reached][:, 0], 1.0 - 0.5 * G * t[reached] ** 2, rtol=1e-9, atol=1e-9)
    assert torch.equal(ys[~reached], ys[reached][-1:].expand(int((~reached).sum()), 2))
    status = solution.status if clock == "shared" else solution.status[0]
    assert status is Status.EVENT
    assert bool(status)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("gradient", MODES)
def test_a_bouncing_ball(gradient, clock):
    """Three bounces with restitution 1/2: t1 (1 + 1 + 1/2 + ...), and the state behind them in closed form."""
    options, y0 = on(clock, tensor(1.0, 0.0), gradient=gradient)
    events = {"floor": Event(crossing=height, direction=-1, terminal=False, reset=bounce)}
    first = math.sqrt(2.0 / G)
    impacts = tensor(first, 2.0 * first, 2.5 * first)
    end = 2.6 * first
    y0 = y0.clone().requires_grad_()
    solution = pathline.solve(falling, y0, (0.0, end), args=G, events=events, **options)
    record = solution.events["floor"]
    assert int(torch.as_tensor(record.count).sum()) == 3
    torch.testing.assert_close(alone(record.t, clock), impacts, rtol=1e-10, atol=0.0)
    before, after = alone(record.before, clock), alone(record.after, clock)
    torch.testing.assert_close(after[:, 1], -0.5 * before[:, 1], rtol=1e-14, atol=0.0)
    torch.testing.assert_close(before[:, 1], -math.sqrt(2.0 * G) * tensor(1.0, 0.5, 0.25), rtol=1e-9, atol=0.0)

    def height_at_end(h):
        t1 = torch.sqrt(2.0 * h / G)
        left, v = end - 2.5 * t1, G * t1 / 8.0
        return v * left - 0.5 * G * left**2

    h = tensor(1.0).squeeze().requires_grad_()
    final = solution.y1.reshape(2)[0]
    torch.testing.assert_close(final, height_at_end(h), rtol=1e-9, atol=1e-10)
    (found,) = torch.autograd.grad(final, y0, retain_graph=True)
    (truth,) = torch.autograd.grad(height_at_end(h), h)
    torch.testing.assert_close(found.reshape(2)[0], truth, rtol=1e-6, atol=1e-8)
    (found,) = torch.autograd.grad(alone(record.t, clock)[2], y0)
    torch.testing.assert_close(found.reshape(2)[0], 2.5 * tensor(0.5 * first).squeeze(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_ball_that_comes_to_rest_is_said_to(clock):
    """Bounces at t1 (3 - 2^(1-n)) pile up at 3 t1: the solve stops there and says why."""
    options, y0 = on(clock, tensor(1.0, 0.0))
    events = {"floor": Event(crossing=height, direction=-1, terminal=False, reset=bounce)}
    solution = pathline.solve(falling, y0, (0.0, 9.0), args=G, events=events, on_failure="return", **options)
    status = solution.status if clock == "shared" else solution.status[0]
    assert status is Status.ZENO
    assert solution.t1.item() == pytest.approx(3.0 * math.sqrt(2.0 / G), rel=1e-3)
    with pytest.raises(pathline.SolveError):
        pathline.solve(falling, y0, (0.0, 9.0), args=G, events=events, **options)


# --- integrate and fire ---------------------------------------------------------------------------------------------------


def leaky(t, v, args):
    return (args["current"] - v) / args["tau"]


def spikes(args, n):
    """Period tau log((I - v_reset) / (I - threshold)); the first from v = 0."""
    current, tau, threshold, low = args["current"], args["tau"], args["threshold"], args["low"]
    first = tau * torch.log(current / (current - threshold))
    period = tau * torch.log((current - low) / (current - threshold))
    return first + period * torch.arange(n, dtype=DOUBLE)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("gradient", MODES)
def test_integrate_and_fire(gradient, clock):
    """Spike times against the closed form, differentiated by the field, the crossing and the reset."""
    args = {
        name: torch.tensor(value, dtype=DOUBLE, requires_grad=True)
        for name, value in {"current": 2.0, "tau": 0.8, "threshold": 1.2, "low": -0.3}.items()
    }
    fire = Event(
        crossing=lambda t, v, a: v[..., 0] - a["threshold"],
        direction=1,
        terminal=False,
        reset=lambda t, v, a: a["low"].expand_as(v),
    )
    options, y0 = on(clock, tensor(0.0), gradient=gradient)
    solution = pathline.solve(leaky, y0, (0.0, 4.0), args=args, events={"spike": fire}, **options)
    times = alone(solution.events["spike"].t, clock)
    truth = spikes(args, len(times))
    assert truth[-1] < 4.0 < spikes(args, len(times) + 1)[-1]
    torch.testing.assert_close(times, truth, rtol=1e-9, atol=1e-10)
    weights = torch.linspace(1.0, 2.0, len(times), dtype=DOUBLE)
    end = args["current"] + (args["low"] - args["current"]) * torch.exp(-(4.0 - truth[-1]) / args["tau"])
    torch.testing.assert_close(solution.y1.sum(), end, rtol=1e-9, atol=1e-10)
    found = torch.autograd.grad((weights * times).sum() + 3.0 * solution.y1.sum(), list(args.values()))
    wanted = torch.autograd.grad((weights * truth).sum() + 3.0 * end, list(args.values()))
    for name, a, b in zip(args, found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"d/d{n}: {m}")


def test_neurons_fire_by_themselves():
    """A batch with currents of its own: other counts, other times, one clock each."""
    current = tensor(1.5, 2.0, 4.0, 1.0)
    args = {"current": PerSample(current[:, None]), "tau": tensor(0.8).squeeze()}
    fire = Event(crossing=lambda t, v, a: v[:, 0] - 1.2, direction=1, terminal=False, reset=lambda t, v, a: 0.0 * v)
    solution = pathline.solve(
        leaky, torch.zeros(4, 1, dtype=DOUBLE), (0.0, 3.0), args=args, events=[fire], clock="per-sample", **TIGHT
    )
    (record,) = solution.events.values()
    for i in range(4):
        one = {"current": current[i], "tau": args["tau"], "threshold": tensor(1.2)[0], "low": tensor(0.0)[0]}
        count = int(record.count[i])
        assert bool(record.fired[i]) == (count > 0) == (float(current[i]) > 1.2)
        assert int(record.valid[:, i].sum()) == count
        if count:
            torch.testing.assert_close(record.t[:count, i], spikes(one, count), rtol=1e-9, atol=1e-10)
            assert spikes(one, count + 1)[-1] > 3.0
    assert solution.status.value == "success"


# --- doses at given times -------------------------------------------------------------------------------------------------


def elimination(t, y, args):
    return -args["k"] * y


def dosed(args, y0, at, end):
    """y0 e^(-k T) + sum of dose e^(-k (T - t_i))."""
    return y0 * torch.exp(-args["k"] * end) + (args["dose"] * torch.exp(-args["k"] * (end - at))).sum()


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_doses(method, gradient, clock):
    """Values at and after the doses, and the gradient to their times, their size, the rate and the start."""
    args = {"k": tensor(0.7).squeeze().requires_grad_(), "dose": tensor(1.5).squeeze().requires_grad_()}
    at = tensor(0.5, 1.3, 2.0).requires_grad_()
    start = tensor(2.0).requires_grad_()
    options, y0 = on(clock, start, method=method, gradient=gradient)
    if method == "rk4":
        options = {k: v for k, v in options.items() if k not in TIGHT} | {"dt": 0.02}
    dose = Event(at=at, reset=lambda t, y, a: y + a["dose"])
    t = tensor(0.0, 0.5, 1.0, 2.0, 3.0)
    solution = pathline.solve(elimination, y0, t, args=args, events={"dose": dose}, **options)
    record = solution.events["dose"]
    assert alone(record.t, clock).tolist() == at.tolist()
    ys = alone(solution.ys, clock)[:, 0]
    truth = torch.stack([dosed(args, start[0], at[at <= s], s) for s in t])
    bound = 1e-8 if method == "tsit5" else 1e-7
    torch.testing.assert_close(ys, truth, rtol=bound, atol=bound)
    before, after = alone(record.before, clock), alone(record.after, clock)
    torch.testing.assert_close(after, before + args["dose"], rtol=1e-14, atol=1e-14)
    # the row at a dose is the value after it
    torch.testing.assert_close(ys[1], after[0, 0], rtol=1e-13, atol=1e-13)
    inputs = (*args.values(), at, start)
    # rows at the doses themselves move with neither: weigh the others
    weights = tensor(1.0, 0.0, 2.0, 0.0, 3.0)
    found = torch.autograd.grad((weights * ys).sum(), inputs)
    wanted = torch.autograd.grad((weights * truth).sum(), inputs)
    for name, a, b in zip(("k", "dose", "at", "y0"), found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"d/d{n}: {m}")


def test_doses_of_each_sample():
    """Times of each sample, ragged: a row alone gets the same."""
    args = {"k": PerSample(tensor(0.5, 1.0, 2.0)[:, None]), "dose": tensor(1.0).squeeze()}
    at = [tensor(0.5, 1.0), tensor(0.25), tensor(0.1, 0.2, 1.7)]
    event = Event(at=at, reset=lambda t, y, a: y + a["dose"])
    y0 = torch.ones(3, 1, dtype=DOUBLE)
    solution = pathline.solve(
        elimination, y0, (0.0, 2.0), args=args, events={"dose": event}, clock="per-sample", **TIGHT
    )
    record = solution.events["dose"]
    assert record.count.tolist() == [2, 1, 3]
    for i, k in enumerate((0.5, 1.0, 2.0)):
        one = {"k": tensor(k).squeeze(), "dose": args["dose"]}
        truth = dosed(one, tensor(1.0)[0], at[i], 2.0)
        torch.testing.assert_close(solution.y1[i, 0], truth, rtol=1e-9, atol=1e-10)
        assert record.t[: len(at[i]), i].tolist() == at[i].tolist()


# --- the general case, against finite differences --------------------------------------------------------------------------


def swing(t, y, args):
    q, p = y[..., 0], y[..., 1]
    return torch.stack((p, -args[0] * torch.sin(q) - 0.1 * p + 0.2 * torch.cos(args[1] * t.reshape(q.shape))), -1)


def past(t, y, args):
    return y[..., 0] - args[2] + 0.1 * torch.sin(t.reshape(y[..., 0].shape))


def kick(t, y, args):
    q, p = y[..., 0], y[..., 1]
    return torch.stack((q + 0.02 * p, args[3] * p + 0.05 * t.reshape(q.shape)), -1)


KICKS = Event(crossing=past, direction=-1, terminal=False, reset=kick)
PACKED = (1.0, 0.0, 1.3, 0.7, 0.05, 0.9, 2.6)


def pendulum_loss(packed, clock, gradient):
    """Of rows, times of events and states around them; `packed` holds the start, the parameters and a time."""
    y0, args, at = packed[:2], packed[2:6], packed[6:7]
    push = Event(at=at, reset=lambda t, y: y + torch.stack((0.0 * y[..., 0], 0.3 + 0.0 * y[..., 0]), -1))
    solution = pathline.solve(
        swing,
        y0[None] if clock == "per-sample" else y0,
        torch.linspace(0.0, 9.0, 5, dtype=DOUBLE),
        args=args,
        events={"kick": KICKS, "push": push},
        clock=clock,
        gradient=gradient,
        method="dopri8",
        rtol=1e-10,
        atol=1e-11,
    )
    record = solution.events["kick"]
    assert int(torch.as_tensor(record.count).sum()) >= 2
    return solution.ys.sin().sum() + record.t.sum() + record.before.cos().sum() + record.after.sin().sum()


@cache
def pendulum_slopes():
    return finite_difference(lambda x: pendulum_loss(x, "shared", "backprop"), tensor(*PACKED), step=2e-3)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("gradient", MODES)
def test_a_driven_pendulum_that_is_kicked_and_dosed(gradient, clock):
    """Crossings that move with time and parameters, resets that do too, a dose between: all derivatives."""
    packed = tensor(*PACKED).requires_grad_()
    (found,) = torch.autograd.grad(pendulum_loss(packed, clock, gradient), packed)
    torch.testing.assert_close(found, pendulum_slopes(), rtol=1e-5, atol=1e-5)


# --- corners --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", CLOCKS)
def test_an_event_that_never_fires_ends_at_t1(clock):
    options, y0 = on(clock, tensor(1.0))
    events = {"never": Event(crossing=lambda t, y: y[..., 0] + 1.0)}
    solution = pathline.solve(lambda t, y: -y, y0, (0.0, 1.0), events=events, **options)
    assert solution.t1.item() == 1.0
    assert not bool(torch.as_tensor(solution.events["never"].fired).any())
    assert solution.status.value == "success"


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("speed", [1.0, -1.0])
def test_a_crossing_at_the_start_does_not_fire_at_once(speed, clock):
    """y = sin(t) from its zero: the next one, at pi, fires."""
    options, y0 = on(clock, tensor(0.0, speed))
    events = {"zero": Event(crossing=height)}

    def circle(t, y):
        return torch.stack((y[..., 1], -y[..., 0]), -1)

    solution = pathline.solve(circle, y0, (0.0, 5.0), events=events, **options)
    assert solution.t1.item() == pytest.approx(math.pi, rel=1e-9)


@pytest.mark.parametrize("clock", CLOCKS)
def test_two_events_in_one_step_come_in_their_order(clock):
    """One long step over both marks: the nearer one first, and the farther one behind its reset."""
    options, y0 = on(clock, tensor(0.0))
    events = {
        "far": Event(crossing=lambda t, y: y[..., 0] - 0.7, terminal=False),
        "near": Event(crossing=lambda t, y: y[..., 0] - 0.4, terminal=False, reset=lambda t, y: y + 0.1),
    }
    solution = pathline.solve(lambda t, y: torch.ones_like(y), y0, (0.0, 1.0), events=events, **options)
    assert float(solution.events["near"].t.sum()) == pytest.approx(0.4, rel=1e-9)
    assert float(solution.events["far"].t.sum()) == pytest.approx(0.6, rel=1e-9)
    assert solution.y1.item() == pytest.approx(1.1, rel=1e-9)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("direction", [1, -1, 0])
def test_directions(direction, clock):
    """cos t from 0 to 7 falls through zero at pi/2 and rises at 3 pi/2."""
    options, y0 = on(clock, tensor(1.0, 0.0))
    events = {"zero": Event(crossing=height, direction=direction, terminal=False)}

    def circle(t, y):
        return torch.stack((-y[..., 1], y[..., 0]), -1)

    solution = pathline.solve(circle, y0, (0.0, 7.0), events=events, **options)
    wanted = {1: [1.5], -1: [0.5], 0: [0.5, 1.5]}[direction]
    found = alone(solution.events["zero"].t, clock)
    torch.testing.assert_close(found, math.pi * tensor(*wanted), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("clock", CLOCKS)
def test_max_step_bounds_what_a_step_can_jump_over(clock):
    """A bump above zero, 0.02 long, in a field so smooth that steps jump it: seen with steps of half of that."""
    options, y0 = on(clock, tensor(0.0))
    events = {"bump": Event(crossing=lambda t, y: 0.01**2 - (y[..., 0] - 5.0) ** 2)}

    def solve(**more):
        return pathline.solve(lambda t, y: torch.ones_like(y), y0, (0.0, 10.0), events=events, **options, **more)

    assert solve().t1.item() == 10.0
    seen = solve(controller=pathline.PID(max_step=0.01))
    assert seen.t1.item() == pytest.approx(4.99, rel=1e-9)


@pytest.mark.parametrize("clock", CLOCKS)
def test_backwards_in_time(clock):
    """From t = 2 down to 0 through y = 1 at t = 1."""
    options, y0 = on(clock, tensor(2.0))
    events = {"one": Event(crossing=lambda t, y: y[..., 0] - 1.0)}
    solution = pathline.solve(lambda t, y: torch.ones_like(y), y0, (2.0, 0.0), events=events, **options)
    assert solution.t1.item() == pytest.approx(1.0, rel=1e-10)


def test_a_batch_of_crossings_on_one_clock_is_refused():
    with pytest.raises(ValueError, match='clock="per-sample"'):
        pathline.solve(
            falling, torch.ones(3, 2, dtype=DOUBLE), (0.0, 1.0), args=G, events={"floor": Event(crossing=height)}
        )


def test_rows_end_by_themselves():
    """Balls from other heights: each ends at its own floor, or at the end of its time; gradients row by row."""
    heights = tensor(0.5, 1.0, 50.0).requires_grad_()
    y0 = torch.stack((heights, torch.zeros_like(heights)), -1)
    solution = pathline.solve(
        falling, y0, (0.0, 2.0), args=G, events={"floor": Event(crossing=height)}, clock="per-sample", **TIGHT
    )
    exact = torch.sqrt(2.0 * heights / G)
    assert solution.events["floor"].fired.tolist() == [True, True, False]
    torch.testing.assert_close(solution.t1, torch.where(exact < 2.0, exact, 2.0), rtol=1e-9, atol=0.0)
    (found,) = torch.autograd.grad(solution.t1.sum(), heights)
    (truth,) = torch.autograd.grad(exact[:2].sum(), heights)
    torch.testing.assert_close(found, truth, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", [m for m in ("radau5", "kvaerno5", "bdf", "rodas5p") if m in pathline.METHODS])
def test_stiff_methods_find_events_too(method):
    """A fast relaxation to a falling line: y = 1 - t + O(1e-6) crosses 1/2."""

    def relax(t, y):
        return -1e6 * (y - (1.0 - t))

    events = {"half": Event(crossing=lambda t, y: y[0] - 0.5, direction=-1)}
    solution = pathline.solve(relax, tensor(2.0), (0.0, 1.0), method=method, events=events, rtol=1e-6, atol=1e-8)
    assert solution.t1.item() == pytest.approx(0.5, abs=1e-5)
