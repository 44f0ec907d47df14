"""The figures: what the models make of single series, and their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

from pathline.data import Series, sine_wave
from pathline.experiments.irregular.models import LABELS
from pathline.experiments.irregular.tasks import SPAN, predicted
from pathline.plotting import PALETTE, forecast, observations

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

    from pathline.models import Latent

FANS = (
    "Extrapolation: filled points are shown, hollow ones are asked for. Median of 200 draws, with bands that contain "
    "50 % and 90 % of them; dashed is the wave without noise. The latent ODE answers at any time, the RNN-VAE at those "
    "it was trained on."
)
STEPS = "One step ahead: what two models expect at each moment, from the filled points before it. Each point is a jump."
ERRORS = "Mean square error on the test series by the share of points that is shown."

INK = "#222222"
STYLES = {
    "rnn_dt": {"color": PALETTE[4], "linestyle": ":", "marker": "s"},
    "gru_d": {"color": PALETTE[3], "linestyle": "-.", "marker": "v"},
    "ode_rnn": {"color": PALETTE[2], "linestyle": "-", "marker": "^"},
    "rnn_vae": {"color": PALETTE[1], "linestyle": "--", "marker": "D"},
    "latent_ode": {"color": PALETTE[0], "linestyle": "-", "marker": "o"},
}


def fans(models: Mapping[str, Latent], series: Series, shown: Series, numbers: Sequence[int] = (0, 1, 2)) -> Figure:
    """A row a model, a column a series; the RNN-VAE, which depends on them, at the times of training."""
    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    grid = figure.subplots(len(models), len(numbers), sharex=True, sharey=True, squeeze=False)
    fine = torch.linspace(0.0, SPAN, 401, dtype=torch.float64, device=series.device)
    for panels, (name, model) in zip(grid, models.items(), strict=True):
        t = series[0].times if name == "rnn_vae" else fine
        with torch.no_grad():
            prediction = model.predict(shown, t, samples=200)
        for panel, number in zip(panels, numbers, strict=True):
            wave = sine_wave(_labels(series)[number : number + 1], fine)[0, :, 0]
            forecast(
                shown, prediction, t, panel, truth=(fine, wave), later=series.after(SPAN / 2), since=SPAN / 2,
                number=number, color=STYLES[name]["color"],
            )  # fmt: skip
            _plain(panel)
        panels[0].set_ylabel(LABELS[name])
    for panel in grid[:-1].flat:
        panel.set_xlabel("")
    grid[0, 0].set_ylim(-0.6, 2.6)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def steps(models: Mapping[str, nn.Module], series: Series, shown: Series, number: int = 0) -> Figure:
    """One series, and what each model expects of it from moment to moment."""
    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    axes = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    t = torch.linspace(0.0, SPAN, 1001, dtype=torch.float64, device=series.device)
    wave = sine_wave(_labels(series)[number : number + 1], t)[0, :, 0]
    for panel, (name, model) in zip(axes, models.items(), strict=True):
        expected = predicted(model, shown[number : number + 1], t)[:, 0, 0]
        panel.plot(t.cpu(), wave.cpu(), "--", color=INK, linewidth=1.0)
        panel.plot(t.cpu(), expected.cpu(), color=STYLES[name]["color"], linewidth=1.4)
        observations(shown, panel, number=number)
        panel.set_title(LABELS[name], fontsize=10)
        _plain(panel)
    return figure


def errors(found: Mapping[tuple[str, str, float], float], fractions: Sequence[float]) -> Figure:
    """A panel a task, a line a model."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    for panel, task in zip(figure.subplots(1, 2, sharey=True), ("interpolation", "extrapolation"), strict=True):
        for name, label in LABELS.items():
            values = [found[name, task, fraction] for fraction in fractions]
            panel.plot([100 * f for f in fractions], values, label=label, linewidth=1.6, markersize=5, **STYLES[name])
        panel.set_title(task, fontsize=10)
        panel.set_xlabel("points shown, %")
        panel.set_yscale("log")
        _plain(panel)
    figure.axes[0].set_ylabel("mean square error")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def _labels(series: Series) -> torch.Tensor:
    assert series.labels is not None
    return series.labels


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
