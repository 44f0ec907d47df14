"""What the models see of a series, what they are asked for, and how far off they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pathline.data import Series, sinusoids
from pathline.models import Latent

SPAN, POINTS = 5.0, 100
DRAWS = 20


@dataclass(frozen=True)
class Task:
    """Interpolation: points all over the span are shown. Extrapolation: points of its first half are.

    Attributes:
        name: Which of the two.
        fraction: Share of the points of the window that is shown, drawn anew for each series and batch.
    """

    name: Literal["interpolation", "extrapolation"]
    fraction: float

    def shown(self, series: Series, generator: torch.Generator) -> Series:
        """What a model sees."""
        window = series.before(SPAN / 2) if self.name == "extrapolation" else series
        return window.thin(self.fraction, generator)

    def asked(self, series: Series) -> Tensor:
        """Which rows a model is scored on, ``(N,)``: never the shown ones alone."""
        return series.times >= (SPAN / 2 if self.name == "extrapolation" else 0.0)

    def batches(self, series: Series, size: int, seed: int) -> Callable[[int], tuple[Series, Series]]:
        """Pairs (shown, whole series): what the first half does is learned too where the second is asked for."""
        whole = series.batches(size, seed)

        def batch(step: int) -> tuple[Series, Series]:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            return self.shown(whole(step), generator), whole(step)

        return batch

    def __str__(self) -> str:
        return f"{self.name}-{round(100 * self.fraction)}"


@dataclass(frozen=True)
class Split:
    """Training, validation and test series, of the same times."""

    train: Series
    validation: Series
    test: Series


def split(count: int, seed: int, device: torch.device) -> Split:
    """A fifth of the series is for the test, a tenth of the others chooses the parameters that are kept."""
    generator = torch.Generator().manual_seed(seed)
    series = sinusoids(count, POINTS, SPAN, generator=generator)
    test = count // 5
    validation = (count - test) // 10
    parts = series.split((count - test - validation, validation, test), generator)
    return Split(*(part.to(device) for part in parts))


@torch.no_grad()
def predicted(model: nn.Module, shown: Series, t: Any) -> Tensor:
    """The expected values at times, ``(T, n, 1)``, or at the rows of a ``Series``, ``(N, 1)``."""
    was_training = model.training
    model.eval()
    found = model.predict(shown, t, samples=DRAWS).mean if isinstance(model, Latent) else model.predict(shown, t)  # pyright: ignore[reportCallIssue]
    model.train(was_training)
    return found


def errors(task: Task, model: nn.Module, series: Series, seed: int) -> dict[str, float]:
    """Mean square errors over all points that are asked for, and over those among them that were not shown.

    Predictions are made for all times of the series, as in training: a recurrence goes through them one by one.
    """
    shown = task.shown(series, torch.Generator().manual_seed(seed))
    square = (predicted(model, shown, series) - series.values).square().squeeze(-1)
    # A row is named by its series and its time, which is less than twice the span.
    names = [one.rows + one.times / (2 * SPAN) for one in (series, shown)]
    asked, new = task.asked(series), ~torch.isin(*names)
    return {"all": float(square[asked].mean()), "unseen": float(square[asked & new].mean())}
