"""Events whose rate is a wave of unknown phase: a Poisson process in latent space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pathline.data import Events, sinusoidal_events
from pathline.experiments.spirals.config import Config
from pathline.models import AttentionEncoder, Latent, LatentODE, likelihoods
from pathline.train import Run

ACROSS = 201


@dataclass(frozen=True)
class Waves:
    """What came out.

    Attributes:
        model: The trained model.
        data: Test series.
        times: ``(T,)``.
        found: Inferred rates, ``(T, n)``.
        true: True rates, ``(T, n)``.
    """

    model: Latent
    data: Events
    times: Tensor
    found: Tensor
    true: Tensor


def train(config: Config, run: Run) -> Waves:
    """Train on some series, infer the rates of others, and compare likelihoods."""
    generator = torch.Generator().manual_seed(run.seed + 7_000)
    seen = sinusoidal_events(config.event_series, generator=generator)
    data = sinusoidal_events(max(1, config.event_series // 5), generator=generator)
    torch.manual_seed(run.seed)
    process = likelihoods.Poisson(window=(0.0, seen.end))
    model = LatentODE(
        1,
        config.event_latent,
        encoder=AttentionEncoder(1, config.event_latent, 32, layers=1, span=seen.end),
        field_hidden=config.field_hidden,
        decoder_hidden=config.decoder_hidden,
        likelihood=process,
        rtol=config.tol,
        atol=config.tol,
    ).to(run.device)
    batches = seen.events.to(run.device).batches(min(64, config.event_series), seed=run.seed)
    run.fit(
        "events",
        model,
        lambda model, batch: model.loss(batch),
        steps=config.event_steps,
        batches=batches,
        lr=config.lr,
        schedule="cosine",
        clip=config.clip,
    )
    return _judged(run, model, seen, data)


def _judged(run: Run, model: Latent, seen: Events, data: Events) -> Waves:
    torch.manual_seed(run.seed)
    events = data.events.to(run.device)
    times = torch.linspace(0.0, data.end, ACROSS, dtype=torch.float64)
    with torch.no_grad():
        found = model.predict(events, times.to(run.device), samples=20).mean[..., 0].double().cpu()
        bound = float(model.iwae(events, 50))
    true = data.rate(times)
    run.metric("rate_error", float((found - true).norm() / true.norm()), "of the rate's norm")
    constant = float(seen.events.lengths.double().mean()) / seen.end
    flat = (data.events.lengths * torch.tensor(constant).double().log() - constant * data.end).mean()
    truth = float(data.log_likelihood().mean())
    run.metric("constant_rate_error", float((constant - true).norm() / true.norm()), "of the rate's norm")
    run.metric("events_gain", bound - float(flat), "nats a series")
    run.metric("events_gain_of_truth", truth - float(flat), "nats a series")
    rows = [
        ["true rate", truth, 0.0],
        ["latent ODE (bound of 50 draws)", bound, run.metrics["rate_error"]],
        ["constant rate", float(flat), run.metrics["constant_rate_error"]],
    ]
    run.table(
        "Events of 100 waves that the model has not seen" if len(events) == 100 else "Events of unseen waves",
        ["", "log-likelihood (nats a series)", "relative error of the rate"],
        rows,
    )
    return Waves(model, data, times, found, true)
