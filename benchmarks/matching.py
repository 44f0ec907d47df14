"""A training step of flow matching beside torchcfm and flow_matching: draw, loss, gradient, update.

All take the same network with the same weights, the same data, batch and optimizer, and straight paths without noise;
each draws its own base and times, as its own documentation does.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pathline
from benchmarks.environment import installed
from benchmarks.rows import Point, Row
from benchmarks.timing import Work, race

OURS = "pathline"
#: A step may take at most a twentieth more than theirs.
BAR = 0.95


@dataclass(frozen=True)
class Task:
    """A network of three hidden layers, a batch, and how pairs are made."""

    name: str
    size: int
    width: int
    batch: int
    coupling: str = "independent"

    def data(self) -> Tensor:
        """The batch."""
        return torch.randn(self.batch, self.size, generator=torch.Generator().manual_seed(0)).tanh() * 2 + 1

    def net(self) -> nn.Module:
        """The network of ``[x, t]``."""
        torch.manual_seed(0)
        return pathline.nets.MLP(self.size + 1, self.size, (self.width,) * 3, activation="silu")


def tasks(*, quick: bool) -> list[Task]:
    """A plane, the size of small images, and optimal pairs."""
    if quick:
        return [Task("plane", 2, 16, 32), Task("plane, optimal pairs", 2, 16, 32, "ot")]
    return [
        Task("plane", 2, 128, 512),
        Task("784 numbers", 784, 512, 128),
        Task("plane, optimal pairs", 2, 128, 256, "ot"),
    ]


def matching(*, quick: bool) -> Iterator[Row | Point]:
    """All tasks: a point for each library, then the ratios."""
    for task in tasks(quick=quick):
        yield from measured(task, quick=quick)


def measured(task: Task, *, quick: bool) -> Iterator[Row | Point]:
    """One task."""
    contenders = {OURS: ours, "torchcfm": torchcfm, "flow_matching": flow_matching}
    if task.coupling != "independent":
        del contenders["flow_matching"]  # it leaves pairs to its user
    present = {name: make(task) for name, make in contenders.items() if name == OURS or installed(name)}
    rounds, budget = (4, 0.2) if quick else (400, 8.0)
    times = race(present, rounds=rounds, budget=budget, full=() if quick else tuple(present))
    for name in contenders:
        if name not in present:
            yield Point(f"matching, {task.name}", name, reason="not installed")
            continue
        ms, *interval = times.milliseconds(name)
        yield Point(f"matching, {task.name}", name, ms, (interval[0], interval[1]))
    for name in contenders:
        if name == OURS:
            continue
        title, line = f"matching, {task.name}: {name} / {OURS}", "flow-matching step, within 5 %"
        if name not in present:
            yield Row(title, None, None, "x", BAR, line=line, reason=f"{name}: not installed")
            continue
        timed = times.pair(OURS, name)
        notes = {"ms": timed.milliseconds(), "pairs": len(timed.ours)}
        yield Row(title, timed.ratio, timed.bounds[0], "x", BAR, notes=notes, line=line, interval=timed.bounds)


# --- who takes part -----------------------------------------------------------------------------------------------


def step(net: nn.Module, loss: Callable[[], Tensor]) -> Work:
    """One update by Adam."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def work() -> None:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return work


def ours(task: Task) -> Work:
    """``FlowMatching.loss``."""
    model = pathline.FlowMatching(pathline.fields.with_time(task.net()), task.size, coupling=task.coupling)
    x = task.data()
    return step(model, lambda: model.loss(x))


def torchcfm(task: Task) -> Work:
    """As the README of torchcfm trains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Any = importlib.import_module("torchcfm.conditional_flow_matching")
    kind = "ConditionalFlowMatcher" if task.coupling == "independent" else "ExactOptimalTransportConditionalFlowMatcher"
    matcher, net, x1 = getattr(module, kind)(sigma=0.0), task.net(), task.data()

    def loss() -> Tensor:
        x0 = torch.randn_like(x1)
        t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
        return torch.mean((net(torch.cat([xt, t[:, None]], dim=-1)) - ut) ** 2)

    return step(net, loss)


def flow_matching(task: Task) -> Work:
    """As the notebooks of flow_matching train."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths: Any = importlib.import_module("flow_matching.path")
        schedulers: Any = importlib.import_module("flow_matching.path.scheduler")
    path, net, x1 = paths.AffineProbPath(scheduler=schedulers.CondOTScheduler()), task.net(), task.data()

    def loss() -> Tensor:
        x0, t = torch.randn_like(x1), torch.rand(len(x1))
        sample = path.sample(t=t, x_0=x0, x_1=x1)
        return torch.pow(net(torch.cat([sample.x_t, sample.t[:, None]], dim=-1)) - sample.dx_t, 2).mean()

    return step(net, loss)
