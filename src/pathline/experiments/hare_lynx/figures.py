"""The two figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

from pathline.plotting import PALETTE, phase_portrait

if TYPE_CHECKING:
    from torch import Tensor

    from pathline.experiments.hare_lynx.series import Series
    from pathline.train.trajectory import TrajectoryLoss

SERIES = "Pelts a year: data, the three models fitted to the years on white, and their forecast of the shaded ones."
PHASE = "The neural ODE in the plane of the two populations: its vector field, its path, and the data."

LABELS = {"lotka_volterra": "Lotka-Volterra", "hybrid": "hybrid", "neural_ode": "neural ODE"}
STYLES = {
    "lotka_volterra": {"color": PALETTE[0], "linestyle": "-"},
    "hybrid": {"color": PALETTE[2], "linestyle": "-."},
    "neural_ode": {"color": PALETTE[1], "linestyle": "--"},
}
INK = "#222222"


def series(series: Series, fits: dict[str, TrajectoryLoss]) -> Figure:
    """Both species over the years, the forecast shaded."""
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    years, t = _fine(series)
    border = float(series.years[series.known - 1]) + 0.5
    for i, (panel, name) in enumerate(zip(axes, ("hare", "lynx"), strict=True)):
        panel.axvspan(border, float(series.years[-1]) + 0.5, color="#E8E8E8", zorder=0)
        for model, fit in fits.items():
            with torch.no_grad():
                pelts = series.to_pelts(fit.predict(t))
            panel.plot(years, pelts[:, i].cpu(), label=LABELS[model], linewidth=1.8, **STYLES[model])
        panel.plot(
            series.years.cpu(), series.pelts[:, i].cpu(), "o", color=INK, markersize=4.5, label="pelts", zorder=5
        )
        panel.set_ylabel(f"{name} (thousand pelts)")
        panel.set_ylim(0, None)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].text(border + 0.15, 0.97, "forecast", transform=axes[0].get_xaxis_transform(), va="top", color="#444444")
    axes[0].set_xlim(float(series.years[0]) - 0.5, float(series.years[-1]) + 0.5)
    axes[1].set_xlabel("year")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def phase(series: Series, fit: TrajectoryLoss) -> Figure:
    """The field of the network, drawn in populations, and the data in it."""
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = figure.subplots()

    def rate(t: Tensor, pelts: Tensor) -> Tensor:
        here = pelts.to(series.mean)
        z = (here.log() - series.mean) / series.scale
        return (fit.model.field(t.to(here), z) * series.scale * here).to(pelts)

    years, t = _fine(series)
    with torch.no_grad():
        path = series.to_pelts(fit.predict(t)).cpu()
    top = 1.08 * torch.maximum(series.pelts.max(0).values.cpu(), path.max(0).values)
    phase_portrait(rate, axes, xlim=(1.0, float(top[0])), ylim=(1.0, float(top[1])))
    border = int((years <= float(series.years[series.known - 1])).sum())
    axes.plot(*path[:border].T, color=PALETTE[1], linewidth=2, label="neural ODE, fitted")
    axes.plot(*path[border - 1 :].T, color=PALETTE[1], linewidth=2, linestyle=":", label="neural ODE, forecast")
    known = series.known
    axes.plot(*series.pelts[:known].cpu().T, "o", color=INK, markersize=5, label="pelts to the last training year")
    axes.plot(*series.pelts[known:].cpu().T, "o", color=INK, markersize=5, markerfacecolor="white", label="later pelts")
    axes.set_xlabel("hare (thousand pelts)")
    axes.set_ylabel("lynx (thousand pelts)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _fine(series: Series) -> tuple[Tensor, Tensor]:
    """Years and times on a grid that shows the curves between the years."""
    years = torch.linspace(float(series.years[0]), float(series.years[-1]), 401)
    return years, (years - years[0]).to(series.t)
