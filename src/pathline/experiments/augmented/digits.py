"""Handwritten digits, by flows of the pixels themselves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pathline import data
from pathline.experiments.augmented.config import Config
from pathline.experiments.augmented.flows import Flow, matched
from pathline.train import Run, minibatches

PIXELS, CLASSES = 64, 10


def study(config: Config, run: Run) -> dict[str, float]:
    """Both flows, each part of the digits held out once: the mean accuracies."""
    images, labels = data.digits()
    x = images.flatten(1) / 16.0
    parts = folds(labels, config.folds, run.seed)
    accuracy: dict[str, list[float]] = {"node": [], "anode": []}
    sizes = {}
    for number in range(config.folds):
        test = parts == number
        for name, found in accuracy.items():
            torch.manual_seed(run.seed)
            flow = build(config, name).to(run.device)
            sizes[name] = sum(parameter.numel() for parameter in flow.parameters())
            train(config, run, f"digits-{name}-{number}", flow, x[~test].to(run.device), labels[~test].to(run.device))
            found.append(held_out(flow, x[test].to(run.device), labels[test].to(run.device)))
    means = {name: sum(found) / len(found) for name, found in accuracy.items()}
    for name, mean in means.items():
        run.metric(f"digits_{name}_accuracy", mean)
    run.metric("digits_gain", 100 * (means["anode"] - means["node"]), "points")
    run.table(
        f"Digits, {config.folds} folds: held-out accuracy",
        ["", "parameters", *(f"fold {i + 1}" for i in range(config.folds)), "mean"],
        [[name.upper(), sizes[name], *accuracy[name], means[name]] for name in means],
    )
    return means


def folds(labels: Tensor, count: int, seed: int) -> Tensor:
    """The part of each digit, with equally many of each class in every part."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    parts = torch.empty_like(labels)
    parts[order] = torch.arange(len(labels)) % count
    return parts


def build(config: Config, name: str) -> Flow:
    """A flow whose last ten components are the scores of the classes."""
    augment = config.digits_augment if name == "anode" else 0
    hidden = config.digits_hidden
    if name == "node":
        hidden = matched(PIXELS, PIXELS + config.digits_augment, hidden)
    readout = torch.eye(PIXELS + augment)[:, -CLASSES:]
    solver = {"method": config.method, "rtol": config.tol, "atol": config.tol}
    return Flow(PIXELS, augment, readout, hidden, config.activation, **solver)


def train(config: Config, run: Run, name: str, flow: Flow, x: Tensor, labels: Tensor) -> None:
    """Adam on the cross-entropy."""

    def loss(flow: Flow, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(flow(batch[0]), batch[1])

    steps = config.digits_epochs * -(-len(x) // config.batch)
    batches = minibatches(x, labels, size=config.batch, seed=run.seed)
    run.fit(name, flow, loss, batches=batches, steps=steps, lr=config.digits_lr, schedule="cosine")


def held_out(flow: Flow, x: Tensor, labels: Tensor) -> float:
    """The accuracy on digits that the flow has not seen."""
    with torch.no_grad():
        return float((flow(x).argmax(1) == labels).double().mean())
