"""The figure: both flows, what they say of the plane, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from pathline.experiments.augmented import spheres as study
from pathline.plotting import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pathline.experiments.augmented.config import Config
    from pathline.experiments.augmented.spheres import Fitted

SPHERES = (
    "Left: where the flows take ball (blue) and shell (orange); grey dots are starts. Middle: what both say of every "
    "point of the plane after training without the wedge, drawn by a dashed line. Right: evaluations of the field that "
    "a point needs, at tolerance 1e-5, over training on the whole plane."
)

BALL, SHELL = PALETTE[0], PALETTE[1]
REACH = 1.75


def spheres(config: Config, fits: dict[str, dict[str, Fitted]], seed: int) -> Figure:
    """Flow, decisions and evaluations of both models."""
    figure = Figure(figsize=(12.0, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1.0, 1.0, 0.9))
    _plane_flow(figure.add_subplot(grid[0, 0]), config, fits["whole"]["node"], seed)
    _space_flow(figure.add_subplot(grid[1, 0], projection="3d"), config, fits["whole"]["anode"], seed)
    for row, name in enumerate(study.NAMES):
        _decisions(figure.add_subplot(grid[row, 1]), config, fits["wedge"][name], seed)
    _evaluations(figure.add_subplot(grid[:, 2]), fits["whole"])
    return figure


def _paths(config: Config, fitted: Fitted, seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Paths ``(times, points, size)`` of some points, and which of them belong to the ball."""
    x, labels = study.points(config, seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
    times = torch.linspace(0.0, 1.0, 41)
    with torch.no_grad():
        paths = fitted.flow.cpu().ode.solve(x[order], times, rtol=1e-5, atol=1e-5).ys
    return paths, labels[order] > 0


def _plane_flow(axes: Axes, config: Config, fitted: Fitted, seed: int) -> None:
    paths, ball = _paths(config, fitted, seed, 180)
    for chosen, color in ((~ball, SHELL), (ball, BALL)):
        some = paths[:, chosen]
        axes.plot(*some.permute(2, 0, 1), color=color, linewidth=0.5, alpha=0.45)
        axes.plot(*some[0].T, ".", color="#999999", markersize=2.0)
        axes.plot(*some[-1].T, ".", color=color, markersize=4.5)
    _frame(axes, "NODE: the plane flows", paths)


def _space_flow(axes: Any, config: Config, fitted: Fitted, seed: int) -> None:
    paths, ball = _paths(config, fitted, seed, 180)
    for chosen, color in ((~ball, SHELL), (ball, BALL)):
        some = paths[:, chosen]
        for i in range(some.shape[1]):
            axes.plot(*some[:, i].T, color=color, linewidth=0.5, alpha=0.45)
        axes.plot(*some[0].T, ".", color="#999999", markersize=2.0)
        axes.plot(*some[-1].T, ".", color=color, markersize=4.5)
    axes.set_title("ANODE: one dimension more", fontsize=11)
    axes.set_xlabel("$h_1$", labelpad=-8)
    axes.set_ylabel("$h_2$", labelpad=-8)
    axes.set_zlabel("a", labelpad=-8)
    axes.tick_params(labelbottom=False, labelleft=False, labelright=False)
    axes.view_init(elev=14, azim=-62)


def _decisions(axes: Axes, config: Config, fitted: Fitted, seed: int) -> None:
    line = torch.linspace(-REACH, REACH, 181)
    plane = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    with torch.no_grad():
        reading = fitted.flow.cpu()(plane)[:, 0].reshape(len(line), len(line)).numpy()
    colors = LinearSegmentedColormap.from_list("shell to ball", [SHELL, "#ffffff", BALL])
    span = (-REACH, REACH, -REACH, REACH)
    axes.imshow(reading.clip(-1, 1), origin="lower", extent=span, cmap=colors, vmin=-1.6, vmax=1.6)
    axes.contour(line.numpy(), line.numpy(), reading, levels=[0.0], colors="#222222", linewidths=1.2)
    x, labels = study.points(config, seed, without=study.WEDGE)
    for chosen, color in ((labels < 0, SHELL), (labels > 0, BALL)):
        axes.plot(*x[chosen].T, ".", color=color, markersize=2.2, alpha=0.8)
    first, last = (float(torch.rad2deg(torch.tensor(angle))) for angle in study.WEDGE)
    axes.add_patch(Wedge((0, 0), 1.6, first, last, fill=False, linestyle="--", linewidth=1.4, edgecolor="#222222"))
    name = "ANODE" if fitted.flow.ode.augment else "NODE"
    axes.set_title(f"{name}: {fitted.measured['wedge_accuracy']:.1%} right in the wedge", fontsize=11)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[])


def _evaluations(axes: Axes, fits: dict[str, Fitted]) -> None:
    for name, label, style in (("node", "NODE", "-"), ("anode", "ANODE, p = 1", "--")):
        fitted = fits[name]
        color = PALETTE[3] if name == "node" else PALETTE[2]
        axes.plot(fitted.epochs, fitted.evaluations, style, color=color, linewidth=2.0, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("evaluations a point")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def _frame(axes: Axes, title: str, paths: torch.Tensor) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("$h_1$")
    axes.set_ylabel("$h_2$")
    axes.spines[["top", "right"]].set_visible(False)
