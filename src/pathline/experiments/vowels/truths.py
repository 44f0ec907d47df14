"""What has an exact answer, and what the solver does."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from pathline.data import Series
from pathline.experiments.vowels.models import CHANNELS
from pathline.models import GRU, ODERNN, Classifier
from pathline.models.recurrent import Gaps


@torch.no_grad()
def zero_field(series: Series, hidden: int) -> float:
    """The largest difference between a GRU and an ODE-RNN with its weights whose field is zero."""
    gru = GRU(CHANNELS, hidden).to(series.device)
    ode_rnn = ODERNN(CHANNELS, hidden).to(series.device)
    for parameter in ode_rnn.between.parameters():
        parameter.zero_()
    ode_rnn.cell.load_state_dict(gru.cell.state_dict())
    return float((gru(series).after - ode_rnn(series).after).abs().max())


@torch.no_grad()
def empty_rows(series: Series, hidden: int) -> float:
    """How far a GRU's states move on rows whose values are all missing."""
    values = series.values.clone()
    values[::3] = torch.nan
    states = GRU(CHANNELS, hidden).to(series.device)(Series(series.times, values, series.lengths))
    return float((states.after - states.before)[::3].abs().max())


@torch.no_grad()
def companions(model: Classifier, series: Series) -> float:
    """The largest change of a probability when an utterance is alone."""
    together = model.predict(series)
    alone = torch.cat([model.predict(series[k : k + 1]) for k in range(min(len(series), 20))])
    return float((together[: len(alone)] - alone).abs().max())


@torch.no_grad()
def there_and_back(model: Classifier, series: Series) -> float:
    """The relative error of the states after the way over all gaps and back, by the solver that trained."""
    return float(_there_and_back(model, series))


@torch.no_grad()
def finer(model: Classifier, series: Series, steps: int = 16) -> tuple[float, float]:
    """The accuracy in percent, and the largest change of a probability, where each gap has many steps of the flow."""
    fine = copy.deepcopy(model)
    flow: Any = fine.encoder.get_submodule("between")
    flow.steps = steps
    before, after = model.predict(series), fine.predict(series)
    return accuracy(after, series), float((before - after).abs().max())


def accuracy(probabilities: Tensor, series: Series) -> float:
    """In percent."""
    assert series.labels is not None
    return 100 * float((probabilities.argmax(-1) == series.labels).double().mean())


def _there_and_back(model: Classifier, series: Series) -> Tensor:
    recurrent: Any = model.encoder
    states = recurrent(series)
    inside = torch.cat([series.rows.new_zeros(1), series.rows.diff()]) == 0
    inside[0] = False
    length, start = states.gap[inside], (series.times - states.gap)[inside]
    begin = states.after[torch.nonzero(inside).squeeze(-1) - 1]
    silence = torch.zeros(len(start), CHANNELS, device=series.device)
    there = recurrent.advance(begin, Gaps(start, length, silence))
    back = recurrent.advance(there, Gaps(start + length, -length, silence))
    return (back - begin).norm() / begin.norm()
