"""The programs that people write first, each as short as they write it."""

from __future__ import annotations

import copy
import math
import multiprocessing
import pickle

import pytest
import torch
from torch import nn

import pathline
from pathline import fields, models, nets


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_regression_of_the_tutorial():
    """An ODE net on ten points of a curve: the state is x with the time, the answer is the flow at t = 1."""
    x = torch.linspace(-1.0, 1.0, 10).unsqueeze(1)
    y = x**3 + 0.1 * torch.sin(5.0 * x)
    model = models.NeuralODE(fields.with_time(nets.MLP(2, 1, hidden=(25,))), rtol=1e-3, atol=1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = (model(x) - y).square().mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * before


def pendulum(t, y, rates):
    return torch.stack((y[1], -rates[0] * y[0].sin() - rates[1] * y[1]))


def test_fit_a_trajectory():
    """Stiffness, friction and start of a pendulum from one trajectory."""
    t = torch.linspace(0.0, 2.0, 21)
    truth = pathline.solve(pendulum, torch.tensor([1.0, 0.0]), t, args=torch.tensor([4.0, 0.3])).ys
    rates, y0 = nn.Parameter(torch.tensor([3.0, 0.0])), nn.Parameter(torch.tensor([0.9, 0.1]))
    optimizer = torch.optim.Adam([rates, y0], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        ys = pathline.solve(pendulum, y0, t, args=rates).ys
        (ys - truth).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(rates.detach(), torch.tensor([4.0, 0.3]), rtol=0.0, atol=0.05)


class Hamiltonian(nn.Module):
    """dq/dt = dH/dp, dp/dt = -dH/dq by `torch.autograd.grad`, as everybody writes it."""

    def __init__(self, energy):
        super().__init__()
        self.energy = energy

    def forward(self, t, y):
        with torch.enable_grad():
            if not y.requires_grad:
                y = y.requires_grad_()
            dq, dp = torch.autograd.grad(self.energy(y).sum(), y, create_graph=True)[0].chunk(2, -1)
        return torch.cat((dp, -dq), -1)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
def test_hamiltonian_rollout_trains(gradient):
    model = Hamiltonian(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)))
    y0, t = torch.randn(8, 2), torch.linspace(0.0, 1.0, 5)
    turn = torch.linalg.matrix_exp(t[:, None, None] * torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=2e-2), []
    for _ in range(25):
        optimizer.zero_grad()
        ys = pathline.solve(model, y0, t, rtol=1e-4, atol=1e-4, gradient=gradient).ys
        loss = (ys - y0 @ turn).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_hamiltonian_rollout_without_gradients_keeps_its_energy(mode):
    model = Hamiltonian(lambda y: 0.5 * y.square().sum(-1) + 0.1 * y[..., 0] ** 4)
    y0 = torch.tensor([[1.0, 0.0], [0.2, -0.7]], dtype=torch.float64)
    with mode():
        ys = pathline.solve(model, y0, torch.linspace(0.0, 20.0, 11), rtol=1e-9, atol=1e-9).ys
    energy = model.energy(ys)
    assert not ys.requires_grad
    torch.testing.assert_close(energy, energy[:1].expand_as(energy), rtol=1e-6, atol=0.0)


def test_hamiltonian_rollout_from_a_start_without_gradients_leaves_it_alone():
    model = Hamiltonian(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)))
    y0 = torch.randn(3, 2)
    pathline.solve(model, y0, (0.0, 1.0)).y1.sum().backward()
    assert not y0.requires_grad
    assert all(p.grad is not None for p in model.energy[0].parameters())


def make_model():
    return models.NeuralODE(fields.MLP(2, hidden=16), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("used", [False, True], ids=["before a solve", "after a solve"])
def test_copies_and_files(used, tmp_path):
    model, y0 = make_model(), torch.randn(4, 2)
    if used:
        model(y0).sum().backward()
    torch.save(model, tmp_path / "model.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = make_model()
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded, fresh):
        torch.testing.assert_close(twin(y0), model(y0), rtol=0.0, atol=0.0)


def test_pathline_save_and_load(tmp_path):
    model, y0 = make_model(), torch.randn(4, 2)
    pathline.save(model, tmp_path / "model")
    torch.testing.assert_close(pathline.load(tmp_path / "model")(y0), model(y0), rtol=0.0, atol=0.0)


def test_moving_average_copy():
    model, y0 = make_model(), torch.randn(4, 2)
    average = torch.optim.swa_utils.AveragedModel(model)
    model(y0).sum().backward()
    average.update_parameters(model)
    torch.testing.assert_close(average(y0), model(y0))


def test_a_solution_is_plain_data_when_detached():
    solution = pathline.solve(fields.MLP(2, hidden=8), torch.randn(3, 2), (0.0, 1.0), save=pathline.Save(dense=True))
    stats = pickle.loads(pickle.dumps(solution.stats))
    assert stats.evaluations == solution.stats.evaluations > 0


def _solve_elsewhere(model, y0, answers):
    torch.set_num_threads(1)
    answers.put(model(y0).detach().numpy())


def test_spawned_process():
    model, y0 = make_model(), torch.randn(4, 2)
    here = model(y0).detach()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_solve_elsewhere, args=(model, y0, answers))
    process.start()
    there = torch.from_numpy(answers.get(timeout=50))
    process.join()
    torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-7)


