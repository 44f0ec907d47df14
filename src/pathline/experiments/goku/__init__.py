"""Lengths of pendulums from films: known equations, and one unknown number a film."""

from __future__ import annotations

import torch
from torch import nn

from pathline.experiments.goku import figures, measures, models
from pathline.experiments.goku.config import Config
from pathline.experiments.goku.films import Films, films, windows
from pathline.experiments.goku.measures import Seen, look
from pathline.experiments.spec import check_at_least
from pathline.train import Run

NAMES = {
    "goku": "GOKU",
    "latent_ode": "latent ODE",
    "lstm": "LSTM",
    "wrong": "GOKU, cube in place of sine",
    "kl_one": "GOKU, divergence at weight 1",
}


def run(config: Config, run: Run) -> None:
    """Check the equation, train all models alike, and measure them on films of their own."""
    check_at_least(config, films=1, validation=2, test=3, window=2, first=2, width=1, latent=1, updates=1, batch=1)
    if config.frames <= config.window:
        raise ValueError(f"`frames` exceeds `window`, but {config.frames} and {config.window} came.")
    shown = films(config, run.seed)
    run.metric("true_start_error", measures.true_start_error(config, shown.test))

    build = {"goku": models.goku, "latent_ode": models.latent_ode, "lstm": models.LSTM}
    if config.ablations:
        build["wrong"] = lambda config: models.goku(config, field=models.CubicPendulum)
        build["kl_one"] = lambda config: models.goku(config, kl=1.0)
    trained = {name: _fit(config, run, name, make, shown) for name, make in build.items()}
    seen = {name: look(config, model, shown.test, run.device) for name, model in trained.items()}

    _measure(config, run, seen, shown)
    _tables(config, run, trained, seen, shown)
    _say(config, run, seen)
    run.figure("films", figures.overview(config, seen, shown.test), figures.OVERVIEW)


def _fit(config: Config, run: Run, name: str, build: type | object, shown: Films) -> nn.Module:
    """Every model gets the same updates on the same windows."""
    torch.manual_seed(run.seed)
    model = build(config).to(run.device)  # pyright: ignore[reportCallIssue]

    def error(model: nn.Module) -> float:
        return look(config, model, shown.validation, run.device).error(slice(config.window, None))

    run.fit(
        name,
        model,
        models.frame_loss,
        steps=config.updates,
        batches=windows(config, shown.train.frames.to(run.device), run.seed),
        lr=config.lr,
        schedule="cosine",
        clip=config.clip,
        on_solve_failure="skip",
        evaluate=error,
        evaluate_every=max(1, config.updates // 10),
    )
    return model


def _measure(config: Config, run: Run, seen: dict[str, Seen], shown: Films) -> None:
    lengths, angles = shown.test.lengths, shown.test.states[..., 0]
    inside, beyond = slice(0, config.window), slice(config.window, None)
    for name, found in seen.items():
        run.metric(f"{name}_reconstruction_mse", found.error(inside))
        run.metric(f"{name}_extrapolation_mse", found.error(beyond))
        if found.lengths is not None and found.angles is not None:
            run.metric(f"{name}_length_r", measures.correlation(found.lengths, lengths))
            run.metric(f"{name}_length_rank_r", measures.rank_correlation(found.lengths, lengths))
            run.metric(f"{name}_length_slope", measures.slope(found.lengths, lengths))
            # The mirrored angle draws the same pictures.
            run.metric(f"{name}_angle_r", abs(measures.correlation(found.angles, angles)))
    run.metric("goku_slope_off_one", abs(run.metrics["goku_length_slope"] - 1.0))
    beyond_goku = run.metrics["goku_extrapolation_mse"]
    for name in seen:
        if name != "goku":
            run.metric(f"extrapolation_to_{name}", beyond_goku / run.metrics[f"{name}_extrapolation_mse"])


def _tables(config: Config, run: Run, trained: dict[str, nn.Module], seen: dict[str, Seen], shown: Films) -> None:
    kinds = ("length_r", "length_rank_r", "length_slope", "angle_r", "reconstruction_mse", "extrapolation_mse")
    rows = [
        [
            NAMES[name],
            sum(parameter.numel() for parameter in model.parameters()),
            *(run.metrics.get(f"{name}_{kind}", "") for kind in kinds),
        ]
        for name, model in trained.items()
    ]
    run.table(
        f"{config.test} films that were not trained on, {config.window} frames seen (errors: mean square of a pixel, "
        "black 0, white 1)",
        ["", "parameters", "length r", "length rank r", "slope", "angle r", "frames seen", "frames to come"],
        rows,
    )
    solved = {name: model for name, model in trained.items() if isinstance(model, models.Latent)}
    truths = {name: measures.solver_truth(config, model, shown.test, run.device) for name, model in solved.items()}
    run.metric("there_and_back", truths["goku"]["there and back"])
    run.table(
        "What the solver did: fixed steps of rk4 from frame to frame, float32; backpropagation adds no evaluation",
        ["", *truths["goku"]],
        [[NAMES[name], *truth.values()] for name, truth in truths.items()],
    )


def _say(config: Config, run: Run, seen: dict[str, Seen]) -> None:
    found = run.metrics
    run.answer(
        f"From {config.window} frames that show no length, the lengths of new pendulums are inferred with a "
        f"correlation of **{found['goku_length_r']:.3f}** "
        f"(slope {found['goku_length_slope']:.2f}); frames to come are predicted with "
        f"**{found['extrapolation_to_latent_ode']:.2f}** times the error of a latent ODE and "
        f"{found['extrapolation_to_lstm']:.2f} times that of an LSTM."
    )
    if config.ablations:
        run.note(
            f"With the cube of the angle in place of its sine, frames to come have "
            f"{1 / found['extrapolation_to_wrong']:.1f} times the error, and lengths correlate with "
            f"{found['wrong_length_r']:.3f}. With the divergence at weight 1 lengths correlate with "
            f"{found['kl_one_length_r']:.3f}."
        )
