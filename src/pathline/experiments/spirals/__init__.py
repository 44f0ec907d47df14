"""Spirals at irregular times: a latent ODE against a recurrent network, and events whose rate is latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pathline.data import Series, Standardization, growing, spirals
from pathline.experiments.spirals import figures, identities, waves
from pathline.experiments.spirals.config import Config
from pathline.models import Forecaster, GRUdt, Latent, LatentODE, likelihoods
from pathline.train import Run


@dataclass(frozen=True)
class Task:
    """One number of observations.

    Attributes:
        seen: Spirals to learn from.
        observed: Test spirals, noisy, in the window.
        times: ``(T,)``, all times, the window first.
        clean: ``(T, n, 2)``, test spirals without noise.
        window: Number of times in the window.
        unit: What all values were divided by; errors are told without it.
    """

    seen: Series
    observed: Series
    times: Tensor
    clean: Tensor
    window: int
    unit: float = 1.0

    @classmethod
    def drawn(cls, observations: int, config: Config, run: Run) -> Task:
        """Spirals of this run's seed."""
        generator = torch.Generator().manual_seed(run.seed)
        options: dict[str, Any] = {"observations": observations, "noise": config.noise, "generator": generator}
        seen = spirals(config.train, future=0, **options).observed
        test = spirals(config.test, **options)
        scaling = Standardization(torch.zeros(2), torch.full((2,), config.unit))
        seen, observed = (series.standardized(scaling).to(run.device) for series in (seen, test.observed))
        clean = test.clean.transpose(0, 1).to(run.device) / config.unit
        return cls(seen, observed, test.times.to(run.device), clean, 100, config.unit)

    def errors(self, predicted: Tensor) -> tuple[float, float]:
        """Root mean square errors in the window and after it, of ``(T, n, 2)``, against the clean spirals."""
        square = (self.unit * (predicted - self.clean)).square()
        return float(square[: self.window].mean().sqrt()), float(square[self.window :].mean().sqrt())


def run(config: Config, run: Run) -> None:
    """Train both models at each number of observations, take the times away, and infer rates of events."""
    run.metric("identity_bound_error", identities.bound_error(run.seed, run.device), "nats")
    tasks = {count: Task.drawn(count, config, run) for count in config.observations}
    odes = {count: _latent_ode(f"latent-ode-{count}", task, config, run) for count, task in tasks.items()}
    rnns = {count: _recurrent(f"rnn-dt-{count}", task, config, run) for count, task in tasks.items()}
    strides = {count: max(1, round(task.window / count)) for count, task in tasks.items()}
    predicted = {count: _predicted(odes[count], rnns[count], task, strides[count]) for count, task in tasks.items()}
    rows = []
    for count, task in tasks.items():
        (within, ode), (_, rnn), (_, fine) = (task.errors(x) for x in predicted[count])
        run.metric(f"latent_ode_rmse_{count}", ode)
        run.metric(f"rnn_dt_rmse_{count}", rnn)
        run.metric(f"rnn_dt_each_time_rmse_{count}", fine)
        run.metric(f"latent_ode_to_rnn_dt_{count}", ode / rnn)
        run.metric(f"latent_ode_to_rnn_dt_each_time_{count}", ode / fine)
        rows.append([f"{count} of 100", fine, rnn, ode, ode / rnn, within])
    columns = [
        "observations",
        "RNN fed at each time",
        "RNN fed at gaps as in training",
        "latent ODE",
        "latent ODE to RNN",
    ]
    run.table(
        "Root mean square error on the 100 times after the window", [*columns, "latent ODE within the window"], rows
    )
    if config.shuffled:
        _ablation(config, run, odes)
    if config.wide:
        _widened(config, run, tasks)
    found = waves.train(config, run) if config.event_series else None
    _solver_truth(config, run, tasks, odes)
    _say(run, config, found)

    fewest = min(tasks)
    run.figure("spirals", figures.spirals(tasks[fewest], odes[fewest], predicted[fewest]), figures.SPIRALS)
    if found is not None:
        run.figure("rates", figures.rates(found), figures.RATES)


