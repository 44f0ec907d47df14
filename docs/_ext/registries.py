"""Tables that are written by the package itself, so that no page can fall behind it.

``{methods}`` lists the registry of solvers, ``{experiments}`` the published systems, ``{results} NAME`` the committed
numbers of one of them, ``{command} ARGUMENTS`` what the command line prints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import pathline

EXPERIMENTS = Path(pathline.__file__).parent / "experiments"


def experiment_names() -> list[str]:
    return sorted(path.parent.name for path in EXPERIMENTS.glob("*/config.py"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> nodes.table:
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", _row(head, numeric))
    group += nodes.tbody("", *[_row(row, numeric) for row in rows])
    return nodes.table("", group, classes=["table"])


def _row(cells: Sequence[str], numeric: Sequence[int]) -> nodes.row:
    row = nodes.row()
    for column, cell in enumerate(cells):
        text = nodes.literal("", cell[1:-1]) if cell.startswith("`") else nodes.Text(cell)
        row += nodes.entry("", nodes.paragraph("", "", text), classes=["num"] if column in numeric else [])
    return row


class Methods(SphinxDirective):
    """The registry of solvers, with what is derived from each tableau."""

    def run(self) -> list[nodes.Node]:
        head = ["method", "order", "error estimate of order", "dense output of order", "stages", "FSAL", "steps"]
        rows = []
        for name, solver in pathline.METHODS.items():
            embedded = str(solver.embedded_order) if solver.adaptive else "–"
            steps = "adaptive" if solver.adaptive else "fixed"
            fsal = "yes" if solver.fsal else ""
            rows.append(
                [f"`{name}`", str(solver.order), embedded, str(solver.dense_order), str(solver.stages), fsal, steps]
            )
        return [table(head, rows, numeric=(1, 2, 3, 4))]


class Experiments(SphinxDirective):
    """One line for each published system."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for name in experiment_names():
            about = import_module(f"pathline.experiments.{name}.config").ABOUT
            source = ", ".join(str(part) for part in (about.authors, about.year, about.paper) if part)
            rows.append([f"`{name}`", about.summary, source])
        return [table(["experiment", "what is shown", "after"], rows)]


class Results(SphinxDirective):
    """The committed numbers of one experiment beside the bounds it promises."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        paths = sorted((EXPERIMENTS / name / "results").glob("*.json"))
        for path in paths:
            self.env.note_dependency(str(path))
        if not paths:
            return [nodes.paragraph("", "No run at full size is recorded yet.")]
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return [results_table(name, runs)]


def results_table(name: str, runs: Sequence[dict[str, Any]]) -> nodes.table:
    seeds = [f"seed {run['seed']}" for run in runs]
    promised = {expected.metric: expected for expected in import_module(f"pathline.experiments.{name}.config").EXPECTED}
    rows = []
    for metric in dict.fromkeys(metric for run in runs for metric in run["metrics"]):
        values = [run["metrics"].get(metric) for run in runs]
        expected = promised.get(metric)
        bound = f"{expected.sense} {expected.bound:g}".replace("<=", "≤").replace(">=", "≥") if expected else ""
        cells = ["–" if value is None else f"{value:.4g}" for value in values]
        rows.append([f"`{metric}`", *cells, bound])
    return table(["metric", *seeds, "promised"], rows, numeric=range(1, len(runs) + 2))


class Command(SphinxDirective):
    """The output of `pathline ARGUMENTS`."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        program = [sys.executable, "-c", "import sys; from pathline.cli import main; sys.exit(main())"]
        environment = os.environ | {"COLUMNS": "92", "NO_COLOR": "1", "TERM": "dumb"}
        arguments = self.arguments[0].split()
        result = subprocess.run([*program, *arguments], capture_output=True, text=True, env=environment)
        if result.returncode:
            raise self.error(f"pathline {self.arguments[0]} failed: {result.stderr}")
        text = f"$ pathline {self.arguments[0]}\n{result.stdout.rstrip()}"
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("methods", Methods)
    app.add_directive("experiments", Experiments)
    app.add_directive("results", Results)
    app.add_directive("command", Command)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
