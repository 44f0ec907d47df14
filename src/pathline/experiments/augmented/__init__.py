"""What a flow of the inputs' own dimension cannot do, and what one dimension more changes."""

from __future__ import annotations

from pathline.experiments.augmented import digits, figures, identities, spheres
from pathline.experiments.augmented.config import Config
from pathline.experiments.augmented.crossing import cross
from pathline.experiments.augmented.spheres import NAMES, Fitted
from pathline.experiments.spec import check_at_least
from pathline.train import Run

TRAINED_ON = {"whole": "all points", "wedge": "without the wedge", "away": "without the wedge, read away from it"}


def run(config: Config, run: Run) -> None:
    """Measure the identities, separate the spheres, cross on the line, and read digits."""
    check_at_least(
        config,
        hidden=1,
        inner=1,
        outer=1,
        epochs=1,
        batch=1,
        crossing_steps=1,
        digits_augment=0,
        digits_hidden=1,
        digits_epochs=0,
        folds=2,
    )
    for name, value in identities.measure(run.seed).items():
        run.metric(name, value)
    fits = spheres.study(config, run)
    _spheres(config, run, fits)
    cross(config, run)
    accuracy = digits.study(config, run) if config.digits_epochs else {}
    run.figure("spheres", figures.spheres(config, fits, run.seed), figures.SPHERES)
    _say(run, fits, accuracy)


def _spheres(config: Config, run: Run, fits: dict[str, dict[str, Fitted]]) -> None:
    whole, wedge = fits["whole"], fits["wedge"]
    for name in NAMES:
        run.metric(f"{name}_train_accuracy", whole[name].measured["train_accuracy"])
        run.metric(f"{name}_wedge_accuracy", wedge[name].measured["wedge_accuracy"])
        run.metric(f"{name}_evaluations", whole[name].evaluations[-1])
        run.metric(f"{name}_growth", whole[name].growth())
        run.metric(f"{name}_growth_after_a_fifth", whole[name].growth(0.2))
        run.metric(f"{name}_there_and_back", whole[name].measured["there_and_back"])
    run.metric("anode_to_node_evaluations", whole["anode"].evaluations[-1] / whole["node"].evaluations[-1])
    away = fits["away"]["node"].measured
    run.metric("node_read_away_train_accuracy", away["train_accuracy"])
    run.metric("node_read_away_wedge_accuracy", away["wedge_accuracy"])
    labels = {"node": "NODE", "anode": "ANODE, p = 1"}
    rows = [
        [
            labels[name],
            TRAINED_ON[part],
            sum(parameter.numel() for parameter in fitted.flow.parameters()),
            *(fitted.measured[f"{key}_accuracy"] for key in ("train", "test", "wedge")),
            fitted.evaluations[0],
            fitted.evaluations[-1],
            int(fitted.measured["evaluations"]),
            fitted.measured["there_and_back"],
        ]
        for part, both in fits.items()
        for name, fitted in both.items()
    ]
    columns = ["", "trained on", "parameters", "training points", "new points", "the wedge", "evaluations before"]
    run.table(
        f"A ball inside a shell (accuracies; evaluations and the way there and back at tolerance "
        f"{config.measured_tol:g}, float32)",
        [*columns, "evaluations after", "on a shared clock", "there and back"],
        rows,
    )


def _say(run: Run, fits: dict[str, dict[str, Fitted]], accuracy: dict[str, float]) -> None:
    node, anode = (fits["wedge"][name].measured["wedge_accuracy"] for name in NAMES)
    whole = fits["whole"]
    run.answer(
        f"Where a wedge of the plane was held out, the plain flow is right on **{node:.1%}** of it and the augmented "
        f"one on **{anode:.1%}**: a flow of the plane has to tear the shell, and does so where it has seen nothing."
    )
    run.note(
        f"It is not true that a plain flow stays below some accuracy: it reaches "
        f"{whole['node'].measured['train_accuracy']:.2%} on its training points by squeezing. What grows is the price: "
        f"{whole['node'].evaluations[0]:.0f} evaluations a point before training and "
        f"{whole['node'].evaluations[-1]:.0f} after it, against {whole['anode'].evaluations[0]:.0f} and "
        f"{whole['anode'].evaluations[-1]:.0f}."
    )
    if accuracy:
        run.note(f"Digits: {accuracy['node']:.2%} plain, {accuracy['anode']:.2%} augmented, held out.")
