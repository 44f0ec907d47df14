"""What holds for every test: one torch thread a worker, no window, and property tests that never time anything."""

from __future__ import annotations

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile("local", deadline=None)
# In CI the same examples every time: a red run there has a cause in the change.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers differ between tests only by what the tests draw, never by the order they run in."""
    torch.manual_seed(0)
