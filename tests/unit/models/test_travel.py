"""Models travel: deepcopy, pickle, torch.save and a spawned process, before and after a solve."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from pathline import fields
from pathline.models import NeuralODE

Y0 = torch.linspace(-1, 1, 6).reshape(3, 2)


def used(stage, gradient="backprop"):
    torch.manual_seed(1)
    model = NeuralODE(fields.MLP(3, 8, time=True), augment=1, gradient=gradient)
    if stage != "fresh":
        y1 = model(Y0)
        if stage == "differentiated":
            y1.sum().backward()
    return model


def through_torch_save(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "torch.save": through_torch_save}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", ["fresh", "solved", "differentiated"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
def test_it_arrives_whole(way, stage, gradient):
    model = used(stage, gradient)
    other = WAYS[way](model)
    assert torch.equal(other(Y0), model(Y0))
    other(Y0).sum().backward()
    assert other.evaluations == model.evaluations > 0
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert p.data_ptr() != q.data_ptr()


def test_the_counts_of_a_copy_are_its_own():
    model = used("solved")
    other = copy.deepcopy(model)
    before = model.evaluations
    other.solve(Y0, torch.linspace(0, 5, 3))
    assert model.evaluations == before != other.evaluations


def test_an_average_of_weights_follows():
    model = used("differentiated")
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    torch.testing.assert_close(average(Y0), model(Y0))


def end_and_count(model):
    torch.set_num_threads(1)
    return model(Y0).detach(), model.evaluations


@pytest.mark.parametrize("stage", ["fresh", "differentiated"])
def test_a_spawned_process_can_use_it(stage):
    model = used(stage)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        y1, count = pool.submit(end_and_count, model).result()
    assert torch.equal(y1, model(Y0))
    assert count == model.evaluations