def _latent_ode(
    name: str, task: Task, config: Config, run: Run, encoded: Callable[[Series], Series] = lambda series: series
) -> Latent:
    """Train on noisy windows alone; ``encoded`` is what the encoder sees in place of them."""
    torch.manual_seed(run.seed)
    model = LatentODE(
        2,
        config.latent,
        encoder_hidden=config.encoder_hidden,
        field_hidden=config.field_hidden,
        decoder_hidden=config.decoder_hidden,
        output_scale=1.0,
        likelihood=likelihoods.Gaussian(config.noise / config.unit),
        rtol=config.tol,
        atol=config.tol,
    ).to(run.device)

    def loss(model: Any, batch: tuple[Series, Series]) -> Tensor:
        whole, target = batch
        return model.loss((encoded(whole), target))

    batches = growing(_batches(task, config, run), float(task.times[task.window]), config.growing * config.steps)
    _fit(name, model, batches, loss, config, run)
    return model


def _recurrent(name: str, task: Task, config: Config, run: Run) -> Forecaster:
    """Train to forecast each observation from those before it; its own forecasts are its future."""
    torch.manual_seed(run.seed)
    model = Forecaster(GRUdt(2, config.encoder_hidden), feedback=True).to(run.device)
    _fit(name, model, _batches(task, config, run), lambda model, batch: model.loss(batch), config, run)
    return model


def _batches(task: Task, config: Config, run: Run) -> Callable[[int], Series]:
    return task.seen.batches(min(config.batch, config.train), seed=run.seed)


def _fit(name: str, model: nn.Module, batches: Any, loss: Any, config: Config, run: Run) -> None:
    """The same data, updates and schedule for all."""
    settings = {"steps": config.steps, "lr": config.lr, "schedule": "cosine", "clip": config.clip}
    run.fit(name, model, loss, batches=batches, **settings)


