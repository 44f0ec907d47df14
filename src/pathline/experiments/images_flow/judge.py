"""A small classifier that has seen none of the flow's images, and what it says of drawn digits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.experiments.images_flow.digits import Part
from pathline.train import Run

FEATURES = 32


class Judge(nn.Module):
    """Two convolutions, 32 features, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(), nn.Flatten()
        )
        self.features = nn.Sequential(self.body, nn.Linear(32 * 49, FEATURES), nn.SiLU())
        self.classes = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classes(self.features(images))


class Quality(NamedTuple):
    """What the judge says.

    Attributes:
        accuracy: share of the images in which it sees the class that was asked for.
        entropy: mean entropy of its answer in nats: how much it hesitates.
        frechet: the Frechet distance of its features to those of the held-out images.
    """

    accuracy: float
    entropy: float
    frechet: float


class Jury:
    """The trained judge beside the held-out images."""

    def __init__(self, judge: Judge, held_out: Part) -> None:
        self.judge, self.held_out = judge.eval(), held_out
        with torch.no_grad():
            self.features = judge.features(held_out.images)

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> Quality:
        """Accuracy, entropy and Frechet distance of images of these classes."""
        features = self.judge.features(images)
        log_p = self.judge.classes(features).log_softmax(1)
        accuracy = (log_p.argmax(1) == labels).float().mean()
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        return Quality(float(accuracy), float(entropy), frechet(features, self.features))


def train_judge(run: Run, part: Part, held_out: Part, steps: int) -> Jury:
    """Train on images that are moved by up to two pixels. The judge is the same for every seed."""
    torch.manual_seed(0)
    judge = Judge().to(part.images.device)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(part.labels), (128,), generator=generator)
        by = torch.randint(-2, 3, (2,), generator=generator).tolist()
        return moved(part.images[rows], *by), part.labels[rows]

    def loss(judge: nn.Module, batch: Any) -> Tensor:
        images, labels = batch
        return F.cross_entropy(judge(images), labels)

    run.fit("judge", judge, loss, steps=steps, batches=batch, lr=2e-3, schedule="cosine")
    torch.manual_seed(run.seed)
    return Jury(judge, held_out)


def moved(images: Tensor, down: int, right: int) -> Tensor:
    """All images moved; what comes in at the border is that which was there."""
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    height, width = images.shape[-2:]
    return padded[..., 2 - down : 2 - down + height, 2 - right : 2 - right + width]


def frechet(a: Tensor, b: Tensor) -> float:
    r"""$|m_a - m_b|^2 + \mathrm{tr}(C_a + C_b - 2 (C_a C_b)^{1/2})$ of two sets of features, in float64."""
    a, b = a.double(), b.double()
    means = (a.mean(0) - b.mean(0)).square().sum()
    one, two = torch.cov(a.mT), torch.cov(b.mT)
    # the eigenvalues of a product of two positive matrices are real and not negative, up to rounding
    root = torch.linalg.eigvals(one @ two).real.clamp_min(0.0).sqrt().sum()
    return max(0.0, float(means + one.trace() + two.trace() - 2 * root))