def test_control_input_through_args():
    """A driven oscillator; the amplitude of the drive is learned through `args`."""
    amplitude = torch.tensor(0.5, requires_grad=True)

    def rate(t, y, control):
        return torch.stack((y[1], -y[0] + control["gain"] * torch.sin(control["frequency"] * t)))

    y0, t = torch.zeros(2), torch.linspace(0.0, 3.0, 7)
    ys = pathline.solve(rate, y0, t, args={"gain": amplitude, "frequency": 2.0}, rtol=1e-6, atol=1e-7).ys
    exact = 0.5 * (2.0 * t.sin() - (2.0 * t).sin()) / 3.0  # y'' + y = 0.5 sin 2t from rest
    torch.testing.assert_close(ys[:, 0], exact, rtol=0.0, atol=1e-5)
    (slope,) = torch.autograd.grad(ys[-1, 0], amplitude)  # the equation is linear in the gain
    assert slope.item() == pytest.approx(2.0 * exact[-1].item(), abs=1e-4)


def test_sampled_control_closed_over():
    """Tabulated data interpolated inside the field, as in system identification."""
    knots, values = torch.linspace(0.0, 1.0, 11), torch.linspace(0.0, 1.0, 11) ** 2

    def control(t):
        i = (torch.searchsorted(knots, t) - 1).clamp(0, 9)
        return values[i] + (t - knots[i]) / (knots[i + 1] - knots[i]) * (values[i + 1] - values[i])

    solution = pathline.solve(lambda t, y: control(t).expand_as(y), torch.zeros(3), (0.0, 1.0), rtol=1e-6, atol=1e-7)
    trapezoid = torch.trapezoid(values, knots)
    torch.testing.assert_close(solution.y1, trapezoid.expand(3), rtol=1e-4, atol=0.0)


class ConvField(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, channels), nn.Conv2d(channels + 1, channels, 3, padding=1)

    def forward(self, t, x):
        return torch.tanh(self.conv(torch.cat((self.norm(x), t.expand_as(x[:, :1])), 1)))


def test_images_through_a_sequential():
    block = models.NeuralODE(ConvField(4), method="rk4", dt=0.25)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    images, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_sequential_is_a_field():
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    ys = models.NeuralODE(net)(torch.randn(5, 2), torch.linspace(0.0, 1.0, 4))
    assert ys.shape == (4, 5, 2)


def test_a_list_of_times():
    ys = pathline.solve(lambda t, y: -y, torch.ones(2), [0.0, 0.5, 1.0], rtol=1e-6, atol=1e-7).ys
    exact = torch.tensor([1.0, math.exp(-0.5), math.exp(-1.0)]).unsqueeze(1).expand(3, 2)
    torch.testing.assert_close(ys, exact, rtol=0.0, atol=1e-5)


def test_textbook_field_with_time_as_a_channel():
    net = nn.Linear(3, 2)
    field = lambda t, y: torch.tanh(net(torch.cat([y, t.expand_as(y[:, :1])], 1)))  # noqa: E731
    pathline.solve(field, torch.randn(4, 2), torch.linspace(0.0, 1.0, 3), gradient="adjoint").y1.sum().backward()
    assert float(net.weight.grad.abs().min()) > 0.0


def test_there_and_back():
    model, y0 = make_model().double(), torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(model.inverse(model(y0)), y0, rtol=1e-3, atol=1e-3)


def test_events_of_training_are_reported_as_plain_numbers():
    solution = pathline.solve(fields.MLP(2, hidden=8), torch.randn(3, 2), (0.0, 1.0), gradient="adjoint")
    solution.y1.sum().backward()
    assert solution.stats.backward_evaluations > 0
    assert isinstance(solution.stats.evaluations, int)
    assert solution.stats.steps == solution.stats.accepted + solution.stats.rejected
