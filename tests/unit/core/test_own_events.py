"""Events that a field brings along: beside those of the user, on both clocks, in somebody's own torch.compile."""

from __future__ import annotations

import pytest
import torch

from pathline import Event, Sum, solve


class Switched(torch.nn.Module):
    """Rises by one an hour, from a time in ``args`` on, where it also jumps."""

    def forward(self, t, y, args):
        return torch.where(t >= args, 1.0, 0.0).expand_as(y)

    def own_events(self, span, args, rate):
        self.span, self.slope = span, rate(torch.tensor(0.0), torch.zeros(2, 1), args)
        return {"switch": Event(at=[args], reset=lambda t, y: y + 10.0)}


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_field_tells_what_happens_when(clock):
    field, y0 = Switched(), torch.zeros(2, 1)
    doubled = Event(at=[3.0], reset=lambda t, y: 2 * y)
    solution = solve(field, y0, (0.0, 4.0), args=2.5, events={"doubled": doubled}, clock=clock)
    torch.testing.assert_close(solution.y1, torch.full((2, 1), 22.0))
    assert list(solution.events) == ["switch", "doubled"]
    assert field.span.dtype == torch.float64
    assert field.span.shape == ((2,) if clock == "shared" else (2, 2))
    assert field.slope.shape == (2, 1)
    with pytest.raises(ValueError, match="`events` names 'switch'"):
        solve(field, y0, (0.0, 4.0), args=2.5, events={"switch": doubled}, clock=clock)


def test_a_solve_that_is_traced_knows_of_them():
    def end(y):
        return solve(Switched.shared, y, torch.linspace(0.0, 4.0, 9), args=2.5, method="rk4").y1

    Switched.shared = Switched()
    torch.testing.assert_close(torch.compile(end, backend="eager")(torch.zeros(2, 1)), torch.full((2, 1), 11.5))


class Kicked(torch.nn.Module):
    """Decays, and jumps at a time that it knows without ``args``."""

    def forward(self, t, y):
        return -y

    def own_events(self, span, args, rate):
        return {"kick": Event(at=[0.5], reset=lambda t, y: y + 1.0)}


def test_events_that_need_no_args_are_traced_too():
    field, t = Kicked(), torch.linspace(0.0, 1.0, 5)

    def end(y):
        return solve(field, y, t, method="rk4").y1

    expected = end(torch.ones(2, 1))
    assert expected[0, 0] == pytest.approx(0.9744, abs=1e-3)
    torch.testing.assert_close(torch.compile(end, backend="eager")(torch.ones(2, 1)), expected)


def test_two_parts_that_tell_under_one_name_are_refused():
    with pytest.raises(ValueError, match="Two parts of the field bring events of the name 'kick'"):
        solve(Sum(Kicked(), Kicked()), torch.ones(2, 1), (0.0, 1.0), method="kencarp4")


@pytest.mark.parametrize(
    ("told", "message"),
    [(None, "returns {name: Event}, but NoneType came"), ({"k": 1}, "it holds 1. Pass pathline.Event")],
)
def test_what_is_told_are_events_by_name(told, message):
    class Wrong(Kicked):
        def own_events(self, span, args, rate):
            return told

    with pytest.raises(TypeError, match=message):
        solve(Wrong(), torch.ones(2, 1), (0.0, 1.0))
