"""Which states are kept, and how many steps are made again: numbers alone."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pathline
from pathline.gradients.schedules import Binomial, Every, Spread

MEMORY_OF_A_STATE = 8


def swept(schedule, steps, *, forward=True):
    """How many steps a backward pass makes again, and the most states held at once, the start among them."""
    for k in range(1, steps if forward else 1):
        schedule.offer(k, k, MEMORY_OF_A_STATE)
    held = [0, *sorted(schedule.kept)]
    made, most = 0, len(held)
    for k in range(steps - 1, -1, -1):
        while held[-1] > k:
            held.pop()
        while held[-1] < k:
            place = schedule.halt(held[-1], k, len(held))
            assert held[-1] < place <= k
            made += place - held[-1]
            held.append(place)
        most = max(most, len(held))
    return made, most


@cache
def least(steps, places):
    """The fewest steps to make again, by trying every place: from states at hand at the start alone."""
    if steps <= 1:
        return 0
    if places == 1:
        return steps * (steps - 1) // 2
    return min(m + least(steps - m, places - 1) + least(m, places) for m in range(1, steps))


@pytest.mark.parametrize("places", [2, 3, 5])
def test_known_numbers_of_steps_are_undone_at_the_least_cost(places):
    for steps in range(1, 41):
        made, _ = swept(Binomial(places - 1), steps, forward=False)
        assert made == least(steps, places)


@given(states=st.integers(1, 12), steps=st.integers(1, 400))
@settings(max_examples=60)
def test_unknown_numbers_of_steps_stay_within_the_repetitions(states, steps):
    made, most = swept(Binomial(states), steps)
    repetitions = next(r for r in range(steps + 1) if comb(states + 1 + r, r) >= steps)
    assert made <= repetitions * steps
    assert most <= states + 2  # the start, and the state that is differentiated next


def test_cost_grows_like_the_logarithm():
    """States and repetitions that grow like log n serve n steps."""
    for power in range(4, 13):
        made, _ = swept(Binomial(power), 2**power)
        assert made <= power * 2**power


def test_ten_thousand_steps_in_a_hundred_states():
    made, most = swept(Binomial(100), 10_000)
    assert made <= 2.0 * 10_000
    assert most <= 102


def test_memory_becomes_states():
    schedule = Binomial(None, memory=10 * MEMORY_OF_A_STATE + 1)
    swept(schedule, 50)
    assert schedule.states == 10
    with pytest.raises(ValueError, match="`memory` holds at least one state, which is 8 bytes"):
        swept(Binomial(None, memory=7), 50)


@given(stride=st.integers(1, 9), steps=st.integers(1, 200))
@settings(max_examples=40)
def test_every_kth_state(stride, steps):
    schedule = Every(stride)
    made, most = swept(schedule, steps)
    assert made <= steps
    assert most <= (steps - 1) // stride + 1 + max(stride - 1, 0)


def test_every_kth_state_without_those_of_the_forward_pass():
    """The second backward pass: the states of one stretch at a time."""
    made, most = swept(Every(10), 100, forward=False)
    assert made <= 2 * 100
    assert most <= 10 + 10


@given(states=st.integers(1, 20), steps=st.integers(1, 500))
@settings(max_examples=40)
def test_spread_states_cover_the_solve(states, steps):
    schedule = Spread(states)
    for k in range(1, steps):
        schedule.offer(k, k, MEMORY_OF_A_STATE)
    kept = [0, *schedule.kept, steps]
    assert len(schedule.kept) <= states
    assert max(b - a for a, b in pairwise(kept)) <= 2 * (steps / (states + 1) + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": 0}, "`schedule` is a number of steps >= 1"),
        ({"schedule": True}, "`schedule` is a number of steps >= 1"),
        ({"schedule": "binomial"}, '"all", "logarithmic", or a number of steps'),
        ({"schedule": "all", "states": 3}, '`states` is the budget of schedule="logarithmic"'),
        ({"schedule": 5, "memory": 1e6}, "`memory` is the budget"),
        ({"schedule": "logarithmic"}, "none was given"),
        ({"schedule": "logarithmic", "states": 3, "memory": 1e6}, "both were given"),
        ({"schedule": "logarithmic", "states": 0}, "`states` is a whole number >= 1"),
        ({"schedule": "logarithmic", "states": 2.5}, "`states` is a whole number >= 1"),
        ({"schedule": "logarithmic", "memory": -1}, "`memory` is a number >= 1"),
        ({"schedule": "logarithmic", "memory": float("nan")}, "`memory` is a number >= 1"),
    ],
)
def test_wrong_schedules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pathline.Checkpointed(**options)


@pytest.mark.parametrize("options", [{"states": 0}, {"states": True}, {"tolerance": 0.0}, {"tolerance": -1.0}])
def test_wrong_numbers_of_a_reconstruction_are_refused(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` is a"):
        pathline.Reconstructed(**options)
