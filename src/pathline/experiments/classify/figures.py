"""The figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from pathline.experiments.classify.models import NAMES
from pathline.plotting import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

OVERVIEW = (
    "Left: test accuracy, the mean and the range over the folds, and thousands of parameters. Middle: evaluations of "
    "the field in an update of the ODE-Net, the median over the folds. Right: what is kept for the backward pass of 16 "
    "images, by the number of solver steps."
)
DEPTH = (
    "Left: accuracy on test images when the head reads the flow before its end. Right: the pooled channels of the "
    "same images at the start, half way and at the end, around their mean, in the plane that separates the classes "
    "best at the end."
)

INK, GREY = "#222222", "#777777"
_COLOURS = {name: PALETTE[i] for i, name in enumerate(("residual_6", "ode_net", "rk_net", "residual_1", "mlp"))}
_COLOURS["no_block"] = GREY


def overview(rows: Mapping[str, Any], depths: Sequence[int], kept: Mapping[str, Sequence[int]]) -> Figure:
    """Accuracy of all models; evaluations and memory of the flow, where there is one."""
    figure = Figure(figsize=(12.0, 3.6) if kept else (5.4, 3.6), layout="constrained")
    left, *others = figure.subplots(1, 3 if kept else 1, squeeze=False, width_ratios=[1.25, 1, 1][: 3 if kept else 1])[
        0
    ]
    accuracy(left, rows)
    if kept:
        evaluations(others[0], rows["ode_net"].histories)
        memory(others[1], depths, kept)
    return figure


def accuracy(axes: Axes, rows: Mapping[str, Any]) -> None:
    """A line a model: the mean, and the range over the folds."""
    # In percent of errors on a logarithmic axis, so that 98 and 99 are as far apart as they are.
    for place, (name, row) in enumerate(rows.items()):
        errors = [max(100 - value, 0.05) for value in row.accuracies]
        mean = max(100 - row.accuracy, 0.05)
        axes.plot([min(errors), max(errors)], [place] * 2, color=_COLOURS[name], linewidth=2, alpha=0.4)
        axes.plot(mean, place, "o", color=_COLOURS[name], markersize=8)
    axes.set_yticks(
        range(len(rows)),
        [f"{NAMES[name].split(' (')[0]}\n{row.parameters / 1000:.3g} k" for name, row in rows.items()],
    )
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.1)
    axes.invert_xaxis()
    axes.invert_yaxis()
    ticks = [90, 70, 50, 30, 20, 10, 5, 2, 1, 0.5, 0.2]
    low, high = sorted(axes.get_xlim())
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{100 - tick:g}" for tick in shown])
    axes.minorticks_off()
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("test accuracy, %")
    _plain(axes)


def evaluations(axes: Axes, histories: Sequence[Any]) -> None:
    """How many evaluations an update takes while the field learns."""
    columns = {"forward": "evaluations", "backward": "backward_evaluations"}
    for (label, column), colour in zip(columns.items(), (PALETTE[0], PALETTE[1]), strict=True):
        folds = [history.columns[column] for history in histories]
        middle = [statistics.median(values) for values in zip(*folds, strict=False)]
        axes.plot(range(1, len(middle) + 1), middle, color=colour, linewidth=1.6, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("update")
    axes.set_ylabel("evaluations of the field")
    axes.legend(frameon=False)
    _plain(axes)


def memory(axes: Axes, depths: Sequence[int], kept: Mapping[str, Sequence[int]]) -> None:
    """A line a gradient, on logarithmic axes."""
    names = {"backprop": "backpropagation", "checkpointed": "checkpointed", "adjoint": "adjoint"}
    for (gradient, values), colour in zip(kept.items(), PALETTE, strict=False):
        mebibytes = [value / 2**20 for value in values]
        axes.plot(depths, mebibytes, "o-", color=colour, markersize=4)
        axes.annotate(
            names[gradient],
            (depths[-1], mebibytes[-1]),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(depths), [str(depth) for depth in depths])
    axes.minorticks_off()
    axes.set_xlim(right=depths[-1] * (depths[-1] / depths[0]) ** 0.35)
    axes.set_xlabel("steps of the solver")
    axes.set_ylabel("MiB kept for the backward pass")
    _plain(axes)


def depth(times: Tensor, accuracy: Sequence[float], features: Tensor, labels: Tensor) -> Figure:
    """Accuracy by depth, and the classes as they part."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    left, *right = figure.subplots(1, 4, gridspec_kw={"width_ratios": [1.3, 1, 1, 1]})
    left.plot(times, accuracy, color=PALETTE[1], linewidth=2)
    left.set_ylim(0, 102)
    left.set_xlabel("depth t")
    left.set_ylabel("accuracy of the head at h(t), %")
    _plain(left)
    plane = discriminants(features[-1], labels)
    drawn = (features - features.mean(1, keepdim=True)) @ plane
    for axes, index in zip(right, (0, len(times) // 2, len(times) - 1), strict=True):
        for digit in range(10):
            points = drawn[index][labels == digit]
            colour = f"C{digit}"
            axes.plot(points[:, 0], points[:, 1], ".", color=colour, markersize=2.5, alpha=0.7)
            if len(points):
                axes.annotate(str(digit), points.mean(0).tolist(), ha="center", va="center", fontsize=9, weight="bold")
        axes.set_title(f"t = {float(times[index]):.1f}", fontsize=10)
        axes.set_xlim(_span(drawn[..., 0]))
        axes.set_ylim(_span(drawn[..., 1]))
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def discriminants(features: Tensor, labels: Tensor) -> Tensor:
    """The two directions of linear discriminant analysis, ``(channels, 2)``: between the classes over within them."""
    x = (features - features.mean(0)).double()
    means = torch.stack([x[labels == k].mean(0) for k in labels.unique()])
    counts = torch.stack([(labels == k).sum() for k in labels.unique()]).double()
    between = (means * counts[:, None]).T @ means / counts.sum()
    total = x.T @ x / len(x)
    within = total - between + 1e-3 * total.trace() / len(total) * torch.eye(len(total), dtype=torch.float64)
    factor = torch.linalg.cholesky(within)
    whitened = torch.linalg.solve(factor, torch.linalg.solve(factor, between).T)
    vectors = torch.linalg.eigh((whitened + whitened.T) / 2)[1][:, -2:].flip(1)
    return torch.linalg.solve(factor.T, vectors).to(features.dtype)


def _span(values: Tensor) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
