"""An accelerator gives what the CPU gives. Needs one; skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pathline
from pathline import fields, models
from pathline.experiments.registry import find
from pathline.solvers import find_solver
from pathline.train import Run
from tests.experiments.test_tiny import NAMES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CUDA = "cuda"
UNSPLIT = sorted(name for name, solver in pathline.METHODS.items() if solver.needs == "rate")


class Oscillators(nn.Module):
    """A damped oscillator with a time-dependent push."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))

    def forward(self, t, y):
        position, speed = y[..., :1], y[..., 1:]
        return torch.cat([speed, -self.rate * position - 0.3 * speed + 0.1 * t.cos()], -1)


def answers(device, **options):
    """Rows, and gradients to the start, the times and the parameters."""
    field = Oscillators().to(device)
    y0 = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64, device=device, requires_grad=True)
    t = torch.linspace(0.0, 1.0, 5, dtype=torch.float64, requires_grad=True)
    solution = pathline.solve(field, y0, t, **options)
    assert solution.ys.device.type == device
    weights = torch.arange(solution.ys.numel(), dtype=torch.float64, device=device).reshape(solution.ys.shape).cos()
    (solution.ys * weights).sum().backward()
    return [x.detach().cpu() for x in (solution.ys, y0.grad, t.grad, field.rate.grad)]


def compare(**options):
    for here, there in zip(answers("cpu", **options), answers(CUDA, **options), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-8)


def of(method):
    return {"method": method} | ({"rtol": 1e-6, "atol": 1e-8} if find_solver(method).adaptive else {"dt": 0.05})


@pytest.mark.parametrize("method", [name for name in UNSPLIT if name != "scipy"])
def test_each_method(method):
    compare(**of(method))


@pytest.mark.parametrize("method", ["dopri5", "kvaerno5", "radau5", "bdf", "rodas5p"])
def test_one_clock_a_sample(method):
    compare(**of(method), clock="per-sample")


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_each_gradient(gradient, clock):
    compare(method="dopri5", rtol=1e-9, atol=1e-10, gradient=gradient, clock=clock)


def test_steps_undone():
    compare(method="reversible_heun", rtol=1e-6, atol=1e-8, gradient="reversible")


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
@pytest.mark.parametrize("options", [{"method": "dopri5", "rtol": 1e-6, "atol": 1e-8}, {"method": "rk4", "dt": 0.05}])
def test_compiled_steps(gradient, options):
    compare(**options, gradient=gradient, compile=True)


def test_a_hamiltonian_split():
    field = fields.Hamiltonian(kinetic=lambda p: p.square().sum(-1) / 2, potential=lambda q: -q.cos().sum(-1))
    y0 = torch.tensor([[0.5, 1.0], [1.0, 0.0]], dtype=torch.float64)
    ends = [pathline.solve(field, y0.to(d), (0.0, 3.0), method="leapfrog", dt=0.05).y1.cpu() for d in ("cpu", CUDA)]
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_bouncing_ball(clock):
    def bounce(t, y):
        return torch.stack([y[..., 0].abs(), -0.8 * y[..., 1]], -1)

    def solved(device):
        y0 = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64, device=device)
        y0 = y0 if clock == "per-sample" else y0[0]
        floor = pathline.Event(lambda t, y: y[..., 0], direction=-1, terminal=False, reset=bounce)
        return pathline.solve(
            lambda t, y: torch.stack([y[..., 1], -9.81 * torch.ones_like(y[..., 1])], -1), y0, (0.0, 1.5),
            events=floor, clock=clock, rtol=1e-8, atol=1e-8)  # fmt: skip

    torch.testing.assert_close(solved("cpu").y1, solved(CUDA).y1.cpu(), rtol=1e-6, atol=1e-8)


def test_a_steady_state():
    def found(device):
        matrix = torch.tensor([[-2.0, 1.0], [0.5, -1.0]], dtype=torch.float64, device=device, requires_grad=True)
        rest = pathline.solve_steady_state(
            lambda t, y: (y @ matrix.T).tanh() + 0.1, torch.zeros(3, 2, dtype=torch.float64, device=device)
        )
        y = rest if isinstance(rest, torch.Tensor) else rest.y
        (slope,) = torch.autograd.grad(y.sum(), matrix)
        return y.detach().cpu(), slope.cpu()

    for here, there in zip(found("cpu"), found(CUDA), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-8)


def density(model, device):
    torch.manual_seed(0)
    model = model().to(device)
    x = torch.linspace(-1.0, 1.0, 12).reshape(6, 2).to(device)
    value = model().log_prob(x)
    value.sum().backward()
    assert model().sample((3,)).device.type == device
    return value.detach().cpu(), torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    "model",
    [
        lambda: models.CNF(fields.ConcatSquash(2, hidden=(16,)), 2, rtol=1e-6, atol=1e-6),
        lambda: models.CNF(fields.Planar(2, units=8), 2, rtol=1e-6, atol=1e-6),
        lambda: models.CNF(fields.MLP(2, hidden=16), 2, rtol=1e-6, atol=1e-6, compile=True),
        lambda: models.RealNVP(2, hidden=16),
        lambda: models.PlanarFlow(2),
    ],
    ids=["concat-squash", "planar", "compiled", "real-nvp", "planar-layers"],
)
def test_a_density(model):
    for here, there in zip(density(model, "cpu"), density(model, CUDA), strict=True):
        torch.testing.assert_close(here, there, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("coupling", ["independent", "ot", "sinkhorn"])
def test_flow_matching_trains_and_samples(coupling):
    model = models.FlowMatching(fields.MLP(2, hidden=16), 2, coupling=coupling).to(CUDA)
    x = torch.randn(32, 2, device=CUDA)
    model.loss(x).backward()
    assert model.sample((5,)).shape == (5, 2)
    assert model().log_prob(x[:4]).isfinite().all()


def test_a_layer_of_an_image_network():
    def logits(device):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), models.NeuralODE(fields.ConvField(8, groups=2), rtol=1e-4, atol=1e-4),
            nn.Flatten(), nn.Linear(8 * 64, 10))  # fmt: skip
        x = torch.linspace(-1, 1, 4 * 64).reshape(4, 1, 8, 8)
        return net.to(device)(x.to(device)).detach().cpu()

    torch.testing.assert_close(logits("cpu"), logits(CUDA), rtol=2e-2, atol=2e-3)  # TF32 convolutions


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment(name, tmp_path):
    experiment = find(name)
    config = experiment.config("tiny")
    run = Run(name, config, folder=tmp_path, preset="tiny", seed=0, device=CUDA, expected=(), quiet=True)
    experiment(config, run)
    assert run.finish()["status"] == "finished"
