"""The three figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

from pathline.experiments.images_flow.digits import Digits, nearest
from pathline.plotting import PALETTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from torch import Tensor

    from pathline.experiments.images_flow import Drawn
    from pathline.experiments.images_flow.judge import Quality

SHEET = (
    "Left: digits of each class as they came. Middle: for each of them the nearest training image. "
    "Right: the same noise, guided towards the class."
)
PRICE = "What a digit costs, and how far the drawn ones are from real ones, for two paths of the same network."
WAY = "From noise at t = 0 to a digit of each class at t = 1."

SHOWN = 8
GAP = 2


def sheet(digits: Digits, images: Tensor, guided: Tensor, labels: Tensor) -> Figure:
    """The first digits of each class, and in the same places the nearest training images and the guided digits."""
    count = min(SHOWN, int((labels == 0).sum()))
    rows = torch.cat([(labels == label).nonzero().flatten()[:count] for label in range(10)])
    drawn = images[rows]
    neighbours = digits.train.images[nearest(drawn, digits.train.images)[1]]
    figure = Figure(figsize=(1.2 * count + 0.6, 4.4), layout="constrained")
    for axes, block, title in zip(
        figure.subplots(1, 3),
        (drawn, neighbours, guided[rows]),
        ("drawn by the flow", "nearest training images", "drawn with guidance"),
        strict=True,
    ):
        _picture(axes, tiled(digits.shown(block).reshape(10, count, 28, 28)))
        axes.set_title(title, fontsize=10)
    return figure


def way(digits: Digits, times: Tensor, images: Tensor) -> Figure:
    """Times downwards, classes across."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    _picture(axes, tiled(digits.shown(images)))
    middles = (28 + GAP) * torch.arange(len(times)) + GAP + 14
    axes.set_yticks(middles.tolist(), [f"t = {float(t):.2f}" for t in times])
    axes.tick_params(length=0)
    return figure


def price(paths: Mapping[str, Mapping[str, Drawn]], others: Mapping[str, Quality]) -> Figure:
    """Frechet distance against evaluations, for each path."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for index, (label, all_of) in enumerate(paths.items()):
        euler = [(each.evaluations, each.quality.frechet) for name, each in all_of.items() if "Euler" in name]
        axes.plot(*zip(*euler, strict=True), "-o", color=PALETTE[index], label=f"{label}, Euler")
        heun = [(each.evaluations, each.quality.frechet) for name, each in all_of.items() if "Heun" in name]
        if heun:
            axes.plot(*zip(*heun, strict=True), "--s", color=PALETTE[index], label=f"{label}, Heun", markersize=5)
        last = all_of["dopri5"]
        axes.plot([last.evaluations], [last.quality.frechet], "*", color=PALETTE[index], markersize=12)
        at = (last.evaluations, last.quality.frechet)
        axes.annotate("dopri5", at, (0, 9 - 26 * index), textcoords="offset points", ha="center", fontsize=8)
    for name, style in (("Gaussian of each class", ":"), ("training images", "-.")):
        axes.axhline(others[name].frechet, color="#888888", linestyle=style, linewidth=1)
        axes.annotate(name, (0.99, others[name].frechet), (0, 3), xycoords=("axes fraction", "data"), **_SMALL)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_xlabel("evaluations for a digit")
    axes.set_ylabel("Frechet distance, judge's features")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center right")
    return figure


_SMALL = {"textcoords": "offset points", "ha": "right", "fontsize": 8, "color": "#666666"}


def tiled(images: Tensor) -> Tensor:
    """``(rows, columns, height, width)`` as one picture with gaps of paper."""
    rows, columns, height, width = images.shape
    picture = images.new_zeros(rows * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for row in range(rows):
        for column in range(columns):
            top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
            picture[top : top + height, left : left + width] = images[row, column]
    return picture


def _picture(axes: Axes, picture: Tensor) -> None:
    axes.imshow(picture.numpy(), cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
