"""What is trained in the benchmarks: a field, a start, output times, and the answers at 1e-12."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import pathline

RTOL, ATOL = 1e-5, 1e-6
METHOD = "dopri5"
#: dim, width, batch, and the bars that a training step there is held to, by what it is measured against.
SIZES = {
    (2, 64, 32): {"eager": 2.0, "compiled": 6.0, "diffrax": 1.0},
    (2, 64, 256): {"eager": 1.8, "compiled": 4.0, "diffrax": 1.8},
    (32, 128, 256): {"eager": 1.8, "compiled": 2.7, "diffrax": 2.5},
    (64, 512, 512): {"eager": 1.15},
}
LONG_SCALE = 3.0


class MLPField(nn.Module):
    """dy/dt = MLP(y^power), tanh between the layers; two hidden ones, or one."""

    def __init__(self, dim: int, width: int, *, hidden: int = 2, power: int = 1) -> None:
        super().__init__()
        self.power = power
        sizes = [dim, *[width] * hidden, dim]
        layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
        for a, b in zip(sizes[1:-1], sizes[2:], strict=True):
            layers += [nn.Tanh(), nn.Linear(a, b)]
        self.net = nn.Sequential(*layers)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y if self.power == 1 else y**self.power)


class ConvField(nn.Module):
    """dy/dt = conv(tanh(conv(y))), 3 x 3, as many channels everywhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = (nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh(), nn.Conv2d(channels, channels, 3, padding=1))
        self.net = nn.Sequential(*layers)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


@dataclass(frozen=True)
class Task:
    """A field, a start and output times; the loss is the mean square of the whole trajectory."""

    field: nn.Module
    y0: Tensor
    t: Tensor
    name: str = ""
    bars: dict[str, float] = field(default_factory=dict)

    def ours(self, gradient: str) -> Tensor:
        """The trajectory by pathline."""
        return self.solution(gradient).ys

    def solution(self, gradient: object, **options: object) -> pathline.Solution:
        """Pathline's solution."""
        options = {"method": METHOD, **options}
        return pathline.solve(self.field, self.y0, self.t, rtol=RTOL, atol=ATOL, gradient=gradient, **options)  # pyright: ignore[reportArgumentType]

    def theirs(self, gradient: str) -> Tensor:
        """The trajectory by torchdiffeq."""
        import torchdiffeq  # a peer may be missing

        solve = torchdiffeq.odeint_adjoint if gradient == "adjoint" else torchdiffeq.odeint
        return solve(self.field, self.y0, self.t, method=METHOD, rtol=RTOL, atol=ATOL)

    def floor(self, evaluations: int) -> Callable[[], None]:
        """A chain of as many evaluations and their backward pass: what no solver can go below."""

        def work() -> None:
            self.field.zero_grad(set_to_none=True)
            y, t = self.y0, torch.zeros(())
            for _ in range(evaluations):
                y = torch.add(y, self.field(t, y), alpha=0.01)
            y.square().mean().backward()

        return work

    def gradient(self) -> Tensor:
        """The gradients of the last step in one vector."""
        return torch.cat([p.grad.reshape(-1).double() for p in self.field.parameters() if p.grad is not None])

    def reference(self) -> Tensor:
        """The trajectory at tolerance 1e-12 in float64, by scipy."""
        field, shape = copy.deepcopy(self.field).double(), self.y0.shape

        def rate(t: float, y):
            with torch.no_grad():
                return field(torch.tensor(t), torch.from_numpy(y).reshape(shape)).reshape(-1).numpy()

        t = self.t.double().numpy()
        start = self.y0.double().reshape(-1).numpy()
        answer = solve_ivp(rate, (t[0], t[-1]), start, method="DOP853", t_eval=t, rtol=1e-12, atol=1e-12)
        return torch.from_numpy(answer.y.T.copy()).reshape(len(t), *shape)

    def reference_gradient(self) -> Tensor:
        """The gradient of a float64 solve at tolerance 1e-12."""
        field = copy.deepcopy(self.field).double()
        field.zero_grad(set_to_none=True)
        tight = {"method": "dopri8", "rtol": 1e-12, "atol": 1e-12, "gradient": "checkpointed"}
        pathline.solve(field, self.y0.double(), self.t.double(), **tight).ys.square().mean().backward()  # pyright: ignore[reportArgumentType]
        return torch.cat([p.grad.reshape(-1) for p in field.parameters() if p.grad is not None])


def default_task(dim: int, width: int, batch: int, *, end: float = 1.0, times: int = 11, name: str = "") -> Task:
    """The field at torch's own initialisation."""
    torch.manual_seed(0)
    bars = SIZES.get((dim, width, batch), {})
    name = name or f"{dim}-{width}-{batch}"
    return Task(MLPField(dim, width), torch.randn(batch, dim), torch.linspace(0.0, end, times), name, bars)


def long_task() -> Task:
    """The same field on [0, 20], weights tripled so that it turns often enough for 50 steps."""
    task = default_task(2, 64, 32, end=20.0, name="2-64-32 on [0, 20]")
    with torch.no_grad():
        for layer in task.field.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(LONG_SCALE)
    return Task(task.field, task.y0, task.t, task.name)


def trained_task(steps: int) -> Task:
    """The field of the smallest size after it was fitted to a spiral."""
    task = default_task(2, 64, 32, name="2-64-32 trained")
    t = torch.linspace(0.0, 1.0, 11)
    turn = torch.linalg.matrix_exp(t[:, None, None] * torch.tensor([[-0.5, 6.0], [-6.0, -0.5]]))
    target = torch.einsum("tij,bj->tbi", turn, task.y0)
    optimizer = torch.optim.Adam(task.field.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (task.ours("backprop") - target).square().mean().backward()
        optimizer.step()
    return Task(task.field, task.y0, task.t, task.name)


def spiral_task() -> Task:
    """The neural ODE of the well-known spiral: 2-50-2 on y^3, 20 starts, 30 points on [0, 1.5]."""
    torch.manual_seed(0)
    field = MLPField(2, 50, hidden=1, power=3)
    for layer in field.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.1)
            nn.init.zeros_(layer.bias)
    starts = torch.tensor([2.0, 0.0]) * torch.linspace(0.5, 1.0, 20)[:, None]
    return Task(field, starts, torch.linspace(0.0, 1.5, 30), "spiral, 2-50-2")


def conv_task(batch: int = 32, channels: int = 16, side: int = 16) -> Task:
    """A convolutional field on images."""
    torch.manual_seed(0)
    name = f"convolutions, {batch} x {channels} x {side} x {side}"
    return Task(ConvField(channels), torch.randn(batch, channels, side, side), torch.linspace(0.0, 1.0, 11), name=name)


def count(field: nn.Module, work: Callable[[], object]) -> int:
    """Evaluations of a field during one call."""
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = field.register_forward_pre_hook(hook)
    work()
    handle.remove()
    return calls
