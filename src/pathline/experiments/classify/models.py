"""The six models: one stem and one head, and between them a block, or none."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pathline import Adjoint, fields, nets
from pathline.experiments.classify.config import Config
from pathline.models import NeuralODE, ResNet

CLASSES = 10

NAMES = {
    "mlp": "MLP",
    "no_block": "no block",
    "residual_1": "1 residual block",
    "residual_6": "6 residual blocks",
    "rk_net": "RK-Net (backpropagation)",
    "ode_net": "ODE-Net (adjoint)",
}


class Classifier(nn.Sequential):
    """Stem, block and head, called one after the other."""

    def __init__(self, stem: nn.Module, block: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.block, self.head = stem, block, head


def build(name: str, config: Config, pixels: int) -> nn.Module:
    """One of the six, for images with that many pixels.

    Raises:
        ValueError: No model has this name.
    """
    blocks: dict[str, Callable[[], nn.Module]] = {
        "no_block": nn.Identity,
        "residual_1": lambda: residual(config, 1),
        "residual_6": lambda: residual(config, 6),
        "rk_net": lambda: flow(config, "backprop"),
        "ode_net": lambda: flow(config, Adjoint(rtol=config.adjoint_tol, atol=config.adjoint_tol)),
    }
    if name == "mlp":
        return perceptron(pixels, parameters(build("ode_net", config, pixels)))
    if name not in blocks:
        raise ValueError(f"`rows` are some of {', '.join(NAMES)}, but {name!r} came.")
    return Classifier(stem(config), blocks[name](), head(config))


def stem(config: Config) -> nn.Module:
    """Convolutions that halve the image, with the activation between them."""
    layers: list[nn.Module] = []
    for i in range(config.halvings):
        layers += [nn.GroupNorm(config.groups, config.channels), nn.ReLU()] if i else []
        layers.append(nn.Conv2d(config.channels if i else 1, config.channels, 3, stride=2, padding=1))
    return nn.Sequential(*layers)


def head(config: Config) -> nn.Module:
    """Norm, activation, means over parts of the image, and a linear layer; with one part as in the paper."""
    return nn.Sequential(
        nn.GroupNorm(config.groups, config.channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(config.pooled),
        nn.Flatten(),
        nn.Linear(config.channels * config.pooled**2, CLASSES),
    )


def residual(config: Config, count: int) -> ResNet:
    """Residual blocks, each with weights of its own."""
    return ResNet(
        [nets.ConvBlock(config.channels, groups=config.groups, activation=config.activation) for _ in range(count)]
    )


def flow(config: Config, gradient: str | Adjoint) -> NeuralODE:
    """The block that is a differential equation."""
    field = fields.ConvField(config.channels, groups=config.groups, activation=config.activation)
    return NeuralODE(field, method=config.method, rtol=config.tol, atol=config.tol, gradient=gradient)


def perceptron(pixels: int, size: int) -> nn.Module:
    """One hidden layer, with as many units as make about ``size`` parameters."""
    units = max(1, round((size - CLASSES) / (pixels + 1 + CLASSES)))
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, units), nn.ReLU(), nn.Linear(units, CLASSES))


def parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def correct(model: nn.Module, images: Tensor, labels: Tensor, size: int = 250) -> Tensor:
    """Which images are classified rightly, ``(n,)`` booleans."""
    with torch.no_grad():
        guesses = [model(part).argmax(1) for part in images.split(size)]
    return torch.cat(guesses) == labels
