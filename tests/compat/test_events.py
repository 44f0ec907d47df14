"""`event_fn` and `odeint_event` beside the installed original."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torchdiffeq as original

import pathline
from pathline.compat import torchdiffeq as ours

BOTH = pytest.mark.parametrize("lib", [ours, original], ids=["ours", "original"])
D = torch.float64
T = torch.tensor([0.0, 1.0], dtype=D)


class Falling(torch.nn.Module):
    """A stone above a floor whose height is learned."""

    def __init__(self):
        super().__init__()
        self.gravity = torch.nn.Parameter(torch.tensor(9.8, dtype=D))
        self.floor = torch.nn.Parameter(torch.tensor(0.2, dtype=D))

    def forward(self, t, y):
        return torch.stack([y[1], -self.gravity.expand(())])

    def event_fn(self, t, y):
        return y[0] - self.floor

    def time(self, height):
        """By hand: height - floor = g t^2 / 2."""
        return torch.sqrt(2.0 * (height - self.floor) / self.gravity)


METHODS = {
    "dopri5": {},
    "bosh3": {"rtol": 1e-6, "atol": 1e-8},
    "adaptive_heun": {"rtol": 1e-5, "atol": 1e-6},
    "rk4": {"options": {"step_size": 0.01, "interp": "cubic"}},
    "euler": {"options": {"step_size": 1e-3}},
    "midpoint": {"options": {"step_size": 1e-2}},
}


@BOTH
@pytest.mark.parametrize("method", METHODS)
def test_the_time_and_the_state_of_an_event(lib, method):
    if (lib, method) == (original, "bosh3"):
        method = "dopri5"  # its dense output is wrong by a third of the step here
    field, y0 = Falling(), torch.tensor([10.0, 0.0], dtype=D)
    event_t, ys = lib.odeint(field, y0, T, event_fn=field.event_fn, method=method, **METHODS[method])
    assert ys.shape == (2, 2)
    assert event_t.shape == ()
    assert event_t.dtype == D
    truth = field.time(10.0)
    bound = {"euler": 2e-3, "midpoint": 1e-4, "adaptive_heun": 1e-4}.get(method, 1e-6)
    torch.testing.assert_close(event_t, truth, rtol=bound, atol=0.0)
    torch.testing.assert_close(ys[0], y0)
    torch.testing.assert_close(
        ys[1], torch.stack([field.floor, -field.gravity * truth]), rtol=10 * bound, atol=10 * bound
    )


@BOTH
def test_against_the_direction_of_time(lib):
    y0 = torch.tensor([1.0], dtype=D)
    event_t, ys = lib.odeint(lambda t, y: -y, y0, -T, event_fn=lambda t, y: y[0] - 3.0)
    assert event_t.item() == pytest.approx(-math.log(3.0), abs=1e-7)
    assert ys[-1].item() == pytest.approx(3.0, abs=1e-6)
    event_t, _ = lib.odeint_event(lambda t, y: -y, y0, T[0], event_fn=lambda t, y: y[0] - 3.0, reverse_time=True)
    assert event_t.item() == pytest.approx(-math.log(3.0), abs=1e-7)


@BOTH
def test_the_first_of_several_crossings(lib):
    y0 = torch.tensor([1.0, 1.0], dtype=D)

    def event_fn(t, y):  # the second is negative at the start, and crosses first
        return torch.stack([y[0] - 0.2, 0.5 - y[1]])

    event_t, ys = lib.odeint(lambda t, y: -y, y0, T, event_fn=event_fn)
    assert event_t.item() == pytest.approx(math.log(2.0), abs=1e-7)
    torch.testing.assert_close(ys[-1], torch.full_like(y0, 0.5), rtol=1e-6, atol=1e-7)


@BOTH
def test_an_event_at_the_start(lib):
    y0 = torch.tensor([1.0], dtype=D)
    event_t, ys = lib.odeint(lambda t, y: -y, y0, T, event_fn=lambda t, y: y[0] - 1.0)
    assert event_t == 0.0
    assert torch.equal(ys, torch.stack([y0, y0]))


@BOTH
def test_a_tuple_state(lib):
    state = (torch.tensor([1.0], dtype=D), torch.zeros(2, 2, dtype=D))
    event_t, (a, b) = lib.odeint(
        lambda t, y: (-y[0], torch.ones_like(y[1])), state, T, event_fn=lambda t, y: y[1].max() - 0.7
    )
    assert event_t.item() == pytest.approx(0.7, abs=1e-7)
    assert a.shape == (2, 1)
    assert b.shape == (2, 2, 2)


@BOTH
def test_fixed_steps_need_a_step_size(lib):
    with pytest.raises(AssertionError, match="step_size"):
        lib.odeint(lambda t, y: -y, torch.ones(1), T, method="rk4", event_fn=lambda t, y: y[0] - 0.5)


@BOTH
def test_two_times_are_asked_for(lib):
    with pytest.raises(ValueError, match=r"len\(t\) == 2"):
        lib.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 0.5, 1.0]), event_fn=lambda t, y: y[0])


@pytest.mark.parametrize(
    ("method", "options"), [("dopri5", None), ("dopri5", {"max_num_steps": 50}), ("rk4", {"step_size": 0.1})]
)
def test_an_event_that_never_happens_is_an_error_with_advice(method, options, monkeypatch):
    """The original's fixed steps end too; its adaptive ones never do."""
    monkeypatch.setattr("pathline.compat._events.MOST", 70)
    most = 50 if options == {"max_num_steps": 50} else 70
    with pytest.raises(AssertionError, match=f"kept its sign over {most} steps") as caught:
        ours.odeint(
            lambda t, y: torch.cos(t) * y,
            torch.ones(1),
            T,
            method=method,
            options=options,
            event_fn=lambda t, y: y[0] + 1.0,
        )
    assert isinstance(caught.value, pathline.MaxStepsError)


