"""The patients: logarithms, splits, who is well two years on, and every visit seen from each visit before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pathline.data import Series, pbcseq

LINEAR = ("albumin",)
"""All other channels are concentrations and times with long tails, seen as logarithms."""


class Parts(NamedTuple):
    """Patients for training, for choosing when to stop, and for the test: standardized alike."""

    train: Series
    choose: Series
    test: Series


class Pairs(NamedTuple):
    """Two visits of one patient: what is known at ``now``, and a later visit ``then``.

    Attributes:
        now: ``(P,)``, rows.
        then: ``(P,)``, rows.
        lead: ``(P,)``, years between them.
        weight: ``(P,)``, one over the number of visits before ``then``, so that each visit counts once.
    """

    now: Tensor
    then: Tensor
    lead: Tensor
    weight: Tensor

    @property
    def next(self) -> Tensor:
        """Whether ``then`` is the visit that follows ``now``."""
        return self.then == self.now + 1


def patients(horizon: float) -> Series:
    """All patients, in logarithms, with what becomes of them."""
    return with_outcome(in_logarithms(pbcseq()), horizon)


def folds(series: Series, count: int, choose: float, seed: int, device: torch.device) -> Iterator[Parts]:
    """Each patient is in the test part once. The training part says what mean and standard deviation are."""
    order = torch.randperm(len(series), generator=torch.Generator().manual_seed(seed))
    for fold in range(count):
        here = torch.arange(len(series)) % count == fold
        rest = order[~here]
        few = round(choose * len(rest))
        train = series[rest[few:]].standardized()
        others = (series[part].standardized(train.scaling) for part in (rest[:few], order[here]))
        yield Parts(*(part.to(device) for part in (train, *others)))


def in_logarithms(series: Series) -> Series:
    """All channels but those of ``LINEAR`` as logarithms."""
    linear = torch.tensor([name in LINEAR for name in series.channels])
    return series.with_values(torch.where(linear, series.values, series.values.log()))


def with_outcome(series: Series, horizon: float) -> Series:
    """Row labels: 1 for death or transplantation within ``horizon`` years of the visit, 0 for neither, -1 unknown.

    Unknown is what becomes of a patient whose observation ends within the horizon.
    """
    assert series.labels is not None
    end, how = series.labels[series.rows].unbind(1)
    soon = end - series.times <= horizon
    label = torch.where(soon, torch.where(how > 0, 1, -1), 0)
    static = series.static
    assert static is not None
    age = (static[:, :1] - 50.0) / 10.0
    return Series(
        series.times,
        series.values,
        series.lengths,
        static=torch.cat([age, static[:, 1:]], 1),
        labels=series.labels,
        row_labels=label,
        channels=series.channels,
        static_names=("decades from fifty", *series.static_names[1:]),
        ids=series.ids,
    )


def pairs(series: Series) -> Pairs:
    """Each visit with each visit before it, of the same patient."""
    later = torch.repeat_interleave(torch.arange(len(series.times), device=series.device), series.places)
    first = torch.repeat_interleave(series.offsets[:-1][series.rows], series.places)
    begin = torch.repeat_interleave(series.places.cumsum(0) - series.places, series.places)
    earlier = first + torch.arange(len(later), device=series.device) - begin
    lead = series.times[later] - series.times[earlier]
    return Pairs(earlier, later, lead, 1.0 / series.places[later])


def error(forecast: Tensor, series: Series, which: Pairs) -> Tensor:
    """The mean square error over the values that were measured, each visit counting once."""
    square, there = squares(forecast, series, which)
    weight = which.weight.to(square)[:, None]
    return (weight * square).sum() / (weight * there).sum()


def squares(forecast: Tensor, series: Series, which: Pairs) -> tuple[Tensor, Tensor]:
    """Squared errors ``(P, channels)``, 0 where nothing was measured, and where something was."""
    truth, there = series.values[which.then], series.mask[which.then]
    return torch.where(there, forecast - truth.nan_to_num(0.0), 0.0).square(), there


def last_value(series: Series, which: Pairs) -> Tensor:
    """The last value that was measured, the mean of all patients where none was."""
    return series.carried_forward().values[which.now].nan_to_num(0.0)
