"""The series, its coordinates, and what a forecast has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pathline.data import hudson_bay


@dataclass(frozen=True)
class Series:
    """Two populations a year; the models work on logarithms, standardised over the training years."""

    years: Tensor
    pelts: Tensor
    known: int
    """Number of training years."""

    @classmethod
    def load(cls, train_until: int, device: torch.device) -> Series:
        """The Hudson Bay series, known up to a year."""
        years, pelts = hudson_bay(torch.float32)
        known = int((years <= train_until).sum())
        if not 11 < known < len(years):
            raise ValueError(
                f"`train_until` leaves {known} of {len(years)} years for training; "
                "a cycle has ten, so choose a year from 1911 to 1919."
            )
        return cls(years.to(device), pelts.to(device), known)

    @property
    def t(self) -> Tensor:
        """Years since the first one."""
        return self.years - self.years[0]

    @property
    def mean(self) -> Tensor:
        """Of the logarithms, over the training years."""
        return self.pelts[: self.known].log().mean(0)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of the logarithms, over the training years."""
        return self.pelts[: self.known].log().std(0, unbiased=False)

    @property
    def z(self) -> Tensor:
        """The standardised logarithms of all years."""
        return (self.pelts.log() - self.mean) / self.scale

    def to_pelts(self, z: Tensor) -> Tensor:
        """Thousands of pelts at standardised logarithms."""
        return (self.mean + self.scale * z).exp()

    def errors(self, z: Tensor) -> dict[str, float]:
        """Root mean square errors of predictions ``(21, 2)``, in both units, on both parts."""
        known, log, raw = self.known, z - self.z, self.to_pelts(z) - self.pelts
        return {
            "train_rmse": _rms(log[:known]),
            "forecast_rmse_log": _rms(log[known:]),
            "train_rmse_pelts": _rms(raw[:known]),
            "forecast_rmse": _rms(raw[known:]),
        }


def last_cycle(series: Series) -> tuple[Tensor, int]:
    """Every year repeats the one a lag before; the lag is the one that repeats the training years best."""
    known, z = series.known, series.z
    lag = min(range(5, known - 2), key=lambda lag: _rms(z[lag:known] - z[: known - lag]))
    rows = [*z[:known]]
    for _ in range(known, len(z)):
        rows.append(rows[-lag])
    return torch.stack(rows), lag


def training_mean(series: Series) -> Tensor:
    """Every year is the geometric mean of the training years."""
    return torch.zeros_like(series.z)


def persistence(series: Series) -> Tensor:
    """Every year is the last training year."""
    return series.z[series.known - 1].expand_as(series.z)


def _rms(error: Tensor) -> float:
    return float(error.detach().square().mean().sqrt())
