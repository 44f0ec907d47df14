"""A linear flow whose kernel diffuses: constant weights cannot follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.experiments.evolving_weights.blocks import Ahead, LockStep, constant, independent, size
from pathline.experiments.evolving_weights.config import Config
from pathline.fields import EvolvingWeights
from pathline.models import NeuralODE
from pathline.train import Run

NAMES = ("lock_step", "ahead", "node", "resnet")
LABELS = {
    "lock_step": "weights in lock-step",
    "ahead": "weights ahead",
    "node": "constant weights",
    "resnet": "independent weights",
}


@dataclass
class Outcome:
    """The truth, the four trained models, their losses over the updates and their errors on new inputs."""

    truth: EvolvingWeights
    models: dict[str, nn.Module]
    losses: dict[str, list[float]]
    errors: dict[str, float]


def study(config: Config, run: Run) -> Outcome:
    """Fit the four blocks to the true map.

    The map is linear, so that the images of the unit vectors say everything: the loss is the expected error for white
    noise at the input, without sampling.
    """
    truth = true_field(config, run.seed).to(run.device)
    width = config.channels * config.line
    x = torch.eye(width, dtype=torch.float64).reshape(width, config.channels, config.line).to(run.device)
    generator = torch.Generator().manual_seed(run.seed)
    new = torch.randn(256, config.channels, config.line, dtype=torch.float64, generator=generator).to(run.device)
    y, new_y = flow(truth, x), flow(truth, new)
    scale = float(y.square().mean())
    outcome = Outcome(truth, {}, {}, {})
    for name in NAMES:
        torch.manual_seed(run.seed)
        model = build(config, name).double().to(run.device)

        def loss(model: nn.Module, batch: None) -> Tensor:
            return F.mse_loss(model(x), y) / scale

        history = run.fit(name, model, loss, steps=config.updates, lbfgs_steps=config.polish, lr=config.lr)
        with torch.no_grad():
            outcome.errors[name] = float(F.mse_loss(model(new), new_y) / new_y.square().mean())
        outcome.models[name], outcome.losses[name] = model, history.loss
    return outcome


def true_field(config: Config, seed: int) -> EvolvingWeights:
    """A kernel that is skew, so that its flow neither grows nor decays, and that diffuses and grows."""
    field: Any = EvolvingWeights(convolution(config.channels, config.kernel)).double()
    generator = torch.Generator().manual_seed(seed)
    shape = (config.channels, config.channels, config.kernel)
    w = torch.randn(shape, dtype=torch.float64, generator=generator)
    w = w - w.transpose(0, 1).flip(-1)
    with torch.no_grad():
        field.module.weight.copy_(config.strength * w / w.norm())
        field.evolution.diffusion.fill_(config.diffusion)
        field.evolution.reaction.fill_(config.reaction)
    return field.requires_grad_(False)


def flow(truth: EvolvingWeights, x: Tensor) -> Tensor:
    """The true map, at tolerance 1e-9."""
    return NeuralODE(truth, rtol=1e-9, atol=1e-9)(truth.start(x))[0]


def convolution(channels: int, width: int) -> nn.Conv1d:
    """A small random kernel on the periodic line."""
    module = nn.Conv1d(channels, channels, width, padding=width // 2, padding_mode="circular", bias=False)
    nn.init.normal_(module.weight, std=0.3 / (channels * width) ** 0.5)
    return module


def build(config: Config, name: str) -> nn.Module:
    """One of the four, before training; the residual network has at least the parameters of the others."""
    if name == "resnet":
        return independent([convolution(config.channels, 3) for _ in range(_blocks(config))])
    module = convolution(config.channels, config.kernel)
    kinds = {"lock_step": LockStep, "ahead": Ahead, "node": constant}
    return kinds[name](module, config.steps)


def _blocks(config: Config) -> int:
    """Blocks of kernels with three cells whose parameters are those of one longer kernel and its evolution."""
    budget = size(LockStep(convolution(config.channels, config.kernel), 1))
    return -(-budget // (3 * config.channels**2))
