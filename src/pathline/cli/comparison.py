"""Several runs side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from pathline.cli.results import shown
from pathline.experiments.reproducing import spread
from pathline.train.folders import read_json
from pathline.train.report import number

__all__ = ["print_comparison"]


def print_comparison(folders: list[Path]) -> None:
    """A row a metric and a column a run, with mean and standard deviation where the experiment is the same."""
    runs = [read_json(folder / "metrics.json") for folder in folders]
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    same = len({run["experiment"] for run in runs}) == 1
    table = Table(title=runs[0]["title"] if same else "Runs", title_justify="left")
    table.add_column("metric")
    for folder, run in zip(folders, runs, strict=True):
        table.add_column(f"{folder.name}\n{run['preset']}, seed {run['seed']}", justify="right")
    if same:
        table.add_column("mean ± sd", justify="right")
    for name in dict.fromkeys(metric["name"] for run in runs for metric in run["metrics"]):
        values = [_value(run, name) for run in runs]
        cells = ["–" if value is None else number(value) for value in values]
        table.add_row(name, *cells, *([_spread([value for value in values if value is not None])] if same else []))
    console.print(table)
    for folder in folders:
        console.print(f"Report: {shown(folder / 'report.html')}", soft_wrap=True)


def _value(run: dict[str, Any], name: str) -> float | None:
    return next((float(metric["value"]) for metric in run["metrics"] if metric["name"] == name), None)


def _spread(values: list[float]) -> str:
    deviation = spread(values)
    return "–" if deviation is None else f"{number(fmean(values), 3)} ± {number(deviation, 2)}"
