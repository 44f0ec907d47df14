"""Handwritten digits drawn by a class-conditional flow, trained by flow matching on 3000 images."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pathline import FlowMatching, fields, solve
from pathline.experiments.images_flow import figures
from pathline.experiments.images_flow.baseline import Gaussians
from pathline.experiments.images_flow.config import Config
from pathline.experiments.images_flow.digits import Digits, nearest, one_hot, ten_of_each
from pathline.experiments.images_flow.identity import velocity_error
from pathline.experiments.images_flow.judge import Jury, Quality, train_judge
from pathline.experiments.spec import check_at_least
from pathline.train import Run
from pathline.train.batches import minibatches

SOLVERS: dict[str, dict[str, Any]] = {
    "Euler 5": {"method": "euler", "dt": 1 / 5},
    "Euler 10": {"method": "euler", "dt": 1 / 10},
    "Euler 20": {"method": "euler", "dt": 1 / 20},
    "Heun 5": {"method": "heun", "dt": 1 / 5},
    "Heun 10": {"method": "heun", "dt": 1 / 10},
    "dopri5": {"method": "dopri5"},
}
"""How digits are drawn: method, and steps where they are fixed."""

TWINS = ("Euler 5", "Euler 10", "Euler 20", "dopri5")
"""How the twin's are."""


class Drawn(NamedTuple):
    """Digits, what they cost, and what the judge says of them."""

    images: Tensor
    evaluations: int
    quality: Quality


def run(config: Config, run: Run) -> None:
    """Train the flow and its twin on another path, draw digits at several prices, and compare."""
    check_at_least(
        config, widths=1, blocks=1, patch=1, steps=1, batch=1, draws=1, directions=1, judge_steps=1, identity_steps=1
    )
    run.metric("gaussian_velocity_error", velocity_error(run, config.identity_steps))
    digits = Digits.load(run.device)
    jury = train_judge(run, digits.judge, digits.held_out, config.judge_steps)
    flow = _fitted(config, run, digits, "flow", config.path)
    twin = _fitted(config, run, digits, "twin", config.twin_path)
    asked = ten_of_each(config.draws, run.device)
    drawn = {name: _drawn(flow, digits, jury, asked, **options) for name, options in SOLVERS.items()}
    guided = _drawn(flow, digits, jury, asked, **SOLVERS["Euler 20"], guidance=config.guidance)
    twins = {name: _drawn(twin, digits, jury, asked, **SOLVERS[name]) for name in TWINS}
    others = _others(config, run, digits, jury, asked)

    _metrics(run, drawn, twins, others)
    run.metric("guided_accuracy", guided.quality.accuracy)
    run.metric("guided_frechet", guided.quality.frechet)
    _tables(config, run, drawn, guided, twins, others)
    _copies(run, digits, drawn["dopri5"].images, asked)
    _solver_truth(config, run, flow, digits)
    _say(run, drawn, twins, others)

    run.figure("sheet", figures.sheet(digits, drawn["dopri5"].images, guided.images, asked), figures.SHEET)
    paths = {config.path: drawn, f"{config.twin_path}, the twin": twins}
    run.figure("price", figures.price(paths, others), figures.PRICE)
    run.figure("way", figures.way(digits, *_way(flow, run)), figures.WAY)


def _fitted(config: Config, run: Run, digits: Digits, name: str, path: str) -> FlowMatching:
    """A flow on one of the paths; weights, batches and number of updates are the same for all."""
    torch.manual_seed(run.seed)
    field = fields.UNet(1, config.widths, context=10, blocks=config.blocks, patch=config.patch)
    model = FlowMatching(
        field,
        (1, 28, 28),
        path=path,
        coupling=config.coupling,
        drop_context=config.drop_context,
        rtol=config.tol,
        atol=config.tol,
    ).to(run.device)
    run.fit(
        name,
        model,
        _loss,
        steps=config.steps,
        batches=minibatches(digits.train.images, digits.train.classes, size=config.batch, seed=run.seed),
        lr=config.lr,
        clip=1.0,
        schedule="cosine",
    )
    return model.eval()


def _loss(model: nn.Module, batch: Any) -> Tensor:
    return model.loss(batch)  # pyright: ignore[reportCallIssue]


