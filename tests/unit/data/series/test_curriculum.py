"""Batches whose end moves away."""

from __future__ import annotations

import pytest
import torch

from pathline.data import Series, growing


def series(n: int = 6) -> Series:
    return Series.from_arrays(torch.arange(10.0), torch.randn(n, 10, 1))


def counts(pair) -> list[int]:
    return [int(part.lengths.max()) for part in pair]


def test_the_target_grows_to_the_whole_and_what_is_observed_stays():
    batch = growing(series().batches(3), end=9.5, steps=8)
    assert [counts(batch(step)) for step in (0, 4, 7, 8, 100)] == [[10, 2], [10, 6], [10, 9], [10, 10], [10, 10]]


def test_a_pair_keeps_its_own_observed_part():
    whole = series().batches(3)
    batch = growing(lambda step: (whole(step).first(4), whole(step)), end=10.0, steps=2, first=0.5)
    assert [counts(batch(step)) for step in range(3)] == [[4, 5], [4, 8], [4, 10]]


def test_a_span_may_begin_anywhere():
    batch = growing(lambda step: series().after(4.0), end=10.0, steps=3, begin=4.0, first=1 / 3)
    assert [counts(batch(step))[1] for step in range(4)] == [2, 4, 5, 6]


def test_the_same_step_gives_the_same_pair():
    batch = growing(series().batches(3, seed=1), end=10.0, steps=8)
    assert torch.equal(batch(5)[1].values, batch(5)[1].values)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"first": 0.0}, "first"), ({"first": 1.5}, "first"), ({"steps": -1}, "steps"), ({"end": 0.0}, "end")],
)
def test_what_makes_no_sense_is_refused(wrong, word):
    with pytest.raises(ValueError, match=word):
        growing(series().batches(3), **({"end": 10.0, "steps": 8} | wrong))


def test_batches_are_a_function_of_the_step():
    with pytest.raises(TypeError, match="`batches` is a function of the step, such as series.batches"):
        growing(series(), end=10.0, steps=8)
