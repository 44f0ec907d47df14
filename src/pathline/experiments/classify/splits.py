"""Which images train and which test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pathline import data
from pathline.experiments.classify.config import Config


@dataclass(frozen=True)
class Split:
    """Images ``(n, 1, height, width)`` and labels ``(n,)`` to train on, and others to test on."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def splits(config: Config, seed: int) -> Iterator[Split]:
    """One split a fold of the digits; the published one of Fashion-MNIST."""
    if config.data == "fashion-mnist":
        images, labels = _some(*data.fashion_mnist(config.data_root), config.images, seed)
        others, other_labels = data.fashion_mnist(config.data_root, "test")
        yield _standardised((images, labels), (others, other_labels))
        return
    images, labels = _some(*data.digits(), config.images, seed)
    fold = stratified(labels, config.folds, seed)
    for k in range(config.folds):
        yield _standardised((images[fold != k], labels[fold != k]), (images[fold == k], labels[fold == k]))


def stratified(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each sample, ``(n,)``: at random, with shares of each class that differ by one sample at most."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # by class, at random within it
    fold = torch.empty_like(labels)
    fold[order] = torch.arange(len(labels)) % folds
    return fold


def _some(images: Tensor, labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    if not count:
        return images, labels
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    return images[chosen], labels[chosen]


def _standardised(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Split:
    """Pixels with the mean 0 and the deviation 1 of the training images."""
    mean, std = train[0].mean(), train[0].std()
    return Split(((train[0] - mean) / std, train[1]), ((test[0] - mean) / std, test[1]))
