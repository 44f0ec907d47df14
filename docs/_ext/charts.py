"""Figures made from the committed results when a page is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pathline.plotting.style import PALETTE

RESULTS = Path(__file__).parents[1] / "results"
PEERS = {"scipy RK23": "#888888", "scipy RK45": "#555555", "scipy DOP853": "#000000"}
MARKS = "osD^v<>PX*hpd8"


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))["rows"]


def work_precision(methods: list[str]) -> Figure:
    """Error against evaluations on the four sets of problems, some methods in colour, scipy's in grey."""
    rows = [row for row in load("work_precision.json") if row["method"] in (*methods, *PEERS)]
    figure, panels = plt.subplots(2, 2, figsize=(9.0, 7.2), layout="constrained")
    for axes, problem in zip(panels.flat, dict.fromkeys(row["problem"] for row in rows), strict=True):
        for method in (*PEERS, *methods):
            curve(axes, method, [r for r in rows if (r["problem"], r["method"]) == (problem, method)], methods)
        together = problem == "Enright-Pryce"
        axes.set(xscale="log", yscale="log", title=f"{problem} (25 problems)" if together else problem)
        axes.set_xlabel("evaluations of all problems together" if together else "evaluations")
        axes.set_ylabel("median error" if together else "error at the end")
        axes.grid(alpha=0.3)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def curve(axes: Axes, method: str, rows: list[dict[str, Any]], methods: list[str]) -> None:
    points = sorted((row["evaluations"], row["error"]) for row in rows if 1e-15 < row["error"] < 10.0)
    style: dict[str, Any] = {"color": PEERS.get(method), "linestyle": "--", "linewidth": 1.0}
    if method in methods:
        i = methods.index(method)
        style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKS[i], "markersize": 4}
    axes.plot(*zip(*points, strict=True) if points else ((), ()), label=method, **style)


def stiff(methods: list[str]) -> Figure:
    """Error against evaluations at both tolerances, a panel for each problem; scipy's Radau and BDF in grey."""
    rows = load("stiff.json")
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    figure, panels = plt.subplots(2, 4, figsize=(11.0, 6.0), layout="constrained")
    for axes, problem in zip(panels.flat, problems, strict=False):
        mine = [row for row in rows if row["problem"] == problem and row["status"] == "success"]
        for peer, grey in (("scipy Radau", "#000000"), ("scipy BDF", "#888888")):
            points = {(r["theirs"]["evaluations"], r["theirs"]["error"] * r["rtol"]) for r in mine if r["peer"] == peer}
            axes.plot(*zip(*sorted(points), strict=True), color=grey, linestyle="--", marker="x", label=peer)
        for i, method in enumerate(methods):
            points = {(r["ours"]["evaluations"], r["ours"]["error"] * r["rtol"]) for r in mine if r["method"] == method}
            style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKS[i], "markersize": 4}
            axes.plot(*zip(*sorted(points), strict=True) if points else ((), ()), label=method, **style)
        axes.set(xscale="log", yscale="log", title=problem, xlabel="evaluations", ylabel="error")
        axes.grid(alpha=0.3)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    panels.flat[-1].axis("off")
    panels.flat[-1].legend(handles, labels, loc="center", frameon=False)
    return figure


# --- speed --------------------------------------------------------------------------------------------------------

#: How each contender of the benchmarks is drawn: ours in colour, compiled with filled marks, its peers in grey.
SPEED: dict[str, dict[str, Any]] = {
    "pathline": {"color": PALETTE[0], "marker": "o", "markerfacecolor": "white"},
    "pathline compiled": {"color": PALETTE[0], "marker": "o"},
    "pathline per-sample": {"color": PALETTE[1], "marker": "s", "markerfacecolor": "white"},
    "pathline compiled per-sample": {"color": PALETTE[1], "marker": "s"},
    "torchdiffeq": {"color": "#555555", "linestyle": "--", "marker": "x"},
    "torchode": {"color": "#888888", "linestyle": ":", "marker": "^"},
    "diffrax": {"color": "#000000", "linestyle": "-.", "marker": "+"},
    "diffrax vmapped": {"color": "#000000", "linestyle": ":", "marker": "v"},
}


def points(section: str) -> list[dict[str, Any]]:
    """What the contenders of one section of the benchmarks took; those that could not run are left out."""
    path = RESULTS / "benchmarks.json"
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"] if path.exists() else {}
    return [point for point in sections.get(section, {}).get("points", []) if point["ms"] is not None]


