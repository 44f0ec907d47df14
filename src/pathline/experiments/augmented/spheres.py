"""A ball inside a shell, whole and with a wedge that training never sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pathline.data import concentric_spheres
from pathline.experiments.augmented.config import Config
from pathline.experiments.augmented.flows import Flow, matched
from pathline.models import NeuralODE
from pathline.train import Run, minibatches

WEDGE = (0.0, math.pi / 5)
NAMES = ("node", "anode")


@dataclass
class Fitted:
    """A trained flow, and its evaluations while it was trained."""

    flow: Flow
    epochs: list[float]
    evaluations: list[float]
    measured: dict[str, float] = field(default_factory=dict)

    def growth(self, share: float = 0.0) -> float:
        """Evaluations after training over those after a share of it."""
        before = next(i for i, epoch in enumerate(self.epochs) if epoch >= share * self.epochs[-1])
        return self.evaluations[-1] / self.evaluations[before]


def study(config: Config, run: Run) -> dict[str, dict[str, Fitted]]:
    """Both flows on all of the plane (``whole``) and without the wedge; the plain one there read the other way too."""
    fits = [(part, name, 1.0) for part in ("whole", "wedge") for name in NAMES] + [("away", "node", -1.0)]
    found: dict[str, dict[str, Fitted]] = {}
    for part, name, sign in fits:
        x, labels = points(config, run.seed, without=None if part == "whole" else WEDGE)
        # New points of the whole plane, and the wedge that all but the first two fits have not seen.
        tests = {"test": points(config, run.seed + 1000), "wedge": points(config, run.seed + 2000, within=WEDGE)}
        fitted = fit(config, run, f"{part}-{name}", build(config, name, run.seed, sign), x, labels)
        fitted.measured = measured(config, fitted.flow, {"train": (x, labels), **tests})
        found.setdefault(part, {})[name] = fitted
    return found


def points(config: Config, seed: int, **wedge: Any) -> tuple[Tensor, Tensor]:
    """Points and labels, 1 for the ball and -1 for the shell."""
    generator = torch.Generator().manual_seed(seed)
    x, shell = concentric_spheres(config.inner, config.outer, generator=generator, **wedge)
    return x, 1.0 - 2.0 * shell


def build(config: Config, name: str, seed: int, sign: float = 1.0) -> Flow:
    """A flow with its fixed readout: along the wedge for the plain one, the added component for the augmented one."""
    torch.manual_seed(seed)
    solver = {"method": config.method, "rtol": config.tol, "atol": config.tol}
    if name == "anode":
        return Flow(2, 1, torch.tensor([[0.0], [0.0], [1.0]]), config.hidden, config.activation, **solver)
    return Flow(2, 0, sign * bisector(), matched(2, 3, config.hidden), config.activation, **solver)


def bisector() -> Tensor:
    """The direction of the middle of the wedge, as a functional of the plane."""
    middle = sum(WEDGE) / 2
    return torch.tensor([[math.cos(middle)], [math.sin(middle)]])


def fit(config: Config, run: Run, name: str, flow: Flow, x: Tensor, labels: Tensor) -> Fitted:
    """Train on ±1 by mean square error, and count evaluations after each epoch."""
    flow, x, labels = flow.to(run.device), x.to(run.device), labels.to(run.device)
    per_epoch = -(-len(x) // config.batch)

    def loss(flow: Flow, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(flow(batch[0])[:, 0], batch[1])

    def count(flow: Flow) -> float:
        return evaluations(config, flow.ode, x)

    batches = minibatches(x, labels, size=config.batch, seed=run.seed)
    steps = config.epochs * per_epoch
    history = run.fit(
        name, flow, loss, batches=batches, steps=steps, lr=config.lr, evaluate=count, evaluate_every=per_epoch
    )
    watched = history.columns["watched"]
    checks = [step for step, value in enumerate(watched) if not math.isnan(value)]
    epochs = [*(step / per_epoch for step in checks), float(config.epochs)]
    return Fitted(flow, epochs, [*(watched[step] for step in checks), count(flow)])


def evaluations(config: Config, ode: NeuralODE, x: Tensor) -> float:
    """Evaluations that a point needs, in the mean over the points; each has a clock of its own."""
    with torch.no_grad():
        solution = ode.solve(x, rtol=config.measured_tol, atol=config.measured_tol, clock="per-sample")
    rows = solution.stats.rows
    return float(rows.evaluations.double().mean())


def measured(config: Config, flow: Flow, sets: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Accuracy on each set, evaluations of the batch on the shared clock, and the way there and back."""
    ode, device, found = flow.ode, flow.readout.device, {}
    tight: Any = {"rtol": config.measured_tol, "atol": config.measured_tol}
    with torch.no_grad():
        for name, (x, labels) in sets.items():
            end = ode.solve(x.to(device), **tight).y1
            found[f"{name}_accuracy"] = float(((end @ flow.readout)[:, 0] * labels.to(device) > 0).float().mean())
        there = ode.solve(sets["train"][0].to(device), **tight)
        start = there.ys[0]
        back = NeuralODE(ode.field, t=(1.0, 0.0), method=ode.method, **tight)(there.y1)
    found["evaluations"] = float(there.stats.evaluations)
    found["there_and_back"] = float((back - start).norm() / start.norm())
    return found
