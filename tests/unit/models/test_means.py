"""Means over several processes, which are played by doubling what is summed."""

from __future__ import annotations

import pytest
import torch

from pathline.models.means import mean_over_processes


@pytest.fixture
def twins(monkeypatch):
    """Another process that holds the same."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(2))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_a_count_is_left_as_it_was(twins, dtype):
    count = torch.tensor(4, dtype=dtype)
    first, second = (mean_over_processes(torch.tensor(8.0), count, training=True) for _ in range(2))
    assert first == second == 2.0
    assert count == 4


def test_outside_of_training_each_process_has_its_own_mean(twins):
    assert mean_over_processes(torch.tensor(8.0), torch.tensor(4), training=False) == 2.0
    assert mean_over_processes(torch.tensor(0.0), torch.tensor(0), training=False) == 0.0
