"""The figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from pathline.experiments.vowels.models import NAMES
from pathline.plotting import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pathline.data import Series
    from pathline.models import Classifier

SPEAKERS = (
    "Left: accuracy on the test utterances by the part of the frames that was dropped, in training and test; bars are "
    "standard errors over the repeats. Right: one utterance as it is heard. Above the frames that were kept, two of "
    "twelve coefficients; below the probability of the speaker who it is: the GRU waits for a frame, the ODE-RNN moves "
    "on between them."
)
STYLES: dict[str, dict[str, Any]] = {
    "gru": {"color": "#8A8A8A", "marker": "s", "linestyle": ":"},
    "gru_dt": {"color": PALETTE[1], "marker": "D", "linestyle": "--"},
    "gru_d": {"color": PALETTE[2], "marker": "^", "linestyle": "-."},
    "ode_rnn": {"color": PALETTE[0], "marker": "o", "linestyle": "-"},
}
INK = "#222222"


def speakers(by_rate: dict[float, dict[str, Any]], models: dict[str, Classifier], test: Series, unit: float) -> Figure:
    """Accuracy by rate, and one utterance as it is heard."""
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    left, right = list(figure.subfigures(1, 2, width_ratios=[1.0, 1.15]))  # pyright: ignore[reportArgumentType]
    _rates(left.subplots(), by_rate)
    above, below = right.subplots(2, 1, sharex=True, height_ratios=[1.0, 1.3])
    number = _shown(models, test)
    _frames(above, test, number, unit)
    _heard(below, models, test, number, unit)
    return figure


def _rates(axes: Axes, by_rate: dict[float, dict[str, Any]]) -> None:
    for k, (name, label) in enumerate(NAMES.items()):
        rows = [found[name] for found in by_rate.values()]
        where = [100 * rate + 0.7 * (k - 1.5) for rate in by_rate]
        errors = [row.error for row in rows]
        axes.errorbar(where, [row.accuracy for row in rows], errors, label=label, markersize=5, **STYLES[name])
    axes.set_xlabel("frames dropped, %")
    axes.set_ylabel("accuracy, %")
    axes.set_xticks([100 * rate for rate in by_rate])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")


def _shown(models: dict[str, Classifier], test: Series) -> int:
    """Among those whom both name rightly in the end, the utterance of which the ODE-RNN is unsure longest."""
    assert test.labels is not None
    with torch.no_grad():
        right = torch.stack([models[name].predict(test).argmax(-1) == test.labels for name in ("gru_dt", "ode_rnn")])
        model = models["ode_rnn"]
        seen = model.readout(model.encoder(test).after).softmax(-1)
        sure = seen.gather(1, test.labels[test.rows, None]).squeeze(1)
        doubt = torch.zeros(len(test), device=sure.device).index_add(0, test.rows, 1 - sure)
    return int(torch.where(right.all(0), doubt, -1.0).argmax())


def _frames(axes: Axes, test: Series, number: int, unit: float) -> None:
    one = test[number : number + 1]
    for channel, color in ((0, INK), (1, "#9A9A9A")):
        axes.plot((one.times / unit).cpu(), one.values[:, channel].cpu(), "o", color=color, markersize=4)
    axes.set_ylabel("coefficients")
    axes.spines[["top", "right"]].set_visible(False)


def _heard(axes: Axes, models: dict[str, Classifier], test: Series, number: int, unit: float) -> None:
    one = test[number : number + 1]
    assert one.labels is not None
    t = torch.linspace(float(one.times[0]), float(one.times[-1]), 400, dtype=torch.float64, device=one.device)
    for name in ("gru_dt", "ode_rnn"):
        with torch.no_grad():
            states = models[name].encoder(one).at(t)
            speaker = models[name].readout(states).softmax(-1)[:, 0, int(one.labels[0])]
        style = {key: value for key, value in STYLES[name].items() if key != "marker"}
        axes.plot((t / unit).cpu(), speaker.cpu(), label=NAMES[name], **style)
    for time in (one.times / unit).tolist():
        axes.axvline(time, color="#DDDDDD", linewidth=0.8, zorder=0)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("probability")
    axes.set_xlabel("frame")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
