"""Handwritten digits: the same small network around each block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline import data
from pathline.experiments.evolving_weights.blocks import Ahead, LockStep, constant, independent, size
from pathline.experiments.evolving_weights.config import Config
from pathline.experiments.evolving_weights.synthetic import LABELS, NAMES
from pathline.train import Run, minibatches

CLASSES = 10


def study(config: Config, run: Run) -> dict[str, float]:
    """Each part of the digits held out once: the mean accuracies."""
    images, labels = data.digits()
    x = images / 16.0
    parts = folds(labels, config.folds, run.seed)
    accuracy: dict[str, list[float]] = {name: [] for name in NAMES}
    sizes = {}
    for number in range(config.folds):
        test = parts == number
        for name, found in accuracy.items():
            torch.manual_seed(run.seed)
            network = build(config, name).to(run.device)
            sizes[name] = size(network)
            _train(config, run, f"digits-{name}-{number}", network, x[~test], labels[~test])
            found.append(held_out(network, x[test].to(run.device), labels[test].to(run.device)))
    means = {name: sum(found) / len(found) for name, found in accuracy.items()}
    run.table(
        f"Digits, {config.folds} folds: held-out accuracy",
        ["", "parameters", *(f"fold {i + 1}" for i in range(config.folds)), "mean"],
        [[LABELS[name], sizes[name], *accuracy[name], means[name]] for name in NAMES],
    )
    return means


def folds(labels: Tensor, count: int, seed: int) -> Tensor:
    """The part of each digit, with equally many of each class in every part."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    parts = torch.empty_like(labels)
    parts[order] = torch.arange(len(labels)) % count
    return parts


def build(config: Config, name: str) -> nn.Module:
    """A convolution of stride 2, one block, and a linear layer."""
    channels, steps = config.digits_channels, config.digits_steps
    if name == "resnet":
        # As many blocks as the flow has steps, each as much narrower inside: together they have its parameters.
        block = independent([_rate(channels, max(1, round(channels / steps))) for _ in range(steps)])
    else:
        kinds = {"lock_step": LockStep, "ahead": Ahead, "node": constant}
        block = kinds[name](_rate(channels, channels), steps, config.digits_method)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        block,
        nn.Flatten(),
        nn.Linear(16 * channels, CLASSES),
    )


def _rate(channels: int, inner: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, channels, 3, padding=1))


def _train(config: Config, run: Run, name: str, network: nn.Module, x: Tensor, labels: Tensor) -> None:
    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(network(batch[0]), batch[1])

    steps = config.digits_epochs * -(-len(x) // config.batch)
    batches = minibatches(x.to(run.device), labels.to(run.device), size=config.batch, seed=run.seed)
    run.fit(name, network, loss, batches=batches, steps=steps, lr=config.digits_lr, schedule="cosine")


def held_out(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """The accuracy on digits that the network has not seen."""
    with torch.no_grad():
        return float((network(x).argmax(1) == labels).double().mean())