@torch.no_grad()
def _predicted(ode: Latent, rnn: Forecaster, task: Task, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """The latent ODE, and the recurrent network with long and with short gaps, at all times, ``(T, n, 2)``."""
    ahead = ode.predict(task.observed, task.times, samples=0).mean
    return ahead, rolled_out(rnn, task, stride), rolled_out(rnn, task, 1)


def rolled_out(rnn: Forecaster, task: Task, stride: int) -> Tensor:
    """The recurrent network at all times: it feeds on its forecasts at every ``stride``-th time after the window.

    With gaps as in training. From gaps much shorter than those it comes out many times worse: every forecast that is
    fed back adds its error.
    """
    fed = task.times[task.window + stride - 1 :: stride]
    return rnn.predict(extended(task.observed, fed, rnn.predict(task.observed, fed)), task.times, feedback=False)


def extended(series: Series, times: Tensor, values: Tensor) -> Series:
    """Series with more rows at the end of each: at ``times`` ``(T,)``, the values ``(T, n, D)``."""
    n, count = len(series), len(times)
    each = torch.arange(n, device=times.device).repeat(count)
    rows = torch.cat([series.rows, each])
    order = rows.argsort(stable=True)
    clock = torch.cat([series.times, times.repeat_interleave(n)])[order]
    return Series(clock, torch.cat([series.values, values.flatten(0, 1)])[order], series.lengths + count)


def shuffled_gaps(series: Series, generator: torch.Generator | None = None) -> Series:
    """The same observations in the same order, with the gaps between them in random order."""
    gaps = series.gaps.clone()
    inner = series.places > 0
    noise = torch.rand(len(gaps), generator=generator).to(gaps)
    before = torch.nonzero(inner).squeeze(-1)
    order = before[torch.argsort(noise[before], stable=True)]
    order = order[torch.argsort(series.rows[order], stable=True)]
    gaps[before] = gaps[order]
    total = gaps.cumsum(0)
    first = series.offsets[:-1][series.rows]
    times = series.times[first] + (total - total[first])
    return Series(times, series.values, series.lengths, labels=series.labels, scaling=series.scaling)


def _ablation(config: Config, run: Run, odes: dict[int, Latent]) -> None:
    """An encoder that knows the order of the observations, but not when they were made."""
    count = config.shuffled
    task = Task.drawn(count, config, run)
    generator = torch.Generator().manual_seed(run.seed + 5_000)
    seen = shuffled_gaps(task.observed.to("cpu"), generator).to(run.device)
    blind = _latent_ode(f"shuffled-times-{count}", task, config, run, lambda series: shuffled_gaps(series, generator))
    with torch.no_grad():
        within, after = task.errors(blind.predict(seen, task.times, samples=0).mean)
    run.metric("shuffled_rmse", after)
    rows = [["wrong gaps in training and test", within, after]]
    if count in odes:
        with torch.no_grad():
            right = task.errors(odes[count].predict(task.observed, task.times, samples=0).mean)
            wrong = task.errors(odes[count].predict(seen, task.times, samples=0).mean)
        rows = [["right gaps", *right], *rows, ["right gaps in training, wrong ones in the test", *wrong]]
        run.metric("shuffled_to_right", after / right[1])
    columns = [f"{count} observations", "within the window", "after it"]
    run.table("Root mean square error when the encoder is told wrong times", columns, rows)


def _widened(config: Config, run: Run, tasks: dict[int, Task]) -> None:
    """A latent state with more room than the spirals need."""
    few = min(tasks)
    wide = _latent_ode(f"latent-ode-{few}-wide", tasks[few], replace(config, latent=config.wide), run)
    with torch.no_grad():
        within, after = tasks[few].errors(wide.predict(tasks[few].observed, tasks[few].times, samples=0).mean)
    run.metric("wide_rmse", after)
    run.note(
        f"With {config.wide} latent dimensions in place of {config.latent}, at {few} observations, the error is "
        f"{within:.3f} within the window and {after:.3f} after it."
    )


def _solver_truth(config: Config, run: Run, tasks: dict[int, Task], odes: dict[int, Latent]) -> None:
    """Evaluations, tolerance, type, the error of the solve, and the way there and back."""
    rows = []
    for count, task in tasks.items():
        model, times = odes[count], task.times
        model.loss(task.observed).backward()
        forward, backward = model.dynamics.evaluations, model.dynamics.backward_evaluations
        model.zero_grad()
        with torch.no_grad():
            z0 = model.posterior(task.observed).mean
            used = model.dynamics.solve(z0, times)
            exact = model.dynamics.solve(z0.double().to(z0), times, rtol=1e-6, atol=1e-6)
            back = model.dynamics.solve(used.y1, times.flip(0)).y1
            missed = task.unit * (model.decoder(used.ys) - model.decoder(exact.ys))
            distance = float(missed.square().mean().sqrt())
        there_and_back = float((back - z0).norm() / z0.norm())
        run.metric(f"there_and_back_{count}", there_and_back)
        kind = str(z0.dtype).removeprefix("torch.")
        rows.append([f"{count} of 100", forward, backward, config.tol, kind, distance, there_and_back])
    columns = ["observations", "evaluations", "backward", "tolerance", "number type", "error of the solve"]
    run.table("What the solver did over window and future", [*columns, "there and back"], rows)
    run.note(
        "The steps themselves are differentiated, so that the backward pass evaluates no field. The error of the solve "
        "is the distance of decoded spirals from those of a solve at 1e-6; there and back is the relative distance of "
        "the latent state from where it started."
    )


def _say(run: Run, config: Config, found: waves.Waves | None) -> None:
    few = min(config.observations)
    ode, rnn = run.metrics[f"latent_ode_rmse_{few}"], run.metrics[f"rnn_dt_rmse_{few}"]
    text = (
        f"From {few} noisy observations of each spiral the latent ODE forecasts the next 100 times with an error of "
        f"**{ode:.3f}**, the recurrent network with {rnn:.3f}."
    )
    if found is not None:
        text += (
            f" The rate of events is inferred to {100 * run.metrics['rate_error']:.0f} %; a constant one misses by "
            f"{100 * run.metrics['constant_rate_error']:.0f} %."
        )
    run.answer(text)
