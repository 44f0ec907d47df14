"""Flows travel: copies, pickles, folders, and two processes that train as one."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch.distributions import MultivariateNormal

import pathline
from pathline import CNF, FlowMatching, fields
from pathline.models import load, save
from pathline.operators import Hutchinson

X = torch.linspace(-1, 1, 12).reshape(6, 2)


def made(**options) -> CNF:
    torch.manual_seed(1)
    return CNF(fields.ConcatSquash(2, (8, 8)), 2, **options)


def through_torch_save(model: CNF) -> CNF:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "torch.save": through_torch_save}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("used", [False, True])
def test_it_arrives_whole(way, used):
    model = made(
        learn_end=True, regularizers={"kinetic": 0.1, "steer": 0.2}, base=MultivariateNormal(X[0], torch.eye(2))
    )
    if used:
        model.loss(X).backward()
    other = WAYS[way](model).eval()
    assert torch.equal(other().log_prob(X), model().log_prob(X))
    other.loss(X).backward()
    assert other.evaluations > 0
    assert all(p.data_ptr() != q.data_ptr() for p, q in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trace": Hutchinson("gaussian", probes=2), "clock": "per-sample", "compile": True, "t": (0.0, 2.0)},
        {"learn_end": True, "regularizers": {"kinetic": 0.1, "steer": 0.2, "own": (pathline.KineticEnergy(), 0.5)}},
    ],
)
@pytest.mark.parametrize("field", [fields.ConcatSquash, fields.Planar, fields.MLP])
def test_a_folder_holds_it(tmp_path, field, options):
    model = CNF(field(2, 8), 2, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    other = load(save(model, tmp_path / "model"))
    assert isinstance(other, CNF)
    assert (other.t, other.trace, other.clock, other.compile_steps) == (
        model.t,
        model.trace,
        model.clock,
        model.compile_steps,
    )
    assert other.regularizers.keys() == model.regularizers.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    other.compile_steps = model.compile_steps = False
    assert torch.equal(other(trace="exact").log_prob(X), model(trace="exact").log_prob(X))


# --- two processes -----------------------------------------------------------------------------------------------

HALVES = """
import sys
import torch
from torch import nn
from pathline import CNF, FlowMatching, fields

class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, batch):
        return self.model.loss(batch)  # what wrappers look at is `forward`

torch.set_num_threads(1)
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
x = torch.linspace(-1, 1, 12).reshape(6, 2)
found = []
for gradient in ("backprop", "checkpointed"):
    torch.manual_seed(1)
    model = CNF(fields.ConcatSquash(2, (8, 8)), 2, method="rk4", dt=0.25, gradient=gradient)
    wrapped = nn.parallel.DistributedDataParallel(Loss(model))
    wrapped(x[rank::2]).backward()
    found.append([p.grad for p in model.parameters()])
torch.manual_seed(1)
model = FlowMatching(fields.ConcatSquash(2, (8, 8)), 2)
wrapped = nn.parallel.DistributedDataParallel(Loss(model))
torch.manual_seed(10 + rank)
wrapped(x[rank::2]).backward()
found.append([p.grad for p in model.parameters()])
torch.save(found, out)
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs torch.distributed with gloo"
)
@pytest.mark.timeout(180)  # two more processes import torch, beside other workers
def test_two_processes_have_the_gradients_of_one(tmp_path):
    script, store = tmp_path / "halves.py", tmp_path / "store"
    script.write_text(HALVES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(store), str(tmp_path / f"{rank}.pt")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    models = [made(method="rk4", dt=0.25, gradient=gradient) for gradient in ("backprop", "checkpointed")]
    for model in models:
        model.loss(X).backward()
    models.append(matching := FlowMatching(made().field, 2))
    for rank in range(2):  # each process draws times and starts of its own
        torch.manual_seed(10 + rank)
        (matching.loss(X[rank::2]) / 2).backward()
    for model, a, b in zip(models, first, second, strict=True):
        for one, two, parameter in zip(a, b, model.parameters(), strict=True):
            assert torch.equal(one, two)  # the mean over two halves is the mean over the batch
            torch.testing.assert_close(one, parameter.grad, rtol=1e-5, atol=1e-7)
