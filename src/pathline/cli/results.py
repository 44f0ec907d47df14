"""The tables with which a run ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pathline.experiments.launching import RUNS, Options
from pathline.train.folders import latest
from pathline.train.report import number, unbound, verdict

__all__ = ["print_results", "print_stopped", "shown"]

_SENSE = {"<=": "at most", ">=": "at least"}
_STYLE = {"pass": "green", "miss": "bold red", "open": "yellow", "none": ""}


def shown(path: Path) -> str:
    """A path as it would be typed from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


def print_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Metrics beside their bounds, the verdict, and where the report is."""
    # a piped table keeps its columns: 80 would fold them
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    if results["status"] != "finished":
        console.print(Text(results["message"], style="yellow"))
    if results["metrics"] or results["missing"]:
        console.print(_table(results))
    kind, sentence = verdict(results)
    console.print(Text(sentence, style=_STYLE[kind]))
    if note := unbound(results):
        console.print(note)
    console.print(f"Report: {shown(folder / 'report.html')}", soft_wrap=True)
    if results["status"] == "out of time":
        console.print(f"Go on with: pathline run {results['experiment']} --resume {shown(folder)}", soft_wrap=True)


def _table(results: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{results['title'] or results['experiment']} (preset {results['preset']}, seed {results['seed']})",
        title_justify="left",
    )
    table.add_column("metric")
    table.add_column("value", justify="right", no_wrap=True)
    bounded = bool(results["missing"]) or any(metric["expected"] for metric in results["metrics"])
    if bounded:
        table.add_column("expected", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("where the bound comes from", overflow="fold")
    plain = []
    for metric in results["metrics"]:
        value = f"{number(metric['value'])} {metric['unit']}".strip()
        for bound in metric["expected"]:
            mark = Text("pass", "green") if bound["met"] else Text("MISS", "bold red")
            table.add_row(metric["name"], value, _limit(bound), mark, bound["source"])
        if not metric["expected"]:
            plain.append((metric["name"], value, *([""] * 3 if bounded else [])))
    for bound in results["missing"]:
        table.add_row(bound["metric"], "not measured", _limit(bound), Text("open", "yellow"), bound["source"])
    for row in plain:
        table.add_row(*row)
    return table


def _limit(bound: Mapping[str, Any]) -> str:
    return f"{_SENSE[bound['sense']]} {number(bound['bound'])}"


def print_stopped(name: str, options: Options, message: str, before: Path | None = None) -> None:
    """After an early end: what happened, where the report of what there is lies, and how to go on.

    ``before`` is what ``latest`` pointed to at the start: where it still does, this run had no folder yet.
    """
    print(message, file=sys.stderr)
    folder = options.out if options.out is not None else latest(RUNS)
    if options.out is None and folder == before:
        return
    if folder is not None and (folder / "report.html").is_file():
        print(f"Report of what there is: {shown(folder / 'report.html')}", file=sys.stderr)
        print(f"Go on with: pathline run {name} --resume {shown(folder)}", file=sys.stderr)
