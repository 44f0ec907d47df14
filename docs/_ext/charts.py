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
