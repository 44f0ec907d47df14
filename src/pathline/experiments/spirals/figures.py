"""The two figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

from pathline.plotting import PALETTE

if TYPE_CHECKING:
    from torch import Tensor

    from pathline.experiments.spirals import Task
    from pathline.experiments.spirals.waves import Waves
    from pathline.models import Latent

SPIRALS = (
    "Test spirals at the fewest observations: what was seen (dots), the truth (grey), the latent ODE within the window "
    "and after it, with twenty draws, and the recurrent network, which feeds on its own forecasts."
)
RATES = "Rates of events on test series: the events (ticks), the true rate, and what the latent ODE infers from them."
INK, GREY = "#222222", "#9A9A9A"


def spirals(task: Task, model: Latent, predicted: tuple[Tensor, ...], shown: int = 6) -> Figure:
    """Spirals in the plane, half of them clockwise."""
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    panels = figure.subplots(2, 3).flat
    n, window = task.clean.shape[1], task.window
    chosen = torch.linspace(0, n - 1, min(shown, n)).long()
    with torch.no_grad():
        draws = model.predict(task.observed[chosen], task.times, samples=20).samples.cpu() * task.unit
    for k, (panel, i) in enumerate(zip(panels, chosen.tolist(), strict=False)):
        clean, ode, rnn = (task.unit * x[:, i].cpu() for x in (task.clean, *predicted[:2]))
        for path in draws[:, :, k]:
            panel.plot(*path.T, color=PALETTE[0], linewidth=0.6, alpha=0.25)
        panel.plot(*clean.T, color=GREY, linewidth=4.0, alpha=0.55, label="truth", solid_capstyle="round")
        panel.plot(*ode[:window].T, color=PALETTE[0], linewidth=1.8, label="latent ODE, window")
        panel.plot(
            *ode[window:].T, color=PALETTE[0], linewidth=1.8, linestyle=(0, (2, 1)), label="latent ODE, forecast"
        )
        panel.plot(*rnn[window:].T, color=PALETTE[1], linewidth=1.6, linestyle="-.", label="RNN with gaps, forecast")
        panel.plot(*(task.unit * task.observed[i].values.cpu()).T, "o", color=INK, markersize=3, label="observations")
        panel.set_aspect("equal", adjustable="datalim")
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    return figure


def rates(waves: Waves, shown: int = 4) -> Figure:
    """True and inferred rates over time."""
    n = min(shown, len(waves.data.events))
    figure = Figure(figsize=(7.6, 1.5 * n + 0.8), layout="constrained")
    panels = figure.subplots(n, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for i, panel in enumerate(panels):
        events = waves.data.events[i].times
        panel.plot(waves.times, waves.true[:, i], color=GREY, linewidth=4.0, alpha=0.55, label="true rate")
        panel.plot(waves.times, waves.found[:, i], color=PALETTE[0], linewidth=1.8, label="latent ODE")
        panel.plot(events, torch.full_like(events, -0.8), "|", color=INK, markersize=7, label="events")
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("time")
    figure.supylabel("events in a unit of time", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure
