"""What all patients' forecasts and risks were, each by models that had not seen the patient."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from pathline.data import Series
from pathline.experiments.clinic.models import area_under_curve
from pathline.experiments.clinic.visits import Pairs, squares

LEADS = (0.0, 0.75, 1.5, 3.0, 5.0, 8.0, 16.0)
"""Years between which errors are averaged."""


class Results:
    """Collected over the folds."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = defaultdict(list)
        self._risks: dict[str, list[Tensor]] = defaultdict(list)

    def visits(self, series: Series, which: Pairs) -> None:
        """The pairs of visits of another fold, and what became of its patients."""
        assert series.row_labels is not None
        for name, values in (("lead", which.lead), ("weight", which.weight), ("next", which.next)):
            self._parts[name].append(values.cpu())
        self._risks["label"].append(series.row_labels.cpu())

    def forecast(self, name: str, forecast: Tensor, series: Series, which: Pairs) -> None:
        """What a model said of them."""
        square, there = squares(forecast, series, which)
        self._parts[name].append(square.detach().cpu().double())
        if name == "last":
            self._parts["there"].append(there.cpu())

    def risk(self, name: str, odds: Tensor) -> None:
        """The log-odds of an event after each visit."""
        self._risks[name].append(odds.detach().cpu())

    def mse(self, name: str, chosen: Tensor | None = None) -> float:
        """The mean square error, each visit counting once among the chosen pairs."""
        weight = self._all("weight") if chosen is None else torch.where(chosen, self._all("weight"), 0.0)
        return float((weight[:, None] * self._all(name)).sum() / (weight[:, None] * self._all("there")).sum())

    def mse_of_channels(self, name: str) -> list[float]:
        """As `mse`, of each channel."""
        weight = self._all("weight")[:, None]
        return ((weight * self._all(name)).sum(0) / (weight * self._all("there")).sum(0)).tolist()

    def next_mse(self, name: str) -> float:
        """The error of the visit that comes next."""
        return self.mse(name, self._all("next"))

    def by_lead(self, name: str) -> list[float]:
        """Errors between the years of `LEADS`."""
        lead = self._all("lead")
        return [self.mse(name, (lead >= a) & (lead < b)) for a, b in zip(LEADS[:-1], LEADS[1:], strict=True)]

    def far_mse(self, name: str, years: float) -> float:
        """The error of visits that are further away than so many years."""
        return self.mse(name, self._all("lead") >= years)

    def auc(self, name: str) -> float:
        """The area under the curve over all visits after which it is known what became of the patient."""
        return area_under_curve(torch.cat(self._risks[name]), torch.cat(self._risks["label"]))

    def _all(self, name: str) -> Tensor:
        return torch.cat(self._parts[name])
