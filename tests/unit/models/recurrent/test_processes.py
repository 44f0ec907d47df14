"""Two processes that share a batch have the gradients of one that holds it whole."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from pathline.models import Classifier, Forecaster, LatentODE
from tests.unit.models.recurrent.examples import made, ragged

PART = """
import sys
import torch
from torch import nn
from tests.unit.models.recurrent.examples import ragged
from tests.unit.models.recurrent.test_processes import models

class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, batch):
        return self.model.loss(batch)  # what wrappers look at is `forward`

torch.set_num_threads(1)
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
found = []
for model in models():
    wrapped = nn.parallel.DistributedDataParallel(Loss(model))
    torch.manual_seed(10 + rank)
    wrapped(ragged()[torch.tensor([[0, 2], [3, 4]][rank])]).backward()
    found.append([p.grad for p in model.parameters()])
torch.save(found, out)
torch.distributed.destroy_process_group()
"""


def models() -> list[nn.Module]:
    """The same in every process; the last one draws."""
    torch.manual_seed(1)
    heads = [Forecaster(made("ode_rnn"), scale=0.5), Forecaster(made("gru_d")), Classifier(made("gru_dt"), 3)]
    heads.append(Classifier(made("ode_rnn"), 3, per_time=True))
    latent = LatentODE(2, 3, encoder="ode-rnn")
    return [model.double() for model in (*heads, latent)]


@pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs torch.distributed with gloo"
)
@pytest.mark.timeout(180)  # two more processes import torch, beside other workers
def test_two_processes_have_the_gradients_of_one(tmp_path, pytestconfig):
    script, store = tmp_path / "part.py", tmp_path / "store"
    script.write_text(PART)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(pytestconfig.rootpath)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(store), str(tmp_path / f"{rank}.pt")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=150)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    *heads, latent = models()
    joined = ragged()[torch.tensor([0, 2, 3, 4])]  # the parts have 8 and 6 rows, and unequally many values
    for model in heads:
        model.loss(joined).backward()
    for rank, part in enumerate(([0, 2], [3, 4])):  # each process draws starts of its own
        torch.manual_seed(10 + rank)
        (latent.loss(ragged()[torch.tensor(part)]) / 2).backward()
    for model, a, b in zip((*heads, latent), first, second, strict=True):
        for one, two, parameter in zip(a, b, model.parameters(), strict=True):
            assert torch.equal(one, two)
            torch.testing.assert_close(one, parameter.grad, rtol=1e-9, atol=1e-12)