def test_the_root_is_found_to_atol():
    counts = []
    for atol in (1e-2, 1e-9):
        calls = []

        def event_fn(t, y, calls=calls):
            calls.append(t)
            return torch.cos(y[0])

        t, _ = ours.odeint(
            lambda t, y: torch.ones_like(y),
            torch.zeros(1, dtype=D),
            T,
            event_fn=event_fn,
            atol=atol,
            options={"first_step": 3.0},
        )
        assert abs(t.item() - math.pi / 2) <= atol + 1e-12
        counts.append(len(calls))
    assert counts[0] < counts[1]


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
def test_gradients_of_time_and_state(interface):
    field = Falling()
    height = torch.tensor(10.0, dtype=D, requires_grad=True)
    t0 = torch.tensor([0.3], dtype=D, requires_grad=True)
    y0 = torch.stack([height, torch.zeros((), dtype=D)])
    inputs = [height, t0, field.gravity, field.floor]
    truth_t = t0[0] + field.time(height)
    truth_v = -field.gravity * field.time(height)
    options = {"event_fn": field.event_fn, "rtol": 1e-9, "atol": 1e-10}
    event_t, ys = ours.odeint_event(field, y0, t0, odeint_interface=getattr(ours, interface), **options)
    for found, truth in ((event_t, truth_t), (ys[-1, 1], truth_v), (event_t * ys[-1, 1], truth_t * truth_v)):
        a = torch.autograd.grad(found, inputs, retain_graph=True, allow_unused=True)
        b = torch.autograd.grad(truth, inputs, retain_graph=True, allow_unused=True)
        for x, y in zip(a, b, strict=True):
            zero = torch.zeros(1, dtype=D)
            x, y = (zero if z is None else z.reshape(1) for z in (x, y))
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    theirs_t, theirs = original.odeint_event(field, y0, t0, odeint_interface=getattr(original, interface), **options)
    a = torch.autograd.grad(event_t + ys[-1, 1], inputs[:3])
    b = torch.autograd.grad(theirs_t + theirs[-1, 1], inputs[:3])
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_the_parameters_of_the_event_receive_gradients():
    """A deliberate difference: the original's are None."""
    field = Falling()
    y0 = torch.tensor([10.0, 0.0], dtype=D)
    found = {}
    for lib in (ours, original):
        event_t, _ = lib.odeint_event(field, y0, T[0], event_fn=field.event_fn)
        found[lib] = torch.autograd.grad(event_t, field.floor, allow_unused=True)[0]
    assert found[original] is None
    truth = torch.autograd.grad(field.time(10.0), field.floor)[0]
    torch.testing.assert_close(found[ours], truth, rtol=1e-6, atol=0.0)