def speed_style(who: str) -> dict[str, Any]:
    """That of the longest name that begins alike."""
    names = [name for name in SPEED if who.startswith(name)]
    found = SPEED[max(names, key=len)] if names else {"color": "#bbbbbb"}
    if "per-sample" in who:
        found = SPEED["pathline compiled per-sample" if "compiled" in who else "pathline per-sample"]
    return {"markersize": 4, **found}


def unrecorded() -> Figure:
    """A line in place of a chart."""
    figure = plt.figure(figsize=(5.0, 0.5))
    figure.add_axes((0.0, 0.0, 1.0, 1.0)).set_axis_off()  # a page shows no figure that has no axes
    figure.text(0.0, 0.4, "No run is on record yet.")
    return figure


def training_times(tasks: list[str]) -> Figure:
    """What a training step took by each contender, a panel for each task."""
    found = [point for point in points("training") if point["task"] in tasks]
    if not found:
        return unrecorded()
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(3.0 * len(tasks) + 2.0, 4.6), layout="constrained", sharey=True
    )
    panels = panels if len(tasks) > 1 else [panels]
    names = list(dict.fromkeys(point["who"] for point in found))[::-1]
    for axes, task in zip(panels, tasks, strict=True):
        for point in (point for point in found if point["task"] == task):
            place = names.index(point["who"])
            color = speed_style(point["who"])["color"]
            axes.barh(place, point["ms"], color=color, alpha=1.0 if "compiled" in point["who"] else 0.55)
            axes.text(point["ms"], place, f" {point['ms']:.3g}", va="center", fontsize=8)
        axes.set(xscale="log", title=task, xlabel="ms")
        axes.margins(x=0.25)
        axes.set_yticks(range(len(names)), names)
        axes.grid(alpha=0.3, axis="x")
    return figure


def ensembles() -> Figure:
    """The time of one solve against the number of oscillators, with outputs and without."""
    found = [point for point in points("ensembles") if point["task"].startswith("mu=2,")]
    if not found:
        return unrecorded()
    figure, panels = plt.subplots(1, 2, figsize=(9.0, 4.4), layout="constrained", sharey=True)
    for axes, end in zip(panels, ("200 outputs", "no outputs"), strict=True):
        mine = [point for point in found if point["task"].endswith(end)]
        for who in dict.fromkeys(point["who"] for point in mine):
            curve = sorted((_batch(point["task"]), point["ms"]) for point in mine if point["who"] == who)
            axes.plot(*zip(*curve, strict=True), label=who, **speed_style(who))
        axes.set(xscale="log", yscale="log", title=end, xlabel="oscillators", ylabel="ms")
        axes.grid(alpha=0.3)
    return _with_legend(figure, panels[0])


def _batch(task: str) -> int:
    return int(task.split("batch ")[1].split(",")[0])


def speed_precision(method: str) -> Figure:
    """The error at the end against the time and against the evaluations, by one method of every library."""
    found = [point for point in points("lotka_volterra") if point["who"].endswith(f" {method}")]
    if not found:
        return unrecorded()
    figure, panels = plt.subplots(1, 2, figsize=(9.0, 4.4), layout="constrained", sharey=True)
    for who in dict.fromkeys(point["who"] for point in found):
        mine = [point for point in found if point["who"] == who]
        for axes, label in zip(panels, ("ms", "evaluations"), strict=True):
            cost = [point["ms"] if label == "ms" else point["notes"]["evaluations"] for point in mine]
            axes.plot(cost, [point["notes"]["error"] for point in mine], label=who, **speed_style(who))
            axes.set(xscale="log", yscale="log", xlabel=label, ylabel="error at the end")
            axes.grid(alpha=0.3)
    return _with_legend(figure, panels[0])


def growth() -> Figure:
    """The time of a training step as one of its sizes grows."""
    found = points("growth")
    if not found:
        return unrecorded()
    figure, panels = plt.subplots(1, 4, figsize=(11.0, 3.4), layout="constrained", sharey=True)
    for axes, axis in zip(panels, dict.fromkeys(point["notes"]["axis"] for point in found), strict=True):
        mine = [point for point in found if point["notes"]["axis"] == axis]
        for who in dict.fromkeys(point["who"] for point in mine):
            curve = sorted((point["notes"]["value"], point["ms"]) for point in mine if point["who"] == who)
            axes.plot(*zip(*curve, strict=True), label=who, **speed_style(who))
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="ms" if axis == "dim" else "")
        axes.grid(alpha=0.3)
    return _with_legend(figure, panels[0])


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure
