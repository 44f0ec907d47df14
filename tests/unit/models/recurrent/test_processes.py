"""Two processes that share a batch have the gradients of one that holds it whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathline.data import Series
from pathline.models import Classifier, Forecaster, LatentODE
from tests.unit.models.recurrent.examples import made, ragged
from tests.unit.models.two_processes import gradients, needs_processes

PARTS = ([0, 2, 1], [3, 4])  # series; unequally many, with 8 and 6 rows and unequally many values and labels


def part(rank: int) -> Series:
    series = ragged()
    labels, row_labels = torch.tensor([0, 1, 2, -1, 1]), torch.arange(14) % 3
    row_labels[3:6] = -1
    marked = Series(series.times, series.values, series.lengths, labels=labels, row_labels=row_labels)
    return marked[torch.tensor(PARTS[rank])]


def models() -> list[nn.Module]:
    """The same in every process; the last two draw."""
    torch.manual_seed(1)
    heads = [Forecaster(made("ode_rnn"), scale=0.5), Forecaster(made("gru_d")), Classifier(made("gru_dt"), 3)]
    heads.append(Classifier(made("ode_rnn"), 3, per_time=True))
    plain = LatentODE(2, 3, encoder="ode-rnn")
    labelled = LatentODE(2, 3, classifier=nn.Linear(3, 3), row_classifier=nn.Linear(3, 3))
    return [model.double() for model in (*heads, plain, labelled)]


def rest(rank: int) -> Series:
    """What is left at the end of an epoch: too little for both."""
    return part(0) if rank == 0 else part(1)[:0]


def parts(rank: int) -> list[tuple[nn.Module, Series]]:
    return [(model, part(rank)) for model in models()] + [(model, rest(rank)) for model in models()]


@needs_processes
@pytest.mark.timeout(180)  # two more processes import torch, beside other workers
def test_two_processes_have_the_gradients_of_one(tmp_path):
    found = gradients(parts, tmp_path)
    expected = []
    for share in (part, rest):
        *heads, plain, labelled = models()
        for model in heads:
            model.loss(Series.cat([share(0), share(1)])).backward()
        for model in (plain, labelled):
            by_hand(model, [share(0), share(1)]).backward()
        expected += [*heads, plain, labelled]
    for model, shared in zip(expected, found, strict=True):
        for mine, parameter in zip(shared, model.parameters(), strict=True):
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-9, atol=1e-12)


def by_hand(model: nn.Module, shares: list[Series]) -> torch.Tensor:
    """The loss of a latent model over both shares, each with the draws of its process."""
    total = torch.zeros((), dtype=torch.float64)
    whole = Series.cat(shares)
    for rank, series in enumerate(shares):
        if not len(series):
            continue
        torch.manual_seed(10 + rank)
        posterior = model.posterior(series)
        z0 = posterior.rsample(torch.Size([1]))
        total = total + (model.divergence(posterior, z0) - model.log_likelihood(z0, series)[0]).sum() / len(whole)
        if model.classifier is not None:
            for logits, labels, all_labels in (
                (model.classifier(z0[0]), series.labels, whole.labels),
                (model.row_classifier(model.states(z0, series)[0]), series.row_labels, whole.row_labels),
            ):
                each = nn.functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
                total = total + each / (all_labels >= 0).sum()
    return total
