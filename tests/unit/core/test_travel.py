"""Fields, times and solutions are copied, stored and sent elsewhere, before and after a solve."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import pickle
import weakref

import pytest
import torch
from torch import nn

import pathline

MODES = ["backprop", "checkpointed", "adjoint"]
Y0 = torch.tensor([[0.5, -0.3], [0.1, 0.9]])


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        self.register_buffer("shift", torch.tensor([0.1, -0.1]))
        self.gain = 0.7

    def forward(self, t, y, args=None):
        return self.gain * self.net(y) + torch.sin(t) * self.shift


def answer(field, gradient="backprop"):
    y0 = Y0.clone().requires_grad_()
    y1 = pathline.solve(field, y0, (0.0, 1.0), gradient=gradient).y1
    return y1.detach(), torch.autograd.grad(y1.sum(), [y0, *field.parameters()])


def twins(field):
    file = io.BytesIO()
    torch.save(field, file)
    file.seek(0)
    fresh = Field()
    fresh.load_state_dict(field.state_dict())
    return [copy.deepcopy(field), pickle.loads(pickle.dumps(field)), torch.load(file, weights_only=False), fresh]


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("used", [False, True], ids=["before a solve", "after a solve"])
def test_fields_travel(used, gradient):
    field = Field()
    attributes, keys = set(vars(field)), list(field.state_dict())
    if used:
        pathline.solve(field, Y0, (0.0, 1.0), gradient=gradient).y1.sum().backward()
        field.zero_grad()
        assert set(vars(field)) == attributes
        assert list(field.state_dict()) == keys
    y1, grads = answer(field, gradient)
    for twin in twins(field):
        y1_twin, grads_twin = answer(twin, gradient)
        assert torch.equal(y1_twin, y1)
        for a, b in zip(grads, grads_twin, strict=True):
            assert torch.equal(a, b)
        assert next(twin.parameters()) is not next(field.parameters())


def test_twins_are_independent():
    field = Field()
    before = answer(field)[0]
    twin = copy.deepcopy(field)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(answer(field)[0], before)
    assert not torch.equal(answer(twin)[0], before)


@pytest.mark.parametrize("gradient", MODES)
def test_an_optimiser_step_is_seen_by_the_next_solve(gradient):
    field = Field()
    before = answer(field, gradient)[0]
    with torch.no_grad():
        field.net[0].weight.add_(0.1)
    middle = answer(field, gradient)[0]
    field.gain = 0.1
    after = answer(field, gradient)[0]
    assert not torch.equal(before, middle)
    assert not torch.equal(middle, after)


@pytest.mark.parametrize("thing", [pathline.PID(p=0.4, i=0.3), pathline.FixedStep(0.1), pathline.Grid([0.0, 1.0]),
                                   pathline.Save(dense=True), pathline.Adjoint(rtol=1e-3), pathline.Checkpointed(),
                                   pathline.Backprop(), pathline.Status.SUCCESS, pathline.Stats(steps=3)], ids=str)  # fmt: skip
def test_options_travel_and_compare(thing):
    assert pickle.loads(pickle.dumps(thing)) == copy.deepcopy(thing) == thing


@pytest.mark.parametrize("method", pathline.METHODS)
def test_methods_travel(method):
    solver = pickle.loads(pickle.dumps(pathline.METHODS[method]))
    options = {} if solver.adaptive else {"dt": 0.1}
    terms = {
        "rate": Field(),
        "parts": pathline.Sum(Field(), Field()),
        "split": pathline.Separable(lambda t, q: -q, lambda t, p: p),
    }
    with torch.no_grad():  # "scipy" has no other gradient than the adjoint
        mine = pathline.solve(terms[solver.needs], Y0, (0.0, 1.0), method=solver, **options)
        assert torch.equal(mine.y1, pathline.solve(terms[solver.needs], Y0, (0.0, 1.0), method=method, **options).y1)
    assert mine.status


def test_statistics_are_plain_numbers():
    solution = pathline.solve(Field(), Y0, (0.0, 1.0), gradient="checkpointed")
    solution.y1.sum().backward()
    assert {type(value) for name, value in vars(solution.stats).items() if name != "rows"} == {int, bool}


@pytest.mark.parametrize("gradient", MODES)
def test_nothing_of_a_solve_outlives_it(gradient):
    """Neither the field nor the start hangs on a cache once the last name of them is gone."""
    field, y0 = Field(), Y0.clone().requires_grad_()
    solution = pathline.solve(field, y0, (0.0, 1.0), gradient=gradient)
    solution.y1.sum().backward()
    watched = weakref.ref(field), weakref.ref(y0)
    del field, y0, solution
    gc.collect()
    assert [w() for w in watched] == [None, None]


def solve_elsewhere(field, y0, queue):
    torch.set_num_threads(1)
    y0.requires_grad_()
    solution = pathline.solve(field, y0, (0.0, 1.0), gradient="checkpointed", save=pathline.Save(dense=True))
    solution.y1.sum().backward()
    grads = [g.numpy() for g in (y0.grad, *(p.grad for p in field.parameters()))]
    try:
        pathline.solve(field, y0.detach(), (0.0, 1.0), max_steps=1)
    except pathline.SolveError as error:
        failure = error
    queue.put((solution.y1.detach().numpy(), grads, pickle.dumps(failure)))


def test_a_spawned_process():
    field = Field()
    y1, grads = answer(field, "checkpointed")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=solve_elsewhere, args=(field, Y0.clone(), queue))
    process.start()
    y1_there, grads_there, failure = queue.get(timeout=50)
    process.join()
    assert process.exitcode == 0
    torch.testing.assert_close(torch.from_numpy(y1_there), y1)
    for a, b in zip(grads, grads_there, strict=True):
        torch.testing.assert_close(torch.from_numpy(b), a)
    error = pickle.loads(failure)
    assert isinstance(error, pathline.MaxStepsError)
    assert "`max_steps` = 1 was reached" in str(error)