def _drawn(flow: FlowMatching, digits: Digits, jury: Jury, asked: Tensor, **options: Any) -> Drawn:
    """Digits of the classes that were asked for, always from the same noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = digits.clipped(flow.sample((), one_hot(asked), **options))
    return Drawn(images, flow.evaluations, jury(images, asked))


def _others(config: Config, run: Run, digits: Digits, jury: Jury, asked: Tensor) -> dict[str, Quality]:
    """What the numbers are worth: a linear model, and as many real images."""
    gaussians = digits.clipped(Gaussians(digits.train, config.directions).sample(asked))
    real = (digits.train.labels.unsqueeze(0) == torch.arange(10, device=run.device).unsqueeze(1)).nonzero()[:, 1]
    rows = real.reshape(10, -1)[:, : config.draws].flatten()
    return {
        "Gaussian of each class": jury(gaussians, asked),
        "training images": jury(digits.train.images[rows], asked),
        "held-out images": jury(digits.held_out.images, digits.held_out.labels),
    }


def _metrics(run: Run, drawn: dict[str, Drawn], twins: dict[str, Drawn], others: dict[str, Quality]) -> None:
    best, gaussian, floor = drawn["dopri5"].quality, others["Gaussian of each class"], others["training images"]
    run.metric("accuracy", best.accuracy)
    run.metric("entropy", best.entropy, "nats")
    run.metric("frechet", best.frechet)
    run.metric("frechet_floor", floor.frechet)
    run.metric("frechet_gaussian", gaussian.frechet)
    run.metric("judge_accuracy", others["held-out images"].accuracy)
    run.metric("frechet_to_gaussian", best.frechet / gaussian.frechet)
    run.metric("frechet_euler_10_to_dopri5", drawn["Euler 10"].quality.frechet / best.frechet)
    for name in ("Euler 5", "Euler 10"):
        key = name.lower().replace(" ", "_")
        run.metric(f"frechet_{key}", drawn[name].quality.frechet)
        run.metric(f"frechet_{key}_to_twin", drawn[name].quality.frechet / twins[name].quality.frechet)
    run.metric("frechet_twin", twins["dopri5"].quality.frechet)
    run.metric("evaluations_dopri5", drawn["dopri5"].evaluations)
    run.metric("evaluations_to_twin", drawn["dopri5"].evaluations / twins["dopri5"].evaluations)


def _tables(
    config: Config,
    run: Run,
    drawn: dict[str, Drawn],
    guided: Drawn,
    twins: dict[str, Drawn],
    others: dict[str, Quality],
) -> None:
    heading = ["evaluations", "accuracy", "entropy (nats)", "Frechet distance"]
    rows: list[list[Any]] = [[name, each.evaluations, *each.quality] for name, each in drawn.items()]
    rows.append([f"Euler 20, guided with {config.guidance:g}", 2 * guided.evaluations, *guided.quality])
    rows += [[name, "", *quality] for name, quality in others.items()]
    run.table(f"Evaluations against quality ({config.path}), {10 * config.draws} digits", ["", *heading], rows)
    run.table(
        f"The twin: the same network, images and updates on the path {config.twin_path}",
        ["", *heading],
        [[name, each.evaluations, *each.quality] for name, each in twins.items()],
    )
    run.note(
        "Accuracy, entropy and distance are those of a small classifier that learned from 1000 images which no flow "
        "has seen. The Frechet distance is taken in its 32 features, to 1000 further images. **It is no FID**: it is "
        "comparable within this page alone. As many training images stand beside it as the floor."
    )


def _copies(run: Run, digits: Digits, images: Tensor, asked: Tensor) -> None:
    """Whether the flow repeats its training images: distances to the nearest one, beside those of held-out images."""
    known = digits.train.images
    drawn, held_out = (nearest(each, known)[0] for each in (images, digits.held_out.images))
    run.metric("nearest_to_held_out", float(drawn.median() / held_out.median()))
    run.table(
        "Distance to the nearest training image",
        ["", "smallest", "median"],
        [[name, float(d.min()), float(d.median())] for name, d in (("drawn", drawn), ("held out", held_out))],
    )


def _solver_truth(config: Config, run: Run, flow: FlowMatching, digits: Digits) -> None:
    """Evaluations both ways, tolerance, type, and held-out images to the base and back."""
    images, classes = digits.held_out.images[::20], digits.held_out.classes[::20]
    with torch.no_grad():
        noise = _carried(flow, images, classes, (1.0, 0.0))
        back = _carried(flow, noise.y1, classes, (0.0, 1.0))
    there_and_back = float((back.y1 - images).norm() / images.norm())
    run.metric("there_and_back", there_and_back)
    run.table(
        "What dopri5 did",
        ["image to noise", "noise to image", "tolerance", "number type", "there and back"],
        [
            [
                noise.stats.evaluations,
                back.stats.evaluations,
                config.tol,
                str(images.dtype).removeprefix("torch."),
                there_and_back,
            ]
        ],
    )


def _carried(flow: FlowMatching, images: Tensor, classes: Tensor, times: tuple[float, float]) -> Any:
    return solve(flow.field, images, times, args=classes, method="dopri5", rtol=flow.rtol, atol=flow.atol)


def _way(flow: FlowMatching, run: Run) -> tuple[Tensor, Tensor]:
    """One digit of each class from noise to image: times ``(7,)`` and images ``(7, 10, 1, 28, 28)``."""
    times = torch.linspace(0.0, 1.0, 7)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        noise = torch.randn(10, 1, 28, 28, device=run.device)
        classes = torch.eye(10, device=run.device)
        solution = solve(flow.field, noise, times, args=classes, method="dopri5", rtol=flow.rtol, atol=flow.atol)
    return times, solution.ys


def _say(run: Run, drawn: dict[str, Drawn], twins: dict[str, Drawn], others: dict[str, Quality]) -> None:
    best, ten = drawn["dopri5"], drawn["Euler 10"]
    twin = twins["Euler 10"]
    run.answer(
        f"The judge recognises **{100 * best.quality.accuracy:.0f} %** of the drawn digits (of real ones "
        f"{100 * others['held-out images'].accuracy:.0f} %). Their Frechet distance to held-out images is "
        f"{best.quality.frechet:.0f} with {best.evaluations} evaluations and {ten.quality.frechet:.0f} with ten; "
        f"that of a Gaussian for each class is {others['Gaussian of each class'].frechet:.0f}, that of the training "
        f"images {others['training images'].frechet:.0f}. Trained on the other path, the same network has "
        f"{twin.quality.frechet:.0f} with ten and {twins['dopri5'].quality.frechet:.0f} with "
        f"{twins['dopri5'].evaluations}."
    )
