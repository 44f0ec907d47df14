"""Two processes that train one model, each on its part of a batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

SCRIPT = """
import importlib
import sys
import torch
from torch import nn

class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, batch):
        return self.model.loss(batch)  # what wrappers look at is `forward`

torch.set_num_threads(1)
rank, store, out, module, name = int(sys.argv[1]), *sys.argv[2:]
torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
found = []
for model, batch in getattr(importlib.import_module(module), name)(rank):
    wrapped = nn.parallel.DistributedDataParallel(Loss(model))
    torch.manual_seed(10 + rank)
    wrapped(batch).backward()
    found.append([p.grad for p in model.parameters()])
torch.save(found, out)
torch.distributed.destroy_process_group()
"""

needs_processes = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs torch.distributed with gloo"
)


def gradients(parts: Callable[[int], Sequence[tuple[nn.Module, Any]]], folder: Path) -> list[list[Tensor]]:
    """Of each model, as both processes have it.

    Args:
        parts: A function of a module, ``rank -> [(model, batch)]``. The models are the same in every process; each
            process draws from a seed of its own, 10 plus its rank.
        folder: An empty one.
    """
    script, store, root = folder / "part.py", folder / "store", Path(__file__).parents[3]
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    outs = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(store), str(out), parts.__module__, parts.__name__],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    said = [process.communicate(timeout=150)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    first, second = map(torch.load, outs)
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(a, b, strict=True))
    return first
