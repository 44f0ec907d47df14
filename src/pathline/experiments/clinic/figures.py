"""The figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

from pathline.data import Series
from pathline.experiments.clinic.models import NAMES, Course
from pathline.experiments.clinic.results import LEADS, Results
from pathline.experiments.clinic.visits import Parts
from pathline.plotting import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pathline.experiments.clinic.config import Config

COLOURS = {"last": "0.6", "mixed": PALETTE[4], "gru": PALETTE[2], "held": PALETTE[3], "ode": PALETTE[0]}
PATIENTS = (
    "Above, bilirubin of four patients of the test part: dots are visits, and each line is what the ODE-RNN says after "
    "one of them of the time that follows, darker for later visits. Below, the risk of death or transplantation within "
    "two years after each visit; a cross marks the event, an open circle the end of observation."
)
LEAD = (
    "Mean square error, in units of the variance, against the time between what is known and what is forecast, for "
    "patients that the models have not seen."
)


def lead(results: Results) -> Figure:
    """Errors by lead time."""
    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.subplots()
    places = range(len(LEADS) - 1)
    for name, label in NAMES.items():
        axes.plot(places, results.by_lead(name), "o-", color=COLOURS[name], label=label, markersize=4)
    axes.set_xticks(places, [f"{a:g} to {b:g}" for a, b in zip(LEADS[:-1], LEADS[1:], strict=True)])
    axes.tick_params(labelsize=8)
    axes.set_xlabel("years ahead")
    axes.set_ylabel("mean square error")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def patients(parts: Parts, model: Course, config: Config) -> Figure:
    """Four patients with long records, two of whom fell ill."""
    series = parts.test
    chosen = series[_chosen(series)]
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    top, bottom = figure.subplots(2, 4, sharex="col", sharey="row", height_ratios=(2, 1), squeeze=False)
    with torch.no_grad():
        for column in range(len(chosen)):
            _course(top[column], chosen[column], model)
            _risk(bottom[column], chosen[column], model)
    top[0].set_ylabel("bilirubin, mg/dl")
    bottom[0].set_ylabel(f"risk, {config.horizon:g} years")
    figure.supxlabel("years since enrolment", fontsize=9)
    return figure


def _chosen(series: Series) -> torch.Tensor:
    """The two longest records that end well and the two longest that end with an event."""
    assert series.labels is not None
    event = series.labels[:, 1] > 0
    order = series.lengths.argsort(descending=True, stable=True)
    return torch.cat([order[event[order]][:2], order[~event[order]][:2]])


def _course(axes: Axes, patient: Series, model: Course) -> None:
    scaling = patient.scaling
    assert scaling is not None
    channel = patient.channels.index("bili")
    end = float(patient.times[-1])
    visits = len(patient.times)
    for row in range(0, visits - 1, max(1, visits // 5)):
        t = torch.linspace(float(patient.times[row]), end, 60, dtype=torch.float64, device=patient.device)
        y = scaling.undo(_ahead(patient, row, t, model))[:, channel].exp()
        axes.plot(t.cpu(), y.cpu(), color=PALETTE[0], alpha=0.25 + 0.65 * row / visits, linewidth=1.2)
    values = patient.unscale(patient.values)[:, channel].exp()
    axes.plot(patient.times.cpu(), values.cpu(), "o", color="black", markersize=3.5)
    axes.set_yscale("log")
    axes.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)


def _ahead(patient: Series, row: int, t: torch.Tensor, model: Course) -> torch.Tensor:
    """Forecasts ``(len(t), channels)`` from the first ``row + 1`` visits."""
    known = patient.first(row + 1)
    state = model.recurrent(known).at(t)[:, 0]
    return known.carried_forward().values[-1].nan_to_num(0.0) + model.readout(state)


def _risk(axes: Axes, patient: Series, model: Course) -> None:
    assert patient.labels is not None
    risk = model.risk(model.recurrent(patient).after)[:, 0].sigmoid()
    end, how = patient.labels[0].tolist()
    axes.step(patient.times.cpu(), risk.cpu(), where="post", color=PALETTE[1])
    axes.plot([end], [1.0], "x" if how else "o", color="black", markersize=6, fillstyle="none", clip_on=False)
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
