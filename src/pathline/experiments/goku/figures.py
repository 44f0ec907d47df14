"""The figure: films as they are and as they are continued, lengths, and errors frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from pathline.plotting import PALETTE

if TYPE_CHECKING:
    from pathline.data import PendulumFilms
    from pathline.experiments.goku.config import Config
    from pathline.experiments.goku.measures import Seen

OVERVIEW = (
    "Top: a film that no model was trained on (the one whose frames to come have GOKU's median error), and what three "
    "models make of it from the frames left of the line. An LSTM says each frame from those before, and so nothing of "
    "the first. Bottom: lengths as they are and as they are inferred, a dot a film; mean square error of a pixel over "
    "all films, frame by frame."
)

SHOWN = {"goku": "GOKU", "latent_ode": "latent ODE", "lstm": "LSTM"}
COLORS = dict(zip((*SHOWN, "wrong", "kl_one"), PALETTE, strict=False))
COLUMNS = 14


def overview(config: Config, seen: dict[str, Seen], films: PendulumFilms) -> Figure:
    """Frames, lengths and errors."""
    figure = Figure(figsize=(11.0, 7.0), layout="constrained")
    top, bottom = figure.add_gridspec(2, 1, height_ratios=(1.05, 1.0))
    _frames(figure.add_subplot(top), config, seen, films)
    below = bottom.subgridspec(1, 2, width_ratios=(1.0, 1.6))
    _lengths(figure.add_subplot(below[0]), seen, films)
    _errors(figure.add_subplot(below[1]), config, seen)
    return figure


def _frames(axes: Any, config: Config, seen: dict[str, Seen], films: PendulumFilms) -> None:
    """A model a row; the film is a typical one: its extrapolation error is the median."""
    each = (seen["goku"].frames - films.frames)[:, config.window :].square().mean((1, 2, 3))
    film = int(each.argsort()[len(each) // 2])
    chosen = torch.linspace(0, config.frames - 1, min(COLUMNS, config.frames)).round().long()
    rows = {"true": films.frames, **{label: seen[name].frames for name, label in SHOWN.items()}}
    strips = torch.stack([frames[film, chosen].nan_to_num(0.5) for frames in rows.values()])
    # a grey line between frames
    tiled = F.pad(strips, (1, 1, 1, 1), value=0.5).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    side = config.pixels + 2
    axes.imshow(tiled.numpy(), cmap="gray", vmin=0.0, vmax=1.0)
    middles = side * torch.arange(len(chosen)) + side / 2 - 0.5
    axes.set_xticks(middles.tolist(), [f"{t:.1f} s" for t in films.times[chosen].tolist()], fontsize=8)
    axes.set_yticks((side * torch.arange(len(rows)) + side / 2 - 0.5).tolist(), list(rows))
    axes.tick_params(length=0)
    seen_columns = int((chosen < config.window).sum())
    _divide(axes, side * seen_columns - 0.5)


def _lengths(axes: Any, seen: dict[str, Seen], films: PendulumFilms) -> None:
    for name, label in (("wrong", "cube in place of sine"), ("kl_one", "divergence at weight 1"), ("goku", "GOKU")):
        if name in seen:
            inferred: Any = seen[name].lengths
            axes.scatter(
                films.lengths.numpy(), inferred.numpy(), s=12, color=COLORS[name], label=label, alpha=0.8, lw=0
            )
    ends = [float(films.lengths.min()), float(films.lengths.max())]
    axes.plot(ends, ends, color="0.3", lw=1.0, label="inferred = true")
    axes.set(yscale="log", xlabel="true length (m)", ylabel="inferred length (m)")
    axes.set_ylim(top=3 * axes.get_ylim()[1])  # room for the legend
    ticks = [tick for tick in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if axes.get_ylim()[0] < tick < axes.get_ylim()[1]]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_yticks([], minor=True)
    axes.legend(frameon=False, fontsize=8)


def _errors(axes: Any, config: Config, seen: dict[str, Seen]) -> None:
    labels = {**SHOWN, "wrong": "cube in place of sine", "kl_one": "divergence at weight 1"}
    seconds = config.interval * torch.arange(config.frames)
    for name, found in seen.items():
        axes.plot(seconds.numpy(), found.errors.numpy(), color=COLORS[name], label=labels[name])
    _divide(axes, config.interval * (config.window - 0.5))
    axes.set(yscale="log", xlabel="seconds", ylabel="mean square error of a pixel")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 2.5)  # room for the legend
    axes.legend(frameon=False, fontsize=8)


def _divide(axes: Any, place: float) -> None:
    """A line between the frames that were seen and those that were not."""
    axes.axvline(place, color="0.1", lw=1.5, ls="--")
    for word, side, gap in (("frames seen", "right", -6), ("frames to come", "left", 6)):
        above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 9}
        axes.annotate(word, (place, 1.0), xytext=(gap, 4), ha=side, va="bottom", **above)
