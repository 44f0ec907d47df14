"""The loop over gaps that ODE-RNN is timed against computes what ours does (nothing is timed here)."""

from __future__ import annotations

import pytest
import torch

from benchmarks.recurrent import Loop, Observed, Task, at_all_times, check, counted, model


@pytest.fixture
def batch():
    return Task(6, 12, 3).batches()[0]


def test_every_series_has_a_row_at_every_time_and_its_own_values(batch):
    union = at_all_times(batch)
    assert union.lengths.unique().tolist() == [len(batch.times.unique())]
    assert torch.equal(union.values[union.mask[:, 0]], batch.values)
    assert torch.equal(union.times[union.mask[:, 0]], batch.times)
    assert int(counted(union).max()) == int(batch.lengths.max())


def test_ours_at_all_times_is_the_loop(batch):
    pytest.importorskip("torchdiffeq")
    union = at_all_times(batch)
    check(union)
    moved, seen = at_all_times(batch), Observed(union)
    moved.values.mul_(2.0)
    assert not torch.allclose(Loop(model()).loss(seen), Loop(model()).loss(Observed(moved)))


def test_ours_makes_a_step_for_each_observation_and_the_loop_one_for_each_time(batch):
    ours, odernn = model(), model(steps=2)
    ours.loss(batch)
    odernn.loss(batch)
    assert ours.recurrent.evaluations == int(batch.lengths.max()) == 6
    assert odernn.recurrent.evaluations == 12
    assert len(Observed(batch).times) <= 12
