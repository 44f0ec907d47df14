"""``pathline reproduce [NAME ...]``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from pathline.experiments import experiments, find
from pathline.experiments.reproducing import RESULTS, SEEDS, reproduce


@dataclasses.dataclass(frozen=True)
class ReproduceFlags:
    """Which runs, and where their summary goes."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = ()
    """The experiments; all of them if none is named."""
    seeds: tuple[int, ...] = SEEDS
    """One run each."""
    preset: str = "default"
    """The settings."""
    results: Path = RESULTS
    """Folder of the summaries, one NAME.json each."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:0 or mps."""
    jobs: int = 1
    """Seeds that run at a time, each in a process and a thread of its own."""


def main(words: list[str]) -> int:
    """Run everything and print a table; 1 where a mean or a worst seed misses its bound."""
    flags = tyro.cli(
        ReproduceFlags,
        args=words,
        prog="pathline reproduce",
        description="Run the experiments for several seeds, and record mean, spread and versions.",
    )
    try:
        chosen = [find(name) for name in flags.names] or list(experiments().values())
        for experiment in chosen:
            experiment.config(flags.preset)  # refuses an unknown preset before the first run
        if flags.jobs < 1:
            raise ValueError(f"--jobs is the number of runs at a time, at least 1, but {flags.jobs} came.")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    kept = True
    for experiment in chosen:
        try:
            summary = reproduce(
                experiment, seeds=flags.seeds, preset=flags.preset, results=flags.results, device=flags.device,
                jobs=flags.jobs, announce=lambda text: print(text, flush=True),
            )  # fmt: skip
        except KeyboardInterrupt as error:
            print(str(error) or "Interrupted.", file=sys.stderr)
            return 130
        _print(summary)
        kept = kept and _kept(summary)
    print(f"The summaries are in {flags.results.as_posix()}.")
    return 0 if kept else 1


def _kept(summary: Mapping[str, Any]) -> bool:
    bounds = [bound for metric in summary["metrics"].values() for bound in metric["expected"]]
    judged = all(bound["met"] and bound["worst_met"] for bound in bounds)
    return judged and not summary["missing"] and not summary["unfinished"]


def _print(summary: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from pathline.train.report import number

    table = Table(
        title=f"{summary['title']} (preset {summary['preset']}, seeds {summary['seeds']})", title_justify="left"
    )
    for name, justify in (("metric", "left"), ("mean", "right"), ("sd", "right"), ("expected", "left"), ("", "left")):
        table.add_column(name, justify=justify)  # pyright: ignore[reportArgumentType]
    for name, metric in summary["metrics"].items():
        spread = "–" if metric["sd"] is None else number(metric["sd"], 2)
        for bound in metric["expected"] or [None]:
            limit = (
                ""
                if bound is None
                else f"{ {'<=': 'at most', '>=': 'at least'}[bound['sense']] } {number(bound['bound'])}"
            )
            mark = "" if bound is None else _mark(bound)
            table.add_row(name, number(metric["mean"]), spread, limit, mark)
    for name in summary["missing"]:
        table.add_row(name, "not measured", "", "", "open")
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def _mark(bound: Mapping[str, Any]) -> str:
    if not bound["met"]:
        return "[bold red]MISS[/]"
    return "[green]pass[/]" if bound["worst_met"] else "[bold red]MISS (worst seed)[/]"
