"""Who speaks, when half of the frames are missing: a GRU, two that are told of the gaps, and an ODE-RNN."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

import torch

from pathline.data import Series
from pathline.experiments.spec import check_at_least
from pathline.experiments.vowels import figures, truths
from pathline.experiments.vowels.config import Config
from pathline.experiments.vowels.models import NAMES, build, parameters
from pathline.experiments.vowels.utterances import Utterances, utterances
from pathline.models import Classifier
from pathline.train import History, Run


@dataclass
class Row:
    """What came of one network at one rate."""

    parameters: int = 0
    accuracies: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """The mean over the repeats, in percent."""
        return statistics.mean(self.accuracies)

    @property
    def error(self) -> float:
        """The standard error of that mean; NaN for a single repeat, which tells none."""
        if len(self.accuracies) < 2:
            return math.nan
        return statistics.stdev(self.accuracies) / len(self.accuracies) ** 0.5


def run(config: Config, run: Run) -> None:
    """Train all at the rate in question, ask what the times are worth, and go through other rates."""
    check_at_least(config, repeats=1, hidden=1, width=1, epochs=1, batch=1, train=0, tries=0)
    lrs = {name: _chosen(config, run, name) for name in NAMES}
    rows: dict[str, Row] = {name: Row() for name in (*NAMES, "ode_rnn_evenly")}
    models: dict[str, Classifier] = {}
    data = utterances(config, config.dropped, 0)
    for k in range(config.repeats):
        data = utterances(config, config.dropped, 1000 * run.seed + k)
        for name in NAMES:
            models[name] = _trained(config, run, name, data, rows[name], k, "", lrs[name])
        _trained(config, run, "ode_rnn", data.evenly(), rows["ode_rnn_evenly"], k, "-evenly", lrs["ode_rnn"])
    others = {rate: _at_rate(config, run, rate, lrs) for rate in config.rates}
    _compare(run, rows, lrs)
    _truths(config, run, models["ode_rnn"], data.test.to(run.device))
    by_rate = dict(sorted({**others, config.dropped: {name: rows[name] for name in NAMES}}.items()))
    _by_rate(run, by_rate)
    run.figure("speakers", figures.speakers(by_rate, models, data.test.to(run.device), config.unit), figures.SPEAKERS)
    _say(run, rows)


def _chosen(config: Config, run: Run, name: str) -> float:
    """The learning rate with the least loss on training utterances that were held out."""
    if len(config.lrs) == 1 or not config.tries:
        return config.lrs[0]
    losses: dict[float, float] = {}
    for lr in config.lrs:
        row = Row()
        for k in range(config.tries):
            data = utterances(config, config.dropped, 1000 * run.seed + k).validation(k)
            _trained(config, run, name, data, row, k, f"-try-{lr:g}", lr)
        losses[lr] = statistics.mean(row.losses)
    return min(losses, key=lambda lr: losses[lr])


def _trained(
    config: Config, run: Run, name: str, data: Utterances, row: Row, k: int, suffix: str, lr: float
) -> Classifier:
    """One network, trained and tested once."""
    torch.manual_seed(1000 * run.seed + k)
    model = build(name, config).to(run.device)
    size = min(config.batch, len(data.train))
    history = run.fit(
        f"{name.replace('_', '-')}{suffix}-{k}",
        model,
        lambda model, batch: model.loss(batch),
        steps=config.epochs * -(-len(data.train) // size),
        optimizer=lambda parameters, lr: torch.optim.AdamW(parameters, lr, weight_decay=config.weight_decay),
        lr=lr,
        schedule="cosine",
        clip=1.0,
        batches=data.train.to(run.device).batches(size, seed=1000 * run.seed + k),
    )
    test = data.test.to(run.device)
    with torch.no_grad():
        row.accuracies.append(truths.accuracy(model.eval().predict(test), test))
        row.losses.append(float(model.loss(test)))
    row.parameters = parameters(model)
    row.histories.append(history)
    return model


def _at_rate(config: Config, run: Run, rate: float, lrs: dict[str, float]) -> dict[str, Row]:
    rows = {name: Row() for name in NAMES}
    for k in range(config.repeats):
        data = utterances(config, rate, 1000 * run.seed + k)
        for name in NAMES:
            _trained(config, run, name, data, rows[name], k, f"-{100 * rate:.0f}", lrs[name])
    return rows


def _compare(run: Run, rows: dict[str, Row], lrs: dict[str, float]) -> None:
    """Accuracies and losses on the test utterances, and the comparison that the bound is about."""
    for name, row in rows.items():
        run.metric(f"{name}_accuracy", row.accuracy, "%")
        run.metric(f"{name}_loss", statistics.mean(row.losses), "nats")
    run.metric("ahead_of_gru_dt", rows["ode_rnn"].accuracy - rows["gru_dt"].accuracy, "points")
    run.metric("ahead_of_evenly", rows["ode_rnn"].accuracy - rows["ode_rnn_evenly"].accuracy, "points")
    columns = ["", "accuracy, %", "standard error", "worst", "best", "test loss, nats", "parameters", "rate", "seconds"]
    cells = [
        [
            NAMES.get(name, "ODE-RNN, even gaps"),
            row.accuracy,
            "-" if math.isnan(row.error) else row.error,
            min(row.accuracies),
            max(row.accuracies),
            statistics.mean(row.losses),
            row.parameters,
            lrs[name.removesuffix("_evenly")],
            round(sum(history.seconds for history in row.histories), 1),
        ]
        for name, row in rows.items()
    ]
    run.table("The test utterances, half of their frames dropped; means over the repeats", columns, cells)


def _truths(config: Config, run: Run, model: Classifier, test: Series) -> None:
    """Identities, and what the solver does."""
    run.metric("zero_field_to_gru", truths.zero_field(test, config.hidden))
    run.metric("empty_rows_change", truths.empty_rows(test, config.hidden))
    run.metric("companions", truths.companions(model, test))
    back = truths.there_and_back(model, test)
    fine, change = truths.finer(model, test)
    run.metric("there_and_back", back)
    run.metric("finer_steps_accuracy", fine, "%")
    run.metric("finer_steps_change", change)
    model.predict(test)
    run.note(
        f"The solver: Euler, one step a gap, float32; {model.encoder.evaluations} evaluations of the field for all "
        f"{len(test)} test utterances, none of its own for the backward pass. Over each gap and back the states come "
        f"home to a relative error of {back:.1e}. With sixteen steps in each gap the network that was trained with one "
        f"is right on {fine:.1f} % of the last repeat's test utterances, and its probabilities change by up to "
        f"{change:.1e}."
    )


def _by_rate(run: Run, by_rate: dict[float, dict[str, Row]]) -> None:
    columns = ["frames dropped", *NAMES.values()]
    rows = [[f"{rate:.0%}", *(found[name].accuracy for name in NAMES)] for rate, found in by_rate.items()]
    run.table("Accuracy in percent by the part of the frames that was dropped", columns, rows)


def _say(run: Run, rows: dict[str, Row]) -> None:
    ode_rnn, gru_dt, evenly = (rows[name] for name in ("ode_rnn", "gru_dt", "ode_rnn_evenly"))
    single = math.isnan(ode_rnn.error)
    errors = "a single repeat" if single else f"standard errors {ode_rnn.error:.1f} and {gru_dt.error:.1f}"
    run.answer(
        f"With half of the frames dropped the ODE-RNN names the speaker of **{ode_rnn.accuracy:.1f} %** of the test "
        f"utterances, GRU-dt of **{gru_dt.accuracy:.1f} %** ({errors})."
    )
    run.note(
        f"What the times are worth: trained on the same frames as if none were missing between them, the ODE-RNN is "
        f"right on {evenly.accuracy:.1f} %."
    )
