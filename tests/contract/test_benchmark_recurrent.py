"""The loop over gaps that ODE-RNN is timed against computes what ours does (nothing is timed here)."""

from __future__ import annotations

import pytest
import torch

from benchmarks.recurrent import Loop, Observed, Task, across, check, model

TASK = Task(6, 12, 3)


@pytest.fixture
def batch():
    return TASK.batches()[0]


def test_a_batch_as_the_loop_sees_it(batch):
    seen = Observed(batch)
    assert seen.mask.sum(0).flatten().tolist() == batch.lengths.tolist()
    assert torch.equal(seen.times.double(), batch.times.unique().float().double())
    assert (seen.later.sum(0).flatten() == batch.lengths - 1).all()


def test_ours_is_the_loop_where_all_is_observed(batch):
    pytest.importorskip("torchdiffeq")
    check(batch, TASK.whole())
    with pytest.raises(RuntimeError, match="that of our model"):
        check(batch, batch)  # the loop stops at times at which a series has no row


def test_the_loop_sees_the_values(batch):
    seen, moved = Observed(batch), Observed(batch)
    moved.values = moved.values * 2.0
    assert not torch.allclose(Loop(model(), across).loss(seen), Loop(model(), across).loss(moved))


def test_ours_makes_a_step_for_each_observation_and_the_loop_one_for_each_time(batch):
    ours, odernn = model(), model(steps=2)
    ours.loss(batch)
    odernn.loss(batch)
    assert ours.recurrent.evaluations == int(batch.lengths.max()) == 6
    assert odernn.recurrent.evaluations == 12
    assert len(Observed(batch).times) <= 12
