"""Tables and figures that are written by the package itself, so that no page can fall behind it.

``{methods}`` lists the registry of solvers (or those of a ``:kind:``), ``{experiments}`` the published systems,
``{results} NAME`` the committed numbers of one of them, ``{shares}`` those of `irregular` by the share of points shown,
``{command} ARGUMENTS`` what the command line prints, ``{enright-pryce}`` and ``{stiff}`` the accuracy on record,
``{energy} SECTION`` what is preserved, and ``{benchmarks} SECTION``, ``{contenders} TASK`` and ``{profile}`` the speed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import pathline
from pathline.experiments import experiments
from pathline.experiments.irregular.models import LABELS

RESULTS = Path(__file__).parents[1] / "results"


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
    """The registry of solvers, with what is derived from each tableau or promised by each class."""

    option_spec = {"kind": str}

    def run(self) -> list[nodes.Node]:
        head = ["method", "order", "error estimate", "dense output", "stages", "properties", "gradients"]
        kind = self.options.get("kind")
        rows = [method_row(name, s) for name, s in pathline.METHODS.items() if kind in (None, method_kind(s))]
        return [table(head, rows, numeric=(1, 2, 3, 4))]


def method_kind(solver: Any) -> str:
    """Where a method stands on the page."""
    if getattr(solver, "variable_order", False):
        return "variable"
    if getattr(solver, "symplectic", False) and not getattr(solver, "implicit", False):
        return "structure"
    if getattr(solver, "reversible", False):
        return "structure"
    return "implicit" if getattr(solver, "implicit", False) else "explicit"


def method_row(name: str, solver: Any) -> list[str]:
    varies = getattr(solver, "variable_order", False)
    upto = "up to " if varies else ""
    embedded = getattr(solver, "embedded_order", None)
    needs = {"split": "Separable or Hamiltonian field", "parts": "Sum of two parts"}
    properties = [
        *(["FSAL"] if getattr(solver, "fsal", False) else []),
        *(["implicit"] if getattr(solver, "implicit", False) else []),
        *(["stiffly accurate"] if getattr(solver, "stiffly_accurate", False) else []),
        *(["symplectic"] if getattr(solver, "symplectic", False) else []),
        *(["reversible"] if getattr(solver, "reversible", False) else []),
        *([needs[solver.needs]] if solver.needs in needs else []),
        *(["shared clock only"] if "per-sample" not in getattr(solver, "clocks", ("per-sample",)) else []),
    ]
    return [
        f"`{name}`",
        f"{upto}{solver.order}",
        "–" if not solver.adaptive else "varies" if varies or embedded is None else str(embedded),
        f"{upto}{solver.dense_order}" if getattr(solver, "dense_order", None) else "–",
        str(getattr(solver, "stages", None) or "–"),
        ", ".join(properties),
        gradients(solver),
    ]


def gradients(solver: Any) -> str:
    every = ("backprop", "checkpointed", "adjoint")
    found = getattr(solver, "gradients", every)
    return "all" if set(found) == set(every) else ", ".join(found)


class Experiments(SphinxDirective):
    """One line for each published system."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for name, experiment in experiments().items():
            about = experiment.about
            source = ", ".join(str(part) for part in (about.authors, about.year, about.paper) if part)
            rows.append([f"`{name}`", about.summary, source])
        return [table(["experiment", "what is shown", "after"], rows)]


