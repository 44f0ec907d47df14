"""The figure: a kernel on its way, and who follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pathline.experiments.evolving_weights.synthetic import LABELS, NAMES
from pathline.models import NeuralODE
from pathline.plotting import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from pathline.experiments.evolving_weights.synthetic import Outcome
    from pathline.fields import EvolvingWeights

KERNELS = (
    "Left: the cells of the kernel between each two channels over the depth of the flow: the truth (wide, pale), what "
    "was learned in lock-step (dashes), and the best constant (dots at the side). Right: the loss of the four models "
    "over training; the last part is L-BFGS."
)

COLORS = {"lock_step": PALETTE[0], "ahead": PALETTE[2], "node": PALETTE[1], "resnet": PALETTE[3]}
STYLES = {"lock_step": "-", "ahead": "--", "node": "-", "resnet": "-."}


def kernels(outcome: Outcome) -> Figure:
    """The true, the learned and the constant kernel over time, and the losses."""
    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1.0))
    left, right = halves
    t = torch.linspace(0.0, 1.0, 61, dtype=torch.float64)
    models: dict[str, Any] = outcome.models
    true, found = path(outcome.truth, t), path(models["lock_step"].field, t)
    fixed = models["node"].field.weight.detach().cpu()
    channels = true.shape[1]
    panels = left.subplots(channels, channels, sharex=True, sharey=True, squeeze=False)
    for i in range(channels):
        for j in range(channels):
            _cells(panels[i][j], t, true[:, i, j], found[:, i, j], fixed[i, j])
            panels[i][j].set_title(f"from channel {j + 1} to {i + 1}", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("t")
    grey: dict[str, Any] = {"color": "#555555", "linestyle": ""}
    handles = [
        Line2D([], [], **grey | {"linestyle": "-", "linewidth": 4.5, "alpha": 0.35}, label="truth"),
        Line2D([], [], **grey | {"linestyle": "--", "linewidth": 1.3}, label="learned"),
        Line2D([], [], **grey | {"marker": "o", "markersize": 4}, label="best constant"),
    ]
    left.legend(handles=handles, frameon=False, ncols=3, loc="outside upper center", fontsize=9)
    _losses(right.subplots(), outcome)
    return figure


def path(field: EvolvingWeights, t: Tensor) -> Tensor:
    """The kernel at the given times, ``(times, out, in, cells)``."""
    with torch.no_grad():
        weights = {name: w.detach().cpu() for name, w in field.weights().items()}
        return NeuralODE(field.evolution.cpu(), rtol=1e-6, atol=1e-6)(weights, t)["weight"]


def _cells(axes: Axes, t: Tensor, true: Tensor, found: Tensor, fixed: Tensor) -> None:
    for cell in range(true.shape[1]):
        color = PALETTE[cell % len(PALETTE)]
        axes.plot(t, true[:, cell], color=color, linewidth=4.5, alpha=0.28, solid_capstyle="round")
        axes.plot(t, found[:, cell], "--", color=color, linewidth=1.3)
        axes.plot(1.06, fixed[cell], "o", color=color, markersize=4, clip_on=False)
    axes.axhline(0.0, color="#bbbbbb", linewidth=0.6, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _losses(axes: Axes, outcome: Outcome) -> None:
    for name in NAMES:
        axes.semilogy(outcome.losses[name], STYLES[name], color=COLORS[name], linewidth=1.8, label=LABELS[name])
    axes.set_xlabel("update")
    axes.set_ylabel("mean square error, relative")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
