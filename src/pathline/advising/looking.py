"""Estimates of a field along its solution: how steep, how stiff, how smooth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pathline._search import Walk
from pathline.integrals.rates import linear

#: Layers whose output has kinks, or jumps.
KINKED = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Threshold,
    nn.SELU,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
)

#: Halving the distance of points on a line halves the largest change of slope between them where there is no kink.
HALVED = 0.75


class Rate:
    """A field as a function of time and one flat state, without gradient.

    Args:
        f: ``f(t, y)`` of structured states.
        y: a state.
    """

    def __init__(self, f: Callable[[Tensor, Any], Any], y: Any) -> None:
        leaves, self.spec = pytree.tree_flatten(y)
        self.f, self.shapes = f, [x.shape for x in leaves]
        self.time = leaves[0].real if leaves[0].is_complex() else leaves[0]

    def flat(self, y: Any) -> Tensor:
        """One vector."""
        return torch.cat([x.reshape(-1) for x in pytree.tree_leaves(y)])

    def state(self, z: Tensor) -> Any:
        """The structure again."""
        parts = z.split([s.numel() for s in self.shapes])
        return pytree.tree_unflatten([p.reshape(s) for p, s in zip(parts, self.shapes, strict=True)], self.spec)

    def __call__(self, t: float, z: Tensor) -> Tensor:
        with torch.enable_grad():  # a field may differentiate inside
            y = self.state(z.detach().requires_grad_())
            return self.flat(self.f(self._time(t), y)).detach()

    def pull(self, t: float, z: Tensor) -> Callable[[Tensor], Tensor]:
        """``v^T df/dy``."""
        with torch.no_grad():
            _, back = linear(lambda y: self.f(self._time(t), y), self.state(z))
        return lambda v: self.flat(back(self.state(v)))

    def push(self, t: float, z: Tensor) -> Callable[[Tensor], Tensor]:
        """``df/dy v``, by central differences: serves every field, and an estimate needs no more."""
        size = float(torch.linalg.vector_norm(z)) + 1.0

        def forth(v: Tensor) -> Tensor:
            eps = torch.finfo(self.time.dtype).eps ** (1 / 3) * size / float(torch.linalg.vector_norm(v))
            return (self(t, z + eps * v) - self(t, z - eps * v)) / (2 * eps)

        return forth

    def _time(self, t: float) -> Tensor:
        return torch.tensor(t, dtype=torch.float64).to(self.time)


def steepness(rate: Rate, t: float, z: Tensor, *, rounds: int = 12) -> tuple[float, float]:
    """The spectral norm of the Jacobian and the largest size of its eigenvalues, by power iterations."""
    pull, push = rate.pull(t, z), rate.push(t, z)
    start = _start(z)
    norm = _growth(lambda v: pull(push(v)), start, rounds)
    fastest = _growth(push, start, 2 * rounds)
    return math.sqrt(norm), fastest


def _start(z: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    real = z.real if z.is_complex() else z
    return torch.randn(z.shape, generator=generator, dtype=torch.float64).to(real).to(z.dtype)


def _growth(product: Callable[[Tensor], Tensor], v: Tensor, rounds: int) -> float:
    """The rate at which repeated products grow: the geometric mean over the last half, for pairs of eigenvalues."""
    logs: list[float] = []
    for _ in range(rounds):
        v = v / torch.linalg.vector_norm(v)
        v = product(v)
        length = float(torch.linalg.vector_norm(v))
        if not 0 < length < math.inf:
            return 0.0 if length == 0 else math.nan
        logs.append(math.log(length))
    last = logs[rounds // 2 :]
    return math.exp(sum(last) / len(last))


def kinked_layers(f: Any, args: Any) -> tuple[str, ...]:
    """Layers with kinks among all that the field can reach."""
    found: list[str] = []

    def look(module: nn.Module) -> bool:
        kinked = isinstance(module, KINKED) or (isinstance(module, nn.ELU) and module.alpha != 1.0)
        if kinked and (name := type(module).__name__) not in found:
            found.append(name)
        return True

    walk = Walk(lambda tensor, place: None, look)
    walk.visit(f)
    walk.visit(args)
    return tuple(found)


def looks_smooth(rate: Rate, times: Sequence[float], states: Sequence[Tensor], *, points: int = 128) -> bool:
    """Whether the field has no kinks on lines between states of the solution.

    Where a function is smooth, the change of slope from one interval to the next is of the order of their length, and
    halves when they are halved; at a kink, which two neighbouring changes share, it stays.
    """
    spread = max(float((b - a).abs().max()) for a in states[:1] for b in states[1:]) if len(states) > 1 else 0.0
    for t, middle in zip(times, states, strict=True):
        way = _start(middle) * (spread + 0.1 * float(middle.abs().max()) + 1e-3)
        line = torch.linspace(-1, 1, points + 1, dtype=torch.float64).tolist()
        values = torch.stack([rate(t, middle + s * way) for s in line])
        noise = 200 * torch.finfo(rate.time.dtype).eps * float(values.abs().max())
        fine, coarse = (float(_bends(values[::k]).abs().max()) / k for k in (1, 2))
        if fine > noise * points and fine > HALVED * coarse:
            return False
    return True


def _bends(values: Tensor) -> Tensor:
    bends = values[2:] - 2 * values[1:-1] + values[:-2]
    return bends[1:] + bends[:-1]