class Results(SphinxDirective):
    """The recorded numbers of one experiment beside the bounds it promises."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = RESULTS / f"{self.arguments[0]}.json"
        if not path.exists():
            return [nodes.paragraph("", "No run at full size is on record yet.")]
        self.env.note_dependency(str(path))
        return results_nodes(json.loads(path.read_text(encoding="utf-8")))


def results_nodes(summary: dict[str, Any]) -> list[nodes.Node]:
    seeds = summary["seeds"]
    head = ["metric", "mean", "spread", *(f"seed {seed}" for seed in seeds), "promised", ""]
    rows = []
    for name, metric in summary["metrics"].items():
        spread = "–" if metric["sd"] is None else f"± {metric['sd']:.2g}"
        numbers = [f"{metric['mean']:.4g}", spread, *(f"{value:.4g}" for value in metric["values"])]
        numbers += ["–"] * (len(head) - 3 - len(numbers))
        for bound in metric["expected"] or [None]:
            rows.append([f"`{name}`", *numbers, *judgement(bound)])
    made = (
        f"Recorded on {summary['date']} by `pathline reproduce {summary['experiment']}`: seeds "
        f"{', '.join(map(str, seeds))}, {summary['seconds']:.0f} seconds each with {summary['threads']} threads, "
        f"torch {summary['versions'].get('torch', '')}."
    ).replace("`", "")
    return [nodes.paragraph("", made), table(head, rows, numeric=range(1, len(head) - 1))]


class Shares(SphinxDirective):
    """The errors of `irregular` by the share of points shown, a table for each of its two tasks."""

    def run(self) -> list[nodes.Node]:
        path = RESULTS / "irregular-table.json"
        self.env.note_dependency(str(path))
        summary = json.loads(path.read_text(encoding="utf-8"))
        seeds = ", ".join(map(str, summary["seeds"]))
        made = nodes.paragraph("", f"Mean square errors, recorded on {summary['date']} by ")
        made += nodes.literal("", "pathline reproduce irregular --preset table")
        versions = summary["versions"].get("torch", "")
        made += nodes.Text(f": mean and spread of the seeds {seeds}, torch {versions}.")
        found: list[nodes.Node] = [made]
        for task in ("interpolation", "extrapolation"):
            head, rows = shares_table(summary["metrics"], task)
            found.append(table(head, rows, numeric=range(1, len(head))))
        return found


def shares_table(metrics: dict[str, Any], task: str) -> tuple[list[str], list[list[str]]]:
    shares = [name.rsplit("_", 1)[1] for name in metrics if name.startswith(f"rnn_dt_{task}_")]
    rows = []
    for model, label in LABELS.items():
        each = [metrics[f"{model}_{task}_{share}"] for share in shares]
        rows.append([label, *(f"{one['mean']:.4f} ± {one['sd']:.4f}" for one in each)])
    return [task, *(f"{share} %" for share in shares)], rows


def judgement(bound: dict[str, Any] | None) -> list[str]:
    if bound is None:
        return ["", ""]
    sense = {"<=": "≤", ">=": "≥"}[bound["sense"]]
    verdict = "missed" if not bound["met"] else "kept" if bound["worst_met"] else "missed by the worst seed"
    return [f"{sense} {bound['bound']:g}", verdict]


class EnrightPryce(SphinxDirective):
    """The accuracy of the adaptive methods on the non-stiff test set, with scipy on the same problems."""

    def run(self) -> list[nodes.Node]:
        path = RESULTS / "enright_pryce.json"
        self.env.note_dependency(str(path))
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return [table(*enright_pryce_table(rows), numeric=range(2, 8))]


def enright_pryce_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    head = [
        "method",
        "peer",
        "tolerance",
        "median error",
        "peer's",
        "evaluations",
        "peer's",
        "problems within the bars",
    ]
    body = []
    for method, peer, tol in dict.fromkeys((row["method"], row["peer"], row["tol"]) for row in rows):
        group = [row for row in rows if (row["method"], row["tol"]) == (method, tol)]
        errors = [f"{median(row[key] for row in group):.2g}" for key in ("error", "peer_error")]
        counts = [str(sum(row[key] for row in group)) for key in ("evaluations", "peer_evaluations")]
        kept = sum(row["accurate"] and row["cheap"] for row in group)
        body.append([f"`{method}`", peer, f"{tol:.0e}", *errors, *counts, f"{kept} of {len(group)}"])
    return head, body


class Energy(SphinxDirective):
    """What structure-preserving methods preserve: ``energy`` over many steps, or the ``returns`` by inverse steps."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = RESULTS / "energy.json"
        self.env.note_dependency(str(path))
        head, rows = energy_table(json.loads(path.read_text(encoding="utf-8")), self.arguments[0])
        return [table(head, rows, numeric=range(2, len(head) - 1))]


def energy_table(record: dict[str, Any], section: str) -> tuple[list[str], list[list[str]]]:
    if section == "returns":
        head = ["system", "method", "steps", "size where it turned", "distance from the start", "bar", ""]
        return head, [
            [
                row["system"],
                f"`{row['method']}`",
                str(row["steps"]),
                f"{row['reached']:.1g}",
                f"{row['missed']:.1g}",
                "" if row["bar"] is None else f"≤ {row['bar']:.0e}",
                "" if row["bar"] is None else "kept" if row["kept"] else "missed",
            ]
            for row in record["returns"]
        ]
    head = ["system", "method", "step", "first tenth", "last tenth", "order", ""]
    rows = []
    for row in record["energy"]:
        order = record["orders"][f"{row['system']} {row['method']}"]
        errors = [f"{row['step']:g}", f"{row['first']:.2g}", f"{row['last']:.2g}", f"{order:.2f}"]
        rows.append([row["system"], f"`{row['method']}`", *errors, "bounded" if row["bounded"] else "grows"])
    return head, rows


