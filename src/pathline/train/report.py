"""The report of a run: one HTML file that needs no network, written from what the run folder holds."""

from __future__ import annotations

import base64
import contextlib
import csv
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from pathline.train.charts import Series, line_chart
from pathline.train.folders import BrokenFile, read_json

__all__ = ["number", "read_history", "unbound", "verdict", "write_report"]

SUPERSCRIPTS = {ord(plain): ord(raised) for plain, raised in zip("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True)}

_NEEDED = (
    "experiment",
    "preset",
    "seed",
    "status",
    "message",
    "changed",
    "answer",
    "metrics",
    "missing",
    "fits",
    "title",
    "summary",
    "authors",
    "year",
    "paper",
    "started",
    "seconds",
    "tables",
    "figures",
    "notes",
)
"""Keys of ``metrics.json`` that a report reads."""

LARGEST_SVG = 400_000
"""Bytes above which a figure is embedded as PNG: vector drawings with very many paths are slow on a phone."""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from the files in a run folder.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: Where the folder holds no ``metrics.json``.
        BrokenFile: Where one of the files cannot be read.
    """
    results = read_json(folder / "metrics.json")
    lacking = [key for key in _NEEDED if not isinstance(results, dict) or key not in results]
    if lacking:
        reason = f"it lacks {', '.join(lacking)}"
        raise BrokenFile(folder / "metrics.json", reason, "Delete it and go on with the run with `--resume`.")
    environment = Environment(
        loader=PackageLoader("pathline.train", "templates"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": _number,
        "markdown": _markdown,
        "cell": _cell,
        "duration": _duration,
        "words": _words,
    }
    rows = _metric_rows(results)
    page = environment.get_template("report.html.j2").render(
        results=results,
        verdict=verdict(results),
        unbound=unbound(results),
        rows=[row for row in rows if row["bound"] is not None],
        others=[row for row in rows if row["bound"] is None],
        fits=_fits(results, read_history(folder / "metrics.csv")),
        figures=[drawn for figure in results["figures"] if (drawn := _figure(folder, figure)) is not None],
        command=_command(results),
        failures=_failures(folder / "events.jsonl"),
        config=_text(folder / "config.yaml"),
        environment=_flat(read_json(folder / "env.json")) if (folder / "env.json").is_file() else [],
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def verdict(results: Mapping[str, Any]) -> tuple[str, str]:
    """One of ``"pass"``, ``"miss"``, ``"open"`` and ``"none"``, and the sentence that goes with it."""
    compared = [bound for metric in results["metrics"] for bound in metric["expected"]]
    met, total = sum(bound["met"] for bound in compared), len(compared) + len(results["missing"])
    if total == 0:
        return "none", f"No bounds are set for the preset {results['preset']}."
    if met == total:
        return "pass", "The expectation is met." if total == 1 else f"All {total} expectations are met."
    kind = "miss" if any(not bound["met"] for bound in compared) else "open"
    sentence = f"{met} of {total} expectations {'is' if met == 1 else 'are'} met"
    missing = len(results["missing"])
    return kind, sentence + (f"; {missing} {'was' if missing == 1 else 'were'} not measured." if missing else ".")


def unbound(results: Mapping[str, Any]) -> str:
    """A word on the metrics without a bound: at a small preset they say nothing."""
    bounds = [bool(metric["expected"]) for metric in results["metrics"]]
    told = results["preset"] != "default" and not all(bounds) and (any(bounds) or results["missing"])
    return f"Nothing is expected of the other numbers at the preset {results['preset']}." if told else ""


def number(value: Any, digits: int = 4) -> str:
    """A number as a reader wants it: four digits, no needless zeros, a true minus sign."""
    amount = float(value)
    if math.isnan(amount):
        return "not a number"
    if math.isinf(amount):
        return "∞" if amount > 0 else "−∞"
    if amount == int(amount) and abs(amount) < 10**digits:
        return str(int(amount)).replace("-", "−")
    if 1e4 <= abs(amount) < 1e7:
        return f"{amount:,.0f}".replace(",", "\N{THIN SPACE}").replace("-", "−")
    text = f"{amount:.{digits}g}"
    mantissa, e, exponent = text.partition("e")
    if e:
        power = str(int(exponent)).translate(SUPERSCRIPTS)
        text = f"10{power}" if mantissa == "1" else f"{mantissa} × 10{power}"
    return text.replace("-", "−")


def _number(value: Any, digits: int = 4) -> Markup:
    """As ``number``, with the exponent as HTML sets it: the raised digits of many fonts do not match."""
    plain = number(value, digits)
    found = re.search(r"[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+$", plain)
    if found is None:
        return Markup(escape(plain))
    power = found[0].translate({raised: digit for digit, raised in SUPERSCRIPTS.items()}).replace("-", "−")
    return Markup("{}<sup>{}</sup>").format(plain[: found.start()], power)


def read_history(path: Path) -> dict[str, dict[str, list[float]]]:
    """``metrics.csv`` as columns of each fit; an empty cell is NaN."""
    fits: dict[str, dict[str, list[float]]] = {}
    if not path.is_file():
        return fits
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                columns = fits.setdefault(row.pop("fit"), {name: [] for name in row})
                for name, cell in row.items():
                    columns[name].append(float(cell) if cell else math.nan)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise BrokenFile(path, error, "Delete it: the report is then written without its curves.") from error
    return fits


def _metric_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for metric in results["metrics"]:
        bounds = metric["expected"] or [None]
        for bound in bounds:
            kind = "none" if bound is None else "pass" if bound["met"] else "miss"
            rows.append(
                {"name": metric["name"], "value": metric["value"], "unit": metric["unit"], "bound": bound, "kind": kind}
            )
    rows += [
        {"name": bound["metric"], "value": None, "unit": "", "bound": bound, "kind": "open"}
        for bound in results["missing"]
    ]
    return rows


def _fits(results: Mapping[str, Any], history: Mapping[str, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    return [_fit(name, facts, history.get(name, {})) for name, facts in results["fits"].items()]


def _fit(name: str, facts: Mapping[str, Any], columns: Mapping[str, list[float]]) -> dict[str, Any]:
    steps = columns.get("step", [])
    loss = [Series("training loss", "first", steps, columns.get("loss", []))]
    watched = columns.get("watched", [])
    other = [
        y for y, trained in zip(watched, columns.get("loss", []), strict=False) if not math.isnan(y) and y != trained
    ]
    if other:
        loss.append(Series("watched", "second", steps, watched))
    best = facts["best_step"]
    mark = (float(best), float(facts["best_value"])) if best is not None else None
    counts = [
        Series(label, css, steps, columns[column])
        for column, label, css in (("evaluations", "forward", "first"), ("backward_evaluations", "backward", "second"))
        if any(not math.isnan(value) for value in columns.get(column, []))
    ]
    known = {line.label: [value for _, value in line.known()] for line in counts}
    drawn = [line for line in counts if any(known[line.label])]
    changing = any(len(set(values)) > 1 for values in known.values())
    count_chart = line_chart(drawn, log=False, title=f"Evaluations of {name} a step") if changing else ""
    return {
        "name": name,
        **facts,
        "loss_chart": Markup(line_chart(loss, log=True, title=f"Loss of {name} over the steps", mark=mark)),
        "loss_legend": [(line.label, line.css) for line in loss] if len(loss) > 1 else [],
        "count_chart": Markup(count_chart),
        "count_legend": [
            (line.label, line.css if changing and line in drawn else "", known[line.label][-1]) for line in counts
        ],
    }


def _figure(folder: Path, figure: Mapping[str, str]) -> dict[str, Any] | None:
    svg, png = (folder / "figures" / f"{figure['name']}.{kind}" for kind in ("svg", "png"))
    if svg.is_file() and (svg.stat().st_size <= LARGEST_SVG or not png.is_file()):
        path, kind = svg, "image/svg+xml"
    elif png.is_file():
        path, kind = png, "image/png"
    else:
        return None
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    width, height = _size(svg) if svg.is_file() else (None, None)
    return {**figure, "uri": Markup(f"data:{kind};base64,{data}"), "width": width, "height": height}


def _size(svg: Path) -> tuple[int | None, int | None]:
    with svg.open(encoding="utf-8") as file:
        head = file.read(4000)
    found = re.search(r'viewBox="[\d.eE+-]+ [\d.eE+-]+ ([\d.]+) ([\d.]+)"', head)
    return (round(float(found[1]) * 4 / 3), round(float(found[2]) * 4 / 3)) if found else (None, None)


def _command(results: Mapping[str, Any]) -> str:
    words = ["pathline run", results["experiment"]]
    if results["preset"] != "default":
        words.append(f"--preset {results['preset']}")
    words.append(f"--seed {results['seed']}")
    words += [_flag(name, value) for name, value in _flat(results["changed"])]
    return " ".join(words)


def _flag(name: str, value: Any) -> str:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        head, _, tail = name.rpartition(".")
        return f"--{name}" if value else f"--{head + '.' if head else ''}no-{tail}"
    if isinstance(value, list):
        return " ".join([f"--{name}", *map(str, value)])
    return f"--{name} {value}"


def _failures(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    events: list[Any] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):  # a line is torn where the process was killed while it wrote
            events.append(json.loads(line))
    kinds = ("solve failed", "fit stopped")
    return [event for event in events if isinstance(event, dict) and event.get("event") in kinds]


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        text = path.read_text(encoding="utf-8")
        yaml.safe_load(text)  # a config that cannot be read again would be no record
    except (ValueError, yaml.YAMLError) as error:
        advice = "Write it anew: --print-config shows how it looks."
        raise BrokenFile(path, " ".join(str(error).split()), advice) from error
    return text.rstrip()


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", value))
    return out


def _duration(seconds: Any) -> str:
    whole = round(float(seconds))
    if whole < 60:
        return f"{whole} s" if whole else "under 1 s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    return _number(value) if isinstance(value, (int, float)) or value in ("nan", "inf", "-inf") else str(value)


_RENDERER = MarkdownIt("commonmark", {"html": False, "typographer": False}).enable("table")


def _markdown(text: str, inline: bool = False) -> Markup:
    return Markup(_RENDERER.renderInline(text) if inline else _RENDERER.render(text))