class Ball(torch.nn.Module):
    """A ball that bounces: each flight starts where and when the last one ended."""

    def __init__(self):
        super().__init__()
        self.gravity = torch.nn.Parameter(torch.tensor([9.8], dtype=D))
        self.log_radius = torch.nn.Parameter(torch.tensor([0.2], dtype=D).log())
        self.t0 = torch.nn.Parameter(torch.tensor([0.0], dtype=D))
        self.position = torch.nn.Parameter(torch.tensor([10.0], dtype=D))
        self.velocity = torch.nn.Parameter(torch.tensor([0.0], dtype=D))
        self.absorption = torch.nn.Parameter(torch.tensor([0.2], dtype=D))

    def forward(self, t, state):
        _position, velocity, log_radius = state
        return velocity, -self.gravity, torch.zeros_like(log_radius)

    def event_fn(self, t, state):
        return state[0] - torch.exp(state[2])

    def bounces(self, lib, interface, n):
        t0, state, times = self.t0, (self.position, self.velocity, self.log_radius), []
        for _ in range(n):
            event_t, solution = lib.odeint_event(
                self,
                state,
                t0,
                event_fn=self.event_fn,
                reverse_time=False,
                atol=1e-8,
                rtol=1e-8,
                odeint_interface=interface,
            )
            times.append(event_t)
            position, velocity, log_radius = (x[-1] for x in solution)
            state, t0 = (position + 1e-7, -velocity * (1.0 - self.absorption), log_radius), event_t
        return torch.stack(times)


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
def test_a_bouncing_ball(interface):
    found = {}
    for lib in (ours, original):
        ball = Ball()
        times = ball.bounces(lib, functools.partial(getattr(lib, interface)), 4)
        times[-1].backward()
        found[lib] = times.detach(), [p.grad for p in ball.parameters()]
    torch.testing.assert_close(found[ours][0], found[original][0], rtol=1e-7, atol=1e-7)
    for a, b in zip(found[ours][1], found[original][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# --- dense output ------------------------------------------------------------------------------------------------


def test_dense_output():
    y0 = torch.tensor([1.0, 0.5], dtype=D)
    t0, t1 = torch.tensor(0.0, dtype=D), torch.tensor(2.0, dtype=D)
    dense = {lib: lib.odeint_dense(lambda t, y: -y, y0, t0, t1) for lib in (ours, original)}
    for t in (0.1, 0.77, 1.9):
        s = torch.tensor(t, dtype=D)
        for solution in dense.values():
            torch.testing.assert_close(solution(s), y0 * torch.exp(-s), rtol=1e-6, atol=1e-7)
    many = torch.linspace(0.0, 2.0, 5, dtype=D)
    torch.testing.assert_close(dense[ours](many), y0 * torch.exp(-many)[:, None], rtol=1e-6, atol=1e-7)


def test_dense_output_of_other_methods_of_tuples_and_backwards():
    pair = (torch.ones(2, dtype=D), torch.ones((), dtype=D, requires_grad=True))
    solution = ours.odeint_dense(
        lambda t, y: (-y[0], 2.0 * y[1]), pair, 0.0, torch.tensor(-1.0, dtype=D), method="dopri8"
    )
    a, b = solution(torch.tensor(-0.5, dtype=D))
    torch.testing.assert_close(a, torch.full((2,), math.exp(0.5), dtype=D), rtol=1e-6, atol=1e-7)
    (slope,) = torch.autograd.grad(b, pair[1])
    torch.testing.assert_close(slope, torch.tensor(math.exp(-1.0), dtype=D), rtol=1e-6, atol=1e-7)


@BOTH
def test_dense_output_that_fails(lib):
    with pytest.raises(AssertionError):
        lib.odeint_dense(lambda t, y: y * y, torch.ones(1, dtype=D), T[0], 2.0 * T[1])