class Stiff(SphinxDirective):
    """The stiff set at one tolerance: a table for each problem, with scipy's nearest relative on the same row."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = RESULTS / "stiff.json"
        self.env.note_dependency(str(path))
        rows = [
            r for r in json.loads(path.read_text(encoding="utf-8"))["rows"] if r["rtol"] == float(self.arguments[0])
        ]
        made: list[nodes.Node] = []
        for problem in dict.fromkeys(row["problem"] for row in rows):
            head, body = stiff_table([row for row in rows if row["problem"] == problem])
            made += [nodes.paragraph("", "", nodes.strong("", problem)), table(head, body, numeric=range(1, 6))]
        return made


def stiff_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    head = ["method", "error", "steps", "evaluations", "Jacobians", "LU", "bars", "scipy"]
    body = []
    for row in rows:
        costs = [f"{row['ours'][key]} / {row['theirs'][key]}" for key in COSTS]
        end = {"PASS": "kept", "MISS": "missed"}[row["verdict"]]
        if row["status"] != "success":
            end = row["status"].replace("_", " ")
        errors = f"{row['ours']['error']:.2g} / {row['theirs']['error']:.2g}"
        body.append([f"`{row['method']}`", errors, *costs, end, row["peer"].removeprefix("scipy ")])
    return head, body


COSTS = ("steps", "evaluations", "jacobians", "factorizations")


class Benchmarks(SphinxDirective):
    """The recorded ratios of one section of the benchmarks, with their bars; ``bars`` are those of all sections."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        sections = recorded(self.env, "benchmarks.json").get("sections", {})
        name = self.arguments[0]
        held = [row for found in sections.values() for row in found["rows"] if row["bar"] is not None]
        rows = held if name == "bars" else sections.get(name, {}).get("rows", [])
        if not rows:
            return [nodes.paragraph("", "No run is on record yet.")]
        return [table(*benchmark_table(rows), numeric=(1, 2, 3))]


def recorded(env: Any, name: str) -> dict[str, Any]:
    """A committed record; empty where there is none yet."""
    path = RESULTS / name
    if not path.exists():
        return {}
    env.note_dependency(str(path))
    return json.loads(path.read_text(encoding="utf-8"))


def benchmark_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    body = []
    for row in rows:
        bar = "" if row["bar"] is None else f"{'≥' if row['at_least'] else '≤'} {row['bar']:.3g}{row['unit']}"
        if row["value"] is None or row["bound"] is None:
            body.append([row["name"], "–", "–", bar, f"not available: {row['reason']}"])
            continue
        measured = [f"{row['value']:.3g}{row['unit']}", f"{row['bound']:.3g}{row['unit']}", bar]
        body.append([row["name"], *measured, benchmark_verdict(row)])
    return ["work", "median", "95 % bound", "bar", ""], body


def benchmark_verdict(row: dict[str, Any]) -> str:
    if row["verdict"] != "MISS":
        return {"PASS": "kept"}.get(row["verdict"], "")
    part = row["bound"] / row["bar"] - 1.0
    return f"missed by {abs(part):.0%}" if row.get("holds", True) else "missed: not as accurate"


class Contenders(SphinxDirective):
    """What every contender of one task of the benchmarks took and kept."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        section = recorded(self.env, "benchmarks.json").get("sections", {}).get("training", {})
        points = [point for point in section.get("points", []) if point["task"] == self.arguments[0]]
        if not points:
            return [nodes.paragraph("", "No run is on record yet.")]
        return [table(*contender_table(points), numeric=range(1, 6))]


def contender_table(points: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    body = []
    for point in points:
        notes = point["notes"]
        if point["ms"] is None:
            body.append([point["who"], "–", "–", "–", "–", "–"])
            continue
        counts = " + ".join(str(n) for n in notes["evaluations"] if n) if "evaluations" in notes else "–"
        error = f"{notes['gradient error']:.1e}" if "gradient error" in notes else "–"
        sizes = [f"{notes[key] / 1e3:.3g}" if notes.get(key) is not None else "–" for key in ("kept", "peak")]
        body.append([point["who"], f"{point['ms']:.3g}", counts, error, *sizes])
    return ["", "ms", "evaluations", "error of the gradient", "kept, kB", "peak, kB"], body


class Profile(SphinxDirective):
    """Where the microseconds of the smallest training step go."""

    def run(self) -> list[nodes.Node]:
        profiles = recorded(self.env, "profile.json").get("profiles", {})
        if not profiles:
            return [nodes.paragraph("", "No run is on record yet.")]
        return [table(*profile_table(profiles), numeric=range(1, 1 + 2 * len(profiles)))]


def profile_table(profiles: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    head, kinds = ["part"], list(profiles)
    for kind in kinds:
        head += [f"{kind}, µs", "of the whole"]
    parts = [part for part in dict.fromkeys(p for found in profiles.values() for p in found) if part != "evaluations"]
    body = []
    for part in [part for part in parts if part not in ENDS] + list(ENDS):
        cells = [ENDS.get(part, part)]
        for kind in kinds:
            found, whole = profiles[kind].get(part), profiles[kind]["together"]
            cells += ["–", "–"] if found is None else [f"{found:.0f}", f"{found / whole:.0%}"]
        body.append(cells)
    return head, body


#: The last rows of a profile.
ENDS = {"together": "the whole step, unwatched", "floor": "floor: the same evaluations alone"}


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
    app.add_directive("shares", Shares)
    app.add_directive("command", Command)
    app.add_directive("enright-pryce", EnrightPryce)
    app.add_directive("energy", Energy)
    app.add_directive("stiff", Stiff)
    app.add_directive("benchmarks", Benchmarks)
    app.add_directive("contenders", Contenders)
    app.add_directive("profile", Profile)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
