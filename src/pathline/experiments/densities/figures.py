"""The figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from pathline.data import Target
from pathline.experiments.densities.measures import exact
from pathline.experiments.densities.models import NAMES
from pathline.plotting import PALETTE, density_map, flow_of_lattice
from pathline.plotting.density import on_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pathline.experiments.densities.models import Fit

DENSITIES = (
    "The target and what the models learned, as log-densities from dark to bright over eight nats (above), and samples "
    "of each (below)."
)
FLOWS = (
    "A square lattice of points of the base on its way to the data, shaded by the density that the flow makes of it at "
    "that time. Lines never cross, whatever is torn apart."
)
RACE = (
    "Nats above the entropy of the target, which no model can beat, against seconds of training. Both axes are "
    "logarithmic; a point is measured on 500 samples, while training."
)

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)


def densities(fits: Mapping[str, Fit], samples: Mapping[str, torch.Tensor], target: Target, side: int) -> Figure:
    """Log-densities above, samples below; the target in the first column."""
    columns = 1 + len(fits)
    figure = Figure(figsize=(2.1 * columns, 4.5), layout="constrained")
    top, bottom = figure.subplots(2, columns, squeeze=False)
    density_map(target.log_prob, top[0], xlim=target.limits, points=side)
    _dots(bottom[0], samples["target"], target)
    top[0].set_title("target", fontsize=9)
    for axes, below, (name, fit) in zip(top[1:], bottom[1:], fits.items(), strict=True):
        density_map(_log_density(fit, target, side), axes, xlim=target.limits, vmin=_top(target) - 8, vmax=_top(target))
        _dots(below, samples[name], target)
        axes.set_title(NAMES[name].replace(", ", ",\n"), fontsize=9)
    for axes in (*top, *bottom):
        _bare(axes)
    return figure


def _log_density(fit: Fit, target: Target, side: int) -> torch.Tensor:
    model = exact(fit.model, 1e-4).float()
    return on_grid(model().log_prob, target.limits, target.limits, side)


def _top(target: Target) -> float:
    return float(on_grid(target.log_prob, target.limits, target.limits, 100).max())


def _dots(axes: Axes, points: torch.Tensor, target: Target) -> None:
    axes.plot(*points.T.cpu(), ".", color=PALETTE[0], markersize=3, markeredgewidth=0, alpha=0.6)
    axes.set_xlim(*target.limits)
    axes.set_ylim(*target.limits)
    axes.set_aspect("equal")


def flows(fits: Mapping[str, Fit], target: Target, points: int) -> Figure:
    """The lattice at five times, a row a model."""
    figure = Figure(figsize=(2.1 * len(TIMES), 2.25 * len(fits)), layout="constrained")
    rows = figure.subplots(len(fits), len(TIMES), squeeze=False)
    for row, (name, fit) in zip(rows, fits.items(), strict=True):
        for axes, t in zip(row, TIMES, strict=True):
            axes.set_facecolor("black")
            flow_of_lattice(fit.model, axes, t=t, limits=(-3.0, 3.0), lines=25, points=points)
            axes.set_xlim(*target.limits)
            axes.set_ylim(*target.limits)
            _bare(axes)
        row[0].set_ylabel(NAMES[name].replace(", ", ",\n"), fontsize=9)
    for axes, t in zip(rows[0], TIMES, strict=True):
        axes.set_title(f"t = {t:g}", fontsize=9)
    return figure


def race(fits: Sequence[Fit], target: Target) -> Figure:
    """Nats above the entropy, against seconds."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes: Any = figure.subplots()
    for i, fit in enumerate(fits):
        seconds, values = zip(*fit.curve, strict=True)
        excess = [max(value - target.entropy, 1e-4) for value in values]
        style = "-" if fit.evaluations[0] or "matching" in fit.name else "--"
        axes.plot(seconds, excess, style, color=PALETTE[i], linewidth=1.8, marker=".", label=NAMES[fit.name])
    single = target.gaussian_cross_entropy - target.entropy
    axes.axhline(single, color="#888888", linewidth=1, linestyle=":", label="one Gaussian")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("nats above the entropy")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
