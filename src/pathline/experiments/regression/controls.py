"""What a flow cannot do, and what depth does to a network that is not residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline import fields, nets
from pathline.data import crossing, two_moons
from pathline.experiments.regression.config import Config
from pathline.models import NeuralODE, ResNet
from pathline.train import Run


def cross(config: Config, run: Run) -> None:
    """Ask flows on the line and in the plane to swap -1 and 1, with no layer behind the flow that could do it."""
    x, y = (tensor.to(run.device) for tensor in crossing())
    for name, augment in (("plain", 0), ("augmented", 1)):
        torch.manual_seed(run.seed)
        field = fields.MLP(1 + augment, config.width, time=True)
        flow = NeuralODE(field, augment=augment, rtol=config.tol, atol=config.tol).to(run.device)
        run.fit(f"crossing-{name}", flow, lambda model, batch: model.loss((x, y)), steps=config.crossing_steps, lr=1e-2)
        with torch.no_grad():
            run.metric(f"crossing_{name}_mse", float(flow.loss((x, y))))


def deepen(config: Config, run: Run) -> None:
    """Train plain and residual classifiers of growing depth on the same points."""
    generator = torch.Generator().manual_seed(run.seed)
    points, labels = (tensor.to(run.device) for tensor in two_moons(256, 0.1, generator))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(points), labels)

    found: dict[str, list[float]] = {}
    for kind, build in (("plain", plain_network), ("residual", residual_network)):
        for depth in config.depths:
            torch.manual_seed(run.seed)
            network = build(depth).to(run.device)
            run.fit(f"{kind}-{depth}", network, loss, steps=config.depth_steps, lr=config.depth_lr)
            with torch.no_grad():
                found.setdefault(kind, []).append(float(loss(network, None)))
    for kind, losses in found.items():
        run.metric(f"{kind}_deep_to_shallow", losses[-1] / losses[0])
    rows = [[kind, *losses] for kind, losses in found.items()]
    run.table("Training loss by depth (cross-entropy, two moons)", ["", *map(str, config.depths)], rows)


def plain_network(depth: int, width: int = 32) -> nn.Module:
    """``depth`` hidden layers of tanh, without shortcuts."""
    return nets.MLP(2, 2, (width,) * depth, activation="tanh")


def residual_network(depth: int, width: int = 32) -> nn.Module:
    """``depth`` residual blocks of one tanh layer each, with step ``1 / depth``."""
    blocks = [nn.Sequential(nets.MLP(width, width, ()), nn.Tanh()) for _ in range(depth)]
    return nn.Sequential(nn.Linear(2, width), ResNet(blocks, step=1 / depth), nn.Linear(width, 2))
