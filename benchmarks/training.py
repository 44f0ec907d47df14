"""A training step of a small neural ODE, beside torchdiffeq: same method, tolerance, dtype and output times."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import pathline
from benchmarks.rows import Row
from benchmarks.timing import compare, seconds

RTOL, ATOL = 1e-5, 1e-6
PEER = "torchdiffeq"


class MLPField(nn.Module):
    """dy/dt = MLP(y), two hidden tanh layers."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        layers = (nn.Linear(dim, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, dim))
        self.net = nn.Sequential(*layers)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


@dataclass(frozen=True)
class Task:
    """A field, a start and output times."""

    field: nn.Module
    y0: Tensor
    t: Tensor

    def ours(self, gradient: str) -> Tensor:
        """The trajectory by pathline."""
        return self.solution(gradient).ys

    def solution(self, gradient: str) -> pathline.Solution:
        """Pathline's solution."""
        return pathline.solve(self.field, self.y0, self.t, method="dopri5", rtol=RTOL, atol=ATOL, gradient=gradient)

    def theirs(self, gradient: str) -> Tensor:
        """The trajectory by torchdiffeq."""
        import torchdiffeq  # a peer may be missing

        solve = torchdiffeq.odeint_adjoint if gradient == "adjoint" else torchdiffeq.odeint
        return solve(self.field, self.y0, self.t, method="dopri5", rtol=RTOL, atol=ATOL)

    def step(self, trajectory: Callable[[str], Tensor], gradient: str) -> Callable[[], None]:
        """Mean square of the whole trajectory, and the gradient of all parameters."""

        def work() -> None:
            self.field.zero_grad(set_to_none=True)
            trajectory(gradient).square().mean().backward()

        return work

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
        """The gradient of a float64 solve at tolerance 1e-11."""
        field = copy.deepcopy(self.field).double()
        field.zero_grad(set_to_none=True)
        ys = pathline.solve(field, self.y0.double(), self.t.double(), method="dopri8", rtol=1e-11, atol=1e-12).ys
        ys.square().mean().backward()
        return torch.cat([p.grad.reshape(-1) for p in field.parameters() if p.grad is not None])


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


def default_task(dim: int, width: int, batch: int, *, end: float = 1.0, times: int = 11) -> Task:
    """The field at torch's own initialisation."""
    torch.manual_seed(0)
    return Task(MLPField(dim, width), torch.randn(batch, dim), torch.linspace(0.0, end, times))


def long_task() -> Task:
    """The same field on [0, 20], weights tripled so that it turns often enough for 50 steps."""
    task = default_task(2, 64, 32, end=20.0)
    with torch.no_grad():
        for layer in task.field.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(LONG_SCALE)
    return task


LONG_SCALE = 3.0


def trained_task(steps: int) -> Task:
    """The field of the smallest size after it was fitted to a spiral."""
    task = default_task(2, 64, 32)
    t = torch.linspace(0.0, 1.0, 11)
    turn = torch.linalg.matrix_exp(t[:, None, None] * torch.tensor([[-0.5, 6.0], [-6.0, -0.5]]))
    target = torch.einsum("tij,bj->tbi", turn, task.y0)
    optimizer = torch.optim.Adam(task.field.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (task.ours("backprop") - target).square().mean().backward()
        optimizer.step()
    return task


def training_row(name: str, task: Task, gradient: str, bar: float | None, pairs: int) -> Row:
    """One training step in one gradient mode, against the peer's own."""
    peer_gradient = "adjoint" if gradient == "adjoint" else "backprop"
    ours, theirs = task.step(task.ours, gradient), task.step(task.theirs, peer_gradient)
    reference, slope = task.reference(), task.reference_gradient()
    notes: dict[str, object] = {"evaluations": (count(task.field, ours), count(task.field, theirs))}
    with torch.no_grad():
        solution = task.solution("backprop")
        notes["accepted"] = solution.stats.accepted
        notes["error"] = tuple(
            float(((ys.double() - reference).abs() / (1.0 + reference.abs())).max())
            for ys in (solution.ys, task.theirs("backprop"))
        )
    slopes = []
    for work in (ours, theirs):
        work()
        slopes.append(float((task.gradient() - slope).norm() / slope.norm()))
    timed = compare(ours, theirs, pairs=pairs)
    notes = {"ms": timed.milliseconds(), **notes, "gradient error": tuple(slopes)}
    if gradient == "backprop":
        floor = task.floor(count(task.field, ours))
        notes["floor ms"] = 1e3 * statistics.median(seconds(floor) for _ in range(max(5, pairs // 5)))
    return Row(f"{name}, {gradient}", timed.ratio, timed.bounds[0], "x", bar, notes=notes)


def forward_row(name: str, task: Task, pairs: int) -> Row:
    """A solve without gradient."""

    @torch.no_grad()
    def ours() -> Tensor:
        return task.ours("backprop")

    @torch.no_grad()
    def theirs() -> Tensor:
        return task.theirs("backprop")

    counts = (count(task.field, ours), count(task.field, theirs))
    timed = compare(ours, theirs, pairs=pairs)
    return Row(
        f"{name}, solve", timed.ratio, timed.bounds[0], "x", notes={"ms": timed.milliseconds(), "evaluations": counts}
    )


SIZES = {(2, 64, 32): 2.0, (2, 64, 256): 1.8, (32, 128, 256): 1.8, (64, 512, 512): 1.15}


def training(*, quick: bool) -> Iterator[Row]:
    """The training steps of the four sizes, and the two further rows."""
    pairs = 10 if quick else 100
    for size, bar in SIZES.items():
        yield training_row("step " + "-".join(map(str, size)), default_task(*size), "backprop", bar, pairs)
    yield training_row("step 2-64-32 on [0, 20]", long_task(), "backprop", None, pairs // 2)
    yield training_row("step 2-64-32 trained", trained_task(30 if quick else 300), "backprop", None, pairs)


def modes(*, quick: bool) -> Iterator[Row]:
    """Solves without gradient, and the other gradient modes."""
    pairs = 5 if quick else 30
    for size in list(SIZES)[:3]:
        name = "step " + "-".join(map(str, size))
        yield forward_row(name.replace("step ", ""), default_task(*size), pairs)
        yield training_row(name, default_task(*size), "checkpointed", None, pairs)
        yield training_row(name, default_task(*size), "adjoint", None, max(3, pairs // 3))
