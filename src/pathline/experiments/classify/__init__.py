"""Six classifiers of small images: with a flow, with residual blocks, and with no block at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.experiments.classify import figures, truths
from pathline.experiments.classify.config import Config
from pathline.experiments.classify.distortions import distorted
from pathline.experiments.classify.models import NAMES, Classifier, build, correct, parameters
from pathline.experiments.classify.splits import Split, splits
from pathline.experiments.spec import check_at_least
from pathline.train import History, Run
from pathline.train.batches import minibatches


@dataclass
class Row:
    """What came of one model, over the folds."""

    parameters: int
    right: list[Tensor] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)

    @property
    def accuracies(self) -> list[float]:
        """Of each fold, in percent."""
        return [100 * float(right.float().mean()) for right in self.right]

    @property
    def accuracy(self) -> float:
        """Of all test images, in percent."""
        return 100 * float(torch.cat(self.right).float().mean())

    @property
    def seconds(self) -> float:
        """Of training, over all folds."""
        return sum(history.seconds for history in self.histories)


def run(config: Config, run: Run) -> None:
    """Train the six on every fold, compare them, and say what the solver did."""
    check_at_least(config, images=0, folds=2, channels=1, groups=1, halvings=0, pooled=1, epochs=1, batch=1, depths=1)
    _check_images(config)
    rows: dict[str, Row] = {}
    last: dict[str, nn.Module] = {}
    split: Split | None = None
    for k, split in enumerate(splits(config, run.seed)):
        for name in config.rows:
            last[name] = _trained(config, run, name, k, split, rows)
    assert split is not None
    _compare(run, rows)
    kept: dict[str, list[int]] = {}
    ode_net = last.get("ode_net")
    if isinstance(ode_net, Classifier):
        ode_net = ode_net.cpu().eval()
        _solver_truth(config, run, ode_net, split, rows["ode_net"])
        kept = _memory(config, run, ode_net, split)
        _by_depth(run, ode_net, split)
    run.figure("overview", figures.overview(rows, config.depths, kept), figures.OVERVIEW)


def _check_images(config: Config) -> None:
    least = 10 * config.folds
    if config.data == "digits" and 0 < config.images < least:
        raise ValueError(
            f"`images` is 0 or, with {config.folds} folds, at least {least}, but {config.images} came. "
            "Each fold tests every class."
        )


def _trained(config: Config, run: Run, name: str, k: int, split: Split, rows: dict[str, Row]) -> nn.Module:
    """One model on one fold: trained, tested, and put in its row."""
    torch.manual_seed(1000 * run.seed + k)
    images, labels = (tensor.to(run.device) for tensor in split.train)
    model = build(name, config, images[0].numel()).to(run.device)
    size = min(config.batch, len(labels))
    history = run.fit(
        f"{name.replace('_', '-')}-{k}",
        model,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        steps=config.epochs * -(-len(labels) // size),
        lr=config.lr,
        schedule="cosine",
        batches=_batches(config, images, labels, size, 1000 * run.seed + k),
    )
    row = rows.setdefault(name, Row(parameters(model)))
    row.histories.append(history)
    images, labels = split.test
    row.right.append(correct(model.eval(), images.to(run.device), labels.to(run.device)).cpu())
    return model


def _batches(config: Config, images: Tensor, labels: Tensor, size: int, seed: int) -> Callable[[int], Any]:
    """Shuffled batches; where it is asked for, every image a little different each time that it is seen."""
    plain = minibatches(images, labels, size=size, seed=seed)
    strengths = {"rotation": config.rotation, "zoom": config.zoom, "shift": config.shift}
    if not any(strengths.values()):
        return plain

    def batch(step: int) -> tuple[Tensor, Tensor]:
        some, classes = plain(step)
        return distorted(some, torch.Generator().manual_seed(1_000_003 * seed + step), **strengths), classes

    return batch


def _compare(run: Run, rows: dict[str, Row]) -> None:
    """The accuracies beside the parameters, and the comparisons that the bounds are about."""
    for name, row in rows.items():
        run.metric(f"{name}_accuracy", row.accuracy, "%")
    if {"ode_net", "residual_6"} <= set(rows):
        run.metric("behind_residual_6", rows["residual_6"].accuracy - rows["ode_net"].accuracy, "points")
        run.metric("parameter_ratio", rows["ode_net"].parameters / rows["residual_6"].parameters)
    if {"ode_net", "mlp"} <= set(rows):
        run.metric("ahead_of_mlp", rows["ode_net"].accuracy - rows["mlp"].accuracy, "points")
    if {"ode_net", "residual_1"} <= set(rows):
        ahead = rows["ode_net"].accuracy - rows["residual_1"].accuracy
        run.metric("ahead_of_residual_1", ahead, "points")
        run.note(
            f"Does the flow gain on a single residual block of its own size? By {ahead:+.2f} points here; that block "
            f"alone classifies {rows['residual_1'].accuracy:.2f} % rightly."
        )
    columns = ["model", "accuracy, %", "worst fold", "best fold", "parameters", "evaluations", "backward", "seconds"]
    cells = [
        [
            NAMES[name],
            row.accuracy,
            min(row.accuracies),
            max(row.accuracies),
            row.parameters,
            _mean_count(row, "evaluations"),
            _mean_count(row, "backward_evaluations"),
            round(row.seconds, 1),
        ]
        for name, row in rows.items()
    ]
    run.table("Test images, and what training took", columns, cells)
    if {"ode_net", "residual_6", "no_block"} <= set(rows):
        run.answer(
            f"The ODE-Net classifies {rows['ode_net'].accuracy:.2f} % of the test images rightly with "
            f"{rows['ode_net'].parameters:,} parameters, six residual blocks {rows['residual_6'].accuracy:.2f} % with "
            f"{rows['residual_6'].parameters:,}, and stem and head with no block between them "
            f"{rows['no_block'].accuracy:.2f} %."
        )


def _mean_count(row: Row, column: str) -> Any:
    """Evaluations of an update, on average; a model without a solver has none."""
    total = sum(history.total(column) for history in row.histories)
    return round(total / sum(history.steps for history in row.histories), 1) if total else "-"


def _solver_truth(config: Config, run: Run, model: Classifier, split: Split, row: Row) -> None:
    """Gradients of both kinds, companions in a batch, and the way there and back."""
    images, labels = split.test[0][:32], split.test[1][:32]
    difference = truths.gradient_difference(model, images[:8], labels[:8])
    returned = truths.there_and_back(model, split.test[0][:256])
    run.metric("gradient_difference", difference)
    for clock in ("shared", "per-sample"):
        run.metric(f"companions_{clock.replace('-', '_')}", truths.companions(model, images, clock))
    run.metric("ode_net_there_and_back", returned)
    columns = row.histories[-1].columns
    run.table(
        "What the solver did in the last update of the ODE-Net",
        ["evaluations", "in the backward pass", "tolerance", "backward tolerance", "number type", "there and back"],
        [
            [
                int(columns["evaluations"][-1]),
                int(columns["backward_evaluations"][-1]),
                config.tol,
                config.adjoint_tol,
                "float32",
                returned,
            ]
        ],
    )


def _memory(config: Config, run: Run, model: Classifier, split: Split) -> dict[str, list[int]]:
    """Bytes kept for the backward pass, by the number of solver steps."""
    images, labels = split.train[0][:16], split.train[1][:16]
    found = truths.memory(model, images, labels, config.depths)
    kept = {gradient: [kept for kept, _ in pairs] for gradient, pairs in found.items()}
    peaks = {gradient: [peak for _, peak in pairs] for gradient, pairs in found.items()}
    run.metric("ode_net_memory_spread", max(truths.spread(kept["adjoint"]), truths.spread(peaks["adjoint"])))
    run.metric("rk_net_memory_growth", kept["backprop"][-1] / kept["backprop"][0])
    run.table(
        "KiB kept for the backward pass of 16 images, and the peak of both passes",
        ["steps of rk4", *(f"{gradient}, {what}" for gradient in found for what in ("kept", "peak"))],
        [
            [steps, *(round(number / 1024) for pairs in found.values() for number in pairs[i])]
            for i, steps in enumerate(config.depths)
        ],
    )
    return kept


def _by_depth(run: Run, model: Classifier, split: Split) -> None:
    """What the head says when it is asked before the end of the flow."""
    times = torch.linspace(0.0, 1.0, 21)
    images, labels = split.test[0][:1000], split.test[1][:1000]
    accuracy, features = truths.by_depth(model, images, labels, times)
    run.figure("depth", figures.depth(times, accuracy, features, labels), figures.DEPTH)
