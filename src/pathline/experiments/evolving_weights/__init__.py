"""Weights that follow an equation of their own: identities, a task that asks for it, digits."""

from __future__ import annotations

from typing import Any

import torch

from pathline.experiments.evolving_weights import digits, figures, identities, synthetic
from pathline.experiments.evolving_weights.blocks import size
from pathline.experiments.evolving_weights.config import Config
from pathline.experiments.evolving_weights.synthetic import LABELS, NAMES, Outcome
from pathline.experiments.spec import check_at_least
from pathline.models import NeuralODE
from pathline.train import Run


def run(config: Config, run: Run) -> None:
    """Measure the identities, follow a kernel that diffuses, and read digits."""
    check_at_least(
        config,
        line=1,
        channels=1,
        kernel=1,
        steps=1,
        updates=1,
        polish=0,
        digits_channels=1,
        digits_steps=1,
        digits_epochs=0,
        batch=1,
        folds=2,
    )
    for name, value in identities.measure(run.seed).items():
        run.metric(name, value)
    outcome = synthetic.study(config, run)
    _synthetic(config, run, outcome)
    accuracy = digits.study(config, run) if config.digits_epochs else {}
    for name, value in accuracy.items():
        run.metric(f"digits_{name}_accuracy", value)
    if accuracy:
        for name in ("lock_step", "ahead"):
            run.metric(f"digits_{name}_gain", 100 * (accuracy[name] - accuracy["node"]), "points")
    run.figure("kernels", figures.kernels(outcome), figures.KERNELS)
    _say(run, outcome, accuracy)


def _synthetic(config: Config, run: Run, outcome: Outcome) -> None:
    errors = outcome.errors
    for name, error in errors.items():
        run.metric(f"{name}_mse", error, "relative")
    for name in ("lock_step", "ahead"):
        run.metric(f"node_to_{name}_mse", errors["node"] / errors[name])
    run.metric("resnet_to_lock_step_mse", errors["resnet"] / errors["lock_step"])
    run.table(
        "The flow of a kernel that diffuses",
        ["", "parameters", "loss", "mean square error of new inputs, relative"],
        [[LABELS[name], size(outcome.models[name]), outcome.losses[name][-1], errors[name]] for name in NAMES],
    )
    rows = [["truth", *coefficients(outcome.truth)]]
    rows += [[LABELS[name], *coefficients(outcome.models[name].field)] for name in ("lock_step", "ahead")]
    run.table("How the kernel evolves", ["", "diffusion d", "velocity v", "reaction rho"], rows)
    model = outcome.models["lock_step"]
    run.table(
        "What the solver did (weights in lock-step, float64)",
        ["method", "steps", "evaluations", "distance to tolerance 1e-9", "there and back"],
        [["rk4", config.steps, *solver_truth(run, config, model)]],
    )


def coefficients(field: Any) -> list[float]:
    """Diffusivity, velocity and reaction of the one kernel."""
    evolution = field.evolution
    found = (evolution.diffusion[0], evolution.velocity[0, 0], evolution.reaction[0])
    return [float(value.detach()) for value in found]


def solver_truth(run: Run, config: Config, model: Any) -> list[float]:
    """Evaluations of a solve, how far its steps leave it from the flow, and the way there and back."""
    generator = torch.Generator().manual_seed(run.seed)
    z = torch.randn(64, config.channels, config.line, dtype=torch.float64, generator=generator).to(run.device)
    with torch.no_grad():
        there = model.ode.solve(model.field.start(z))
        exact = NeuralODE(model.field, rtol=1e-9, atol=1e-9)(model.field.start(z))[0]
        back = model.ode.inverse(there.y1)[0]
    distance = float((there.y1[0] - exact).norm() / exact.norm())
    there_and_back = float((back - z).norm() / z.norm())
    run.metric("lock_step_there_and_back", there_and_back)
    return [there.stats.evaluations, distance, there_and_back]


def _say(run: Run, outcome: Outcome, accuracy: dict[str, float]) -> None:
    errors = outcome.errors
    run.answer(
        f"Where the true kernel diffuses along the flow, evolving weights leave a relative error of "
        f"**{errors['lock_step']:.1e}** (in lock-step) and {errors['ahead']:.1e} (ahead of the state); the best "
        f"constant weights leave **{errors['node']:.1e}**, independent weights of equal number {errors['resnet']:.1e}."
    )
    if accuracy:
        run.note("Digits, held out: " + ", ".join(f"{LABELS[name]} {accuracy[name]:.2%}" for name in NAMES) + ".")
