"""Patients at irregular visits: what their laboratory values will be, and who will fall ill."""

from __future__ import annotations

import torch

from pathline.experiments.clinic import figures, identities, mixed, models
from pathline.experiments.clinic.config import Config
from pathline.experiments.clinic.models import NAMES
from pathline.experiments.clinic.results import LEADS, Results
from pathline.experiments.clinic.visits import Parts, error, folds, last_value, pairs, patients
from pathline.experiments.spec import check_at_least
from pathline.train import Run

NETWORKS = ("gru", "ode", "held")


def run(config: Config, run: Run) -> None:
    """Forecast every visit from each visit before it, by four models and by one without time."""
    check_at_least(config, folds=2, hidden=1, steps=1, every=1)
    series = patients(config.horizon)
    results = Results()
    for fold, parts in enumerate(folds(series, config.folds, config.choose, run.seed, run.device)):
        trained = {name: _trained(name, fold, config, run, parts) for name in NETWORKS}
        _tested(config, parts, trained, results)
        if fold == 0:
            identities.measure(config, run, parts, trained["ode"])
            run.figure("patients", figures.patients(parts, trained["ode"], config), figures.PATIENTS)

    _numbers(run, results)
    _tables(run, results)
    run.figure("lead", figures.lead(results), figures.LEAD)


def _trained(name: str, fold: int, config: Config, run: Run, parts: Parts) -> models.Course:
    """A network of all training patients at every update, as it was when the choosing patients were forecast best."""
    torch.manual_seed(1000 * run.seed + fold)
    model = models.make(name, config, parts.train)
    train, choose = pairs(parts.train), pairs(parts.choose)
    run.fit(
        f"{name}-{fold}",
        model,
        lambda model, _: models.loss(model, parts.train, train, config.risk),
        steps=config.steps,
        lr=config.lr,
        optimizer=models.optimizer(config),
        evaluate=lambda model: error(model(parts.choose, choose)[0], parts.choose, choose),
        evaluate_every=config.every,
        restore_best=True,
    )
    return model.eval()


def _tested(config: Config, parts: Parts, trained: dict[str, models.Course], results: Results) -> None:
    """Forecasts and risks of the test patients, by the networks and by the simple models."""
    series, which = parts.test, pairs(parts.test)
    results.visits(series, which)
    results.forecast("last", last_value(series, which), series, which)
    results.forecast("mixed", mixed.fit(parts.train, config.iterations).forecast(series, which), series, which)
    results.risk("logistic", models.logistic(parts.train, config.ridge)(series))
    with torch.no_grad():
        for name, model in trained.items():
            forecast, odds = model(series, which)
            results.forecast(name, forecast, series, which)
            results.risk(name, odds)


def _numbers(run: Run, results: Results) -> None:
    mse = {name: results.mse(name) for name in NAMES}
    for name, value in mse.items():
        run.metric(f"{name}_mse", value, "variances")
        run.metric(f"{name}_next_mse", results.next_mse(name), "variances")
    for other in ("last", "mixed", "gru"):
        run.metric(f"ode_to_{other}", mse["ode"] / mse[other])
    run.metric("held_to_ode", mse["held"] / mse["ode"])
    run.metric("held_to_ode_far", results.far_mse("held", 5.0) / results.far_mse("ode", 5.0))
    for name in ("logistic", "gru", "ode"):
        run.metric(f"{name}_auc", results.auc(name))
    run.answer(
        f"Of 312 patients, each forecast by models that never saw them, the ODE-RNN misses later laboratory values by "
        f"{mse['ode']:.2f} of their variance, GRU-dt by {mse['gru']:.2f}, a line for each patient by "
        f"{mse['mixed']:.2f}, and the last value by {mse['last']:.2f}."
    )


def _tables(run: Run, results: Results) -> None:
    between = [f"{a:g} to {b:g} years" for a, b in zip(LEADS[:-1], LEADS[1:], strict=True)]
    rows = [[label, results.mse(name), results.next_mse(name), *results.by_lead(name)] for name, label in NAMES.items()]
    run.table("Mean square error in units of the variance", ["", "all later visits", "next visit", *between], rows)
    channels = ["bilirubin", "cholesterol", "albumin", "alk. phosphatase", "AST", "platelets", "prothrombin time"]
    rows = [[label, *results.mse_of_channels(name)] for name, label in NAMES.items()]
    run.table("The same for each laboratory value", ["", *channels], rows)
    rows = [
        [label, results.auc(name)]
        for name, label in ({"logistic": "logistic regression"} | NAMES).items()
        if name not in ("last", "mixed")
    ]
    run.table("Death or transplantation within the horizon: area under the curve", ["", "AUC"], rows)
