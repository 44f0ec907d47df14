"""What a latent model says of times at which nothing was observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Trajectories drawn from the posterior. *Maturing.*

    Attributes:
        samples: Expected values along each draw (with ``noise``, values as they might be observed):
            ``(S, T, n, D)`` for common times, ``(S, N, D)`` for the times of a ``Series``.
        states: Latent states, ``(S, T, n, Z)`` or ``(S, N, Z)``.
        z0: The draws, ``(S, n, latent)``.
        times: What was asked for, a tensor or a ``Series``.
    """

    samples: Tensor
    states: Tensor
    z0: Tensor
    times: Any

    @property
    def mean(self) -> Tensor:
        """Over the draws, ``(T, n, D)`` or ``(N, D)``."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Over the draws, shaped like ``mean``; zero for a single one."""
        return self.samples.std(0, correction=min(1, len(self.samples) - 1))

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Quantiles over the draws, shaped like ``mean``; a sequence gives them one after the other in front.

        Args:
            q: One or several numbers between 0 and 1.
        """
        wanted = torch.as_tensor(q)
        if not bool(((wanted >= 0) & (wanted <= 1)).all()):
            raise ValueError(f"`q` lies between 0 and 1, such as 0.9 for 90 per cent, but {q!r} came.")
        return torch.quantile(self.samples, wanted.to(self.samples), dim=0)
