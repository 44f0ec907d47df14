"""Utterances of which frames were dropped."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pathline.data import Series, japanese_vowels
from pathline.experiments.vowels.config import Config


@dataclass(frozen=True)
class Utterances:
    """Training and test, standardised by the frames of the training utterances that were kept."""

    train: Series
    test: Series

    def evenly(self) -> Utterances:
        """The same frames as if none were missing between them: what is lost when the times are."""
        return Utterances(_evenly(self.train), _evenly(self.test))

    def validation(self, seed: int) -> Utterances:
        """The training utterances alone, a quarter of them held out."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train), generator=generator)
        border = 3 * len(order) // 4
        return Utterances(self.train[order[:border]], self.train[order[border:]])


def utterances(config: Config, dropped: float, seed: int) -> Utterances:
    """Both parts with frames dropped at random, other ones for each utterance and seed.

    Args:
        config: For the number of training utterances and the unit of time.
        dropped: Part of the frames that goes.
        seed: Of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    train, test = japanese_vowels("train"), japanese_vowels("test")
    if config.train:
        train = train[torch.randperm(len(train), generator=generator)[: config.train]]
    kept = [_in_units(part.thin(1.0 - dropped, generator), config.unit) for part in (train, test)]
    scaled = kept[0].standardized()
    return Utterances(scaled, kept[1].standardized(scaled.scaling))


def _in_units(series: Series, unit: float) -> Series:
    return Series(series.times * unit, series.values, series.lengths, labels=series.labels, channels=series.channels)


def _evenly(series: Series) -> Series:
    """Each row stands where its number says, stretched so that the mean gap stays."""
    number = torch.arange(len(series.times), device=series.device) - series.offsets[series.rows]
    gaps = series.times.diff()[series.rows.diff() == 0]
    times = number * (gaps.mean() if len(gaps) else 1.0)
    return Series(times, series.values, series.lengths, labels=series.labels, scaling=series.scaling)
