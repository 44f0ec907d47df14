"""Sine waves at irregular times: five models, within what they are shown and beyond."""

from __future__ import annotations

import torch
from torch import nn

from pathline.data import Series, growing
from pathline.experiments.irregular import figures, identities, truths
from pathline.experiments.irregular.config import Config
from pathline.experiments.irregular.models import LABELS, LATENT, build
from pathline.experiments.irregular.tasks import POINTS, SPAN, Split, Task, errors, split
from pathline.experiments.spec import check_at_least
from pathline.models import Forecaster, Latent
from pathline.train import Run

TASKS = ("interpolation", "extrapolation")
TEST_SEED = 1_000_000
Found = dict[tuple[str, str, float], dict[str, float]]
"""The errors of a model, on a task, with a share of the points shown."""


def run(config: Config, run: Run) -> None:
    """Measure the identities, train every model on both tasks, and compare what they expect with what is."""
    check_at_least(config, series=20, batch=1, latent_batch=1, steps=1, latent_steps=1)
    for name, value in identities.measure(run.seed).items():
        run.metric(name, value)
    data = split(config.series, run.seed, run.device)
    found: Found = {}
    trained: dict[tuple[str, str], nn.Module] = {}
    for fraction in config.fractions:
        for kind in TASKS:
            task = Task(kind, fraction)
            for name in LABELS:
                model = trained[name, kind] = fitted(name, task, data, config, run)
                found[name, kind, fraction] = errors(task, model, data.test, TEST_SEED)
    last = config.fractions[-1]
    still = errors(Task("interpolation", last), ablated(data, config, run), data.test, TEST_SEED)
    _measured(found, still, config, run)
    _solver_truth(trained, data.test, config, run)
    _figures(trained, found, data.test, config, run)


def fitted(name: str, task: Task, data: Split, config: Config, run: Run) -> Forecaster | Latent:
    """A model trained for a task; the parameters that were best on the validation series stay."""
    torch.manual_seed(run.seed)
    model = build(name, config, feedback=task.name == "extrapolation").to(run.device)
    latent = name in LATENT
    steps = config.latent_steps if latent else config.steps
    batches = task.batches(data.train, config.latent_batch if latent else config.batch, run.seed)
    if latent:
        batches = growing(batches, SPAN, config.growing * steps)
    run.fit(
        f"{name}-{task}",
        model,
        lambda model, batch: model.loss(batch),
        steps=steps,
        lr=config.latent_lr if latent else config.lr,
        schedule="cosine",
        # The bound is a sum over the points, in units of the variance of the likelihood.
        clip=config.clip * POINTS / config.scale**2 if latent else config.clip,
        batches=batches,
        evaluate=lambda model: errors(task, model, data.validation, run.seed)["all"],
        evaluate_every=max(1, steps // 15),
        restore_best=True,
    )
    return model


def ablated(data: Split, config: Config, run: Run) -> Forecaster | Latent:
    """The ODE-RNN without its flow, on the task of the last fraction."""
    return fitted("still", Task("interpolation", config.fractions[-1]), data, config, run)


def _measured(found: Found, still: dict[str, float], config: Config, run: Run) -> None:
    for (name, kind, fraction), error in found.items():
        run.metric(f"{name}_{kind}_{round(100 * fraction)}", error["all"])
    last, percent = config.fractions[-1], round(100 * config.fractions[-1])

    def ratio(one: str, other: str, kind: str) -> float:
        return found[one, kind, last]["all"] / found[other, kind, last]["all"]

    ode_to_rnn = ratio("ode_rnn", "rnn_dt", "interpolation")
    latent_to_vae = ratio("latent_ode", "rnn_vae", "extrapolation")
    run.metric(f"ode_rnn_to_rnn_dt_interpolation_{percent}", ode_to_rnn)
    run.metric(f"latent_ode_to_rnn_vae_extrapolation_{percent}", latent_to_vae)
    run.metric(f"still_interpolation_{percent}", still["all"])
    flow = found["ode_rnn", "interpolation", last]["all"] / still["all"]
    run.metric(f"ode_rnn_to_still_interpolation_{percent}", flow)
    for kind in TASKS:
        rows = [[LABELS[name], *(found[name, kind, f]["all"] for f in config.fractions)] for name in LABELS]
        run.table(_title(kind), ["", *(f"{round(100 * f)} %" for f in config.fractions)], rows)
    rows = [[LABELS[name], *found[name, "interpolation", last].values()] for name in LABELS]
    run.table(
        f"Interpolation with {percent} % shown: all points, and those that were not shown",
        ["", "all points", "not shown"],
        [*rows, ["ODE-RNN, state held between points", *still.values()]],
    )
    run.answer(
        f"With {percent} % of the points shown, the ODE-RNN's error one step ahead is {ode_to_rnn:.2g} times that of "
        f"the RNN-dt. Beyond the points, the latent ODE's is {latent_to_vae:.2g} times that of the RNN-VAE."
    )


def _title(kind: str) -> str:
    what = "one step ahead or from all points" if kind == "interpolation" else "the second half from the first"
    return f"{kind.capitalize()}, mean square error ({what}), by the share of points shown"


def _solver_truth(trained: dict[tuple[str, str], nn.Module], test: Series, config: Config, run: Run) -> None:
    """Evaluations, tolerance, type, what closer solving would change, and the way there and back."""
    task = Task("extrapolation", config.fractions[-1])
    shown = task.shown(test, torch.Generator().manual_seed(TEST_SEED))
    latent, recurrent = trained["latent_ode", "extrapolation"], trained["ode_rnn", "interpolation"]
    assert isinstance(latent, Latent)
    assert isinstance(recurrent, Forecaster)
    flow = truths.of_latent(latent, shown, test[0].times)
    steps = truths.of_recurrent(recurrent, shown, test.before(float(shown.times.max())))
    back = truths.there_and_back(latent, shown)
    run.metric("latent_ode_there_and_back", back)
    run.metric("latent_ode_solver_error", flow.error)
    run.metric("ode_rnn_solver_error", steps.error)
    dtype = str(test.dtype).removeprefix("torch.")
    run.table(
        "What the solvers did, after training",
        ["", "method", "evaluations", "backward", "number type", "change when solved closely", "there and back"],
        [
            ["latent ODE", f"{config.method}, {config.tol:g}", flow.forward, flow.backward, dtype, flow.error,
             back],
            ["ODE-RNN", "Euler, a step a gap", steps.forward, steps.backward, dtype, steps.error, "-"],
        ],
    )  # fmt: skip


def _figures(trained: dict[tuple[str, str], nn.Module], found: Found, test: Series, config: Config, run: Run) -> None:
    generator = torch.Generator().manual_seed(TEST_SEED)
    last = config.fractions[-1]
    ahead = {name: trained[name, "extrapolation"].eval() for name in ("latent_ode", "rnn_vae")}
    shown = Task("extrapolation", last).shown(test, generator)
    run.figure("fans", figures.fans(ahead, test, shown), figures.FANS)  # pyright: ignore[reportArgumentType]
    one_step = {name: trained[name, "interpolation"].eval() for name in ("ode_rnn", "rnn_dt")}
    run.figure(
        "steps", figures.steps(one_step, test, Task("interpolation", last).shown(test, generator)), figures.STEPS
    )
    if len(config.fractions) > 1:
        losses = {key: error["all"] for key, error in found.items()}
        run.figure("errors", figures.errors(losses, config.fractions), figures.ERRORS)
