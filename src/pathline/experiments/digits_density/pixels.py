"""The digits, their split, and the way from pixels to the space in which the flows live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, TransformedDistribution

from pathline.data import digits
from pathline.models import Logit, Standardize, dequantize

LEVELS, SIZE = 17, 64


@dataclass(frozen=True)
class Pixels:
    """Three shares of the digits, and maps between numbers in the unit interval and standardised logits.

    Attributes:
        train: 1257 digits, ``(1257, 64)``, whole numbers from 0 to 16.
        valid: 180 digits, which say when to stop.
        test: 360 digits.
        logit: From the unit interval to all numbers.
        standardize: To mean zero and deviation one over the training digits.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    logit: Any
    standardize: Any

    @classmethod
    def load(cls, alpha: float) -> Pixels:
        """Split once and for all: the same digits are held out for every seed."""
        images = digits()[0].flatten(1)
        images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
        train, valid, test = images.split([1257, 180, 360])
        logit: Any = Logit(alpha)
        generator = torch.Generator().manual_seed(1)
        spread = logit(torch.cat([dequantize(train, LEVELS, generator) for _ in range(10)]))
        return cls(train, valid, test, logit, Standardize(spread.mean(0), spread.std(0)))

    def to_flow(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Whole numbers, spread over their cells, as standardised logits."""
        return self.standardize(self.logit(dequantize(x, LEVELS, generator)))

    def to_pixels(self, z: Tensor) -> Tensor:
        """Standardised logits as numbers in the unit interval."""
        return self.logit.inv(self.standardize.inv(z))

    def density(self, flow: Distribution) -> TransformedDistribution:
        """The density of numbers in the unit interval, given that of standardised logits."""
        return TransformedDistribution(flow, [self.standardize.inv, self.logit.inv], validate_args=False)

    def many(self, draws: int = 10) -> Tensor:
        """The training digits as standardised logits, with several draws of the noise."""
        generator = torch.Generator().manual_seed(2)
        return torch.cat([self.to_flow(self.train, generator) for _ in range(draws)])

    def diagonal(self) -> Distribution:
        """The Gaussian with the means and variances of the training digits."""
        z = self.many().double()
        return Independent(Normal(z.mean(0), z.std(0)), 1)

    def nll(self, flow: Distribution, x: Tensor, draws: int, seed: int = 3) -> float:
        """Nats a digit of the density in the unit interval, averaged over draws of the noise."""
        generator = torch.Generator().manual_seed(seed)
        density, total = self.density(flow), 0.0
        with torch.no_grad():
            for _ in range(draws):
                total -= float(density.log_prob(dequantize(x, LEVELS, generator)).mean())
        return total / draws


class Gaussian(nn.Module):
    """The Gaussian of the training digits: the base of the flows, and what they have to beat."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", z.mean(0))
        self.register_buffer("factor", torch.linalg.cholesky(z.T.cov()))

    mean: Tensor
    factor: Tensor

    def forward(self) -> Distribution:
        """The distribution."""
        return MultivariateNormal(self.mean, scale_tril=self.factor, validate_args=False)
