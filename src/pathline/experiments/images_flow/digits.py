"""The images in three parts: to learn from, to train the judge, to compare with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pathline.data import mnist5000


@dataclass(frozen=True)
class Part:
    """Images, ``(count, 1, 28, 28)``, and their classes, ``(count,)``, with equally many of each class."""

    images: Tensor
    labels: Tensor

    @property
    def classes(self) -> Tensor:
        """One-hot, ``(count, 10)``: the context of the flow."""
        return one_hot(self.labels)


@dataclass(frozen=True)
class Digits:
    """300 images of each digit for the flows, 100 for the judge, 100 to compare with; the same for every seed.

    Pixels are shifted and scaled so that those of the flows' part have mean 0 and variance 1, as the base has.
    """

    train: Part
    judge: Part
    held_out: Part
    paper: float
    ink: float

    @staticmethod
    def load(device: torch.device) -> Digits:
        """Read, cut and scale."""
        images, labels = mnist5000()
        generator = torch.Generator().manual_seed(0)
        order = torch.stack([torch.randperm(500, generator=generator) + 500 * digit for digit in range(10)])
        assert torch.equal(labels[order], torch.arange(10).unsqueeze(1).expand(10, 500))
        rows = [part.flatten() for part in order.split([300, 100, 100], 1)]
        mean, std = images[rows[0]].mean(), images[rows[0]].std()
        scaled = (images - mean) / std
        parts = [Part(scaled[row].to(device), labels[row].to(device)) for row in rows]
        return Digits(*parts, paper=float(scaled.min()), ink=float(scaled.max()))

    def clipped(self, images: Tensor) -> Tensor:
        """Pixels between paper and ink."""
        return images.clamp(self.paper, self.ink)

    def shown(self, images: Tensor) -> Tensor:
        """For the eye: 0 is paper, 1 is ink; ``(..., 28, 28)``."""
        return ((self.clipped(images) - self.paper) / (self.ink - self.paper)).squeeze(-3).cpu()


def one_hot(labels: Tensor) -> Tensor:
    """``(count, 10)``."""
    return torch.nn.functional.one_hot(labels, 10).float()


def ten_of_each(count: int, device: torch.device) -> Tensor:
    """Labels 0, ..., 0, 1, ..., 9, each ``count`` times."""
    return torch.arange(10, device=device).repeat_interleave(count)


def nearest(images: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the distance to its nearest neighbour in ``known``, and that neighbour's row."""
    return torch.cdist(images.flatten(1), known.flatten(1)).min(1)
