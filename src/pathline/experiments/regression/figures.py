"""The two figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

import pathline
from pathline.plotting import PALETTE, flow_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from pathline.models import NeuralODE, ResNet

FIT = "Left: ten targets and both models. Right: the flow of the ODE-Net from input to output; its lines never cross."
ADJOINT = "Three inputs on their way through the ODE-Net, and how the loss depends on where they are: a(t) = dL/dh(t)."

INK = "#222222"


def fit(resnet: ResNet, odenet: NeuralODE, x: Tensor, y: Tensor) -> Figure:
    """Both models on [-3, 3], and the flow lines between t = 0 and 1."""
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = torch.linspace(-3.0, 3.0, 301).unsqueeze(1)
    with torch.no_grad():
        left.plot(grid, resnet(grid), color=PALETTE[0], linestyle="--", linewidth=1.8, label="ResNet")
        left.plot(grid, odenet(grid), color=PALETTE[1], linewidth=1.8, label="ODE-Net")
    left.plot(x, y, "o", color=INK, markersize=5, label="targets", zorder=5)
    left.set_xlabel("input")
    left.set_ylabel("output")
    left.legend(frameon=False)
    flow_lines(odenet, right, y0=torch.linspace(-2.0, 2.0, 19).unsqueeze(1), t=torch.linspace(0.0, 1.0, 101))
    right.plot(torch.zeros(len(x)), x, "o", color=INK, markersize=4, zorder=5)
    right.plot(torch.ones(len(y)), y, "o", color=INK, markersize=4, zorder=5)
    right.set_xlabel("t, from input to output")
    for axes in (left, right):
        _plain(axes)
    return figure


def adjoint(odenet: NeuralODE, x: Tensor, y: Tensor) -> Figure:
    """The state h(t) and its adjoint a(t), side by side."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = [0, len(x) // 2, len(x) - 2]
    # Three starts near targets, but off them: on a target that is hit, the loss depends on nothing.
    starts, targets = x[shown] + 0.15, y[shown]
    solution = odenet.solve(starts, save=pathline.Save(dense=True), rtol=1e-6, atol=1e-6)
    curve = pathline.sensitivity(solution, lambda ys: (ys[-1] - targets).square().sum())
    t = torch.linspace(0.0, 1.0, 201)
    states, adjoints = solution(t).detach(), curve(t)
    for i, style in enumerate(("-", "--", "-.")):
        label = f"h(0) = {float(starts[i]):.2f}"
        left.plot(t, states[:, i, 0], style, color=PALETTE[i], label=label)
        right.plot(t, adjoints[:, i, 0], style, color=PALETTE[i], label=label)
    left.set_ylabel("state h(t)")
    right.set_ylabel("adjoint a(t) = dL/dh(t)")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xlabel("t")
        _plain(axes)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
