"""The arithmetic of the benchmarks (nothing is timed here)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.environment import environment, installed
from benchmarks.rows import Row
from benchmarks.timing import Comparison
from benchmarks.training import count, default_task, long_task


def test_ratio_is_the_median_of_the_pairs():
    timed = Comparison(ours=(1.0, 2.0, 1.0), theirs=(2.0, 2.0, 5.0))
    assert timed.ratio == 2.0
    assert timed.milliseconds() == (1000.0, 2000.0)


def test_bounds_hold_the_median_and_tighten_with_pairs():
    noise = np.random.default_rng(1).lognormal(0.0, 0.2, 400)
    few, many = (Comparison((1.0,) * n, tuple(2.0 * noise[:n])) for n in (10, 400))
    for timed in (few, many):
        low, high = timed.bounds
        assert low <= timed.ratio <= high
    assert many.bounds[1] - many.bounds[0] < few.bounds[1] - few.bounds[0]


@pytest.mark.parametrize(
    ("bound", "at_least", "verdict"),
    [(2.0, True, "PASS"), (1.9, True, "MISS"), (2.1, False, "MISS"), (1.9, False, "PASS")],
)
def test_the_bar_is_held_to_the_bound(bound, at_least, verdict):
    row = Row("a row", value=2.5, bound=bound, unit="x", bar=2.0, at_least=at_least)
    assert row.verdict == verdict
    assert verdict in str(row)
    assert row.entry()["verdict"] == verdict
    assert Row("a row", 2.5, 2.0, "x").verdict == ""


def test_environment_names_versions_and_no_host():
    found = environment("scipy", "no-such-package-here")
    assert set(found) == {"python", "machine", "threads", "versions"}
    assert found["versions"].keys() == {"pathline", "torch", "scipy"}
    assert installed("no-such-package-here") is None


def test_reference_is_tighter_than_what_it_judges():
    """On y' = MLP(y) the reference agrees with scipy's own tolerance, and its start is the task's."""
    task = default_task(2, 8, 4)
    reference = task.reference()
    assert reference.shape == (11, 4, 2)
    assert reference.dtype == torch.float64
    torch.testing.assert_close(reference[0], task.y0.double())
    with torch.no_grad():
        torch.testing.assert_close(task.ours("backprop").double(), reference, rtol=0.0, atol=1e-4)


def test_the_long_row_takes_fifty_steps():
    with torch.no_grad():
        assert long_task().solution("backprop").stats.accepted >= 50


def test_counting_evaluations():
    task = default_task(2, 8, 4)
    found = count(task.field, lambda: [task.field(torch.tensor(0.0), task.y0) for _ in range(3)])
    assert found == 3
    assert not task.field._forward_pre_hooks
