"""Numbers, verdicts, charts and pages."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from pathline.train import Run
from pathline.train.charts import MOST_POINTS, Series, line_chart
from pathline.train.report import number, unbound, verdict, write_report


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (3, "3"), (-3.0, "−3"), (0.123456, "0.1235"), (-0.5, "−0.5"), (9999, "9999"),
        (12345.6, "12\N{THIN SPACE}346"),
        (1.23456e-7, "1.235 × 10⁻⁷"), (1e-12, "10⁻¹²"), (6.5e23, "6.5 × 10²³"), (0.00012, "0.00012"),
        (math.nan, "not a number"), (math.inf, "∞"), (-math.inf, "−∞"), ("nan", "not a number"), (True, "1"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_true(value: Any, text: str):
    assert number(value) == text


def results(met: list[bool], missing: int = 0) -> dict[str, Any]:
    return {
        "preset": "tiny",
        "metrics": [{"name": str(index), "expected": [{"met": item}]} for index, item in enumerate(met)],
        "missing": [{}] * missing,
    }


@pytest.mark.parametrize(
    ("met", "missing", "kind", "sentence"),
    [
        ([], 0, "none", "No bounds are set for the preset tiny."),
        ([True], 0, "pass", "The expectation is met."),
        ([True, True], 0, "pass", "All 2 expectations are met."),
        ([True, False], 0, "miss", "1 of 2 expectations is met."),
        ([False, False], 0, "miss", "0 of 2 expectations are met."),
        ([True], 1, "open", "1 of 2 expectations is met; 1 was not measured."),
        ([False], 2, "miss", "0 of 3 expectations are met; 2 were not measured."),
    ],
)
def test_the_verdict_counts_what_was_not_measured(met: list[bool], missing: int, kind: str, sentence: str):
    assert verdict(results(met, missing)) == (kind, sentence)


def test_a_small_preset_says_that_most_numbers_mean_nothing():
    some = results([True])
    assert unbound(some) == ""
    some["metrics"].append({"name": "accuracy", "expected": []})
    assert unbound(some) == "Nothing is expected of the other numbers at the preset tiny."
    assert unbound({**some, "preset": "default"}) == ""


def chart(values: list[float], *, log: bool = True, mark: tuple[float, float] | None = None) -> ET.Element:
    text = line_chart(
        [Series("loss", "first", list(range(1, len(values) + 1)), values)], log=log, title="a < b", mark=mark
    )
    return ET.fromstring(text)


def points(drawing: ET.Element, tag: str = "polyline") -> list[tuple[float, float]]:
    pairs = (pair.split(",") for line in drawing.iter(tag) for pair in line.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def test_a_chart_shows_falling_values_as_a_falling_line():
    drawn = points(chart([10.0**-index for index in range(8)]))
    assert len(drawn) == 8
    steps = np.diff(np.array(drawn), axis=0)
    assert (steps[:, 0] > 0).all()
    assert (steps[:, 1] > 0).all()  # downwards on the page
    assert np.ptp(steps[:, 1]) < 0.2  # evenly, on a logarithmic axis


def test_a_long_series_is_a_mean_in_a_band():
    values = [2.0 + math.sin(index) for index in range(5000)]
    drawing = chart(values, log=False)
    assert len(points(drawing)) <= MOST_POINTS
    assert len(points(drawing, "polygon")) == 2 * len(points(drawing))


@pytest.mark.parametrize(
    "values", [[1.0], [2.0, 2.0], [0.0, 0.0], [1e-300, 1e300], [-1.0, 1.0], [5.0, math.nan, 4.0], [1e-9, 2e-9]]
)
@pytest.mark.parametrize("log", [True, False])
def test_a_chart_draws_odd_values_inside_its_frame(values: list[float], log: bool):
    text = line_chart([Series("loss", "first", [1.0, 2.0, 3.0][: len(values)], values)], log=log, title="t")
    if not text:
        assert log
        assert all(value <= 0 for value in values)
        return
    coordinates = [float(found) for found in re.findall(r' (?:[xy][12]?|c[xy])="([-\d.a-z]+)"', text)]
    coordinates += [part for point in points(ET.fromstring(text)) for part in point]
    assert all(-1.0 <= value <= 341.0 for value in coordinates)
    assert "nan" not in text.replace("nonan", "")


def test_without_a_finite_value_there_is_no_chart():
    assert line_chart([Series("loss", "first", [1.0, 2.0], [math.nan, math.inf])], log=True, title="t") == ""


def test_the_best_step_is_marked_where_it_is():
    drawing = chart([4.0, 2.0, 1.0, 3.0], log=False, mark=(3.0, 1.0))
    (ring,) = [circle for circle in drawing.iter("circle") if circle.attrib["class"] == "mark"]
    assert (float(ring.attrib["cx"]), float(ring.attrib["cy"])) == points(drawing)[2]


# --- the page --------------------------------------------------------------------------------------------------------


def finished(folder: Path) -> Run:
    run = Run("page", {"a": 1}, folder=folder, device="cpu", quiet=True)
    run.metric("an_error", 0.25, "mm")
    return run


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_report_needs_nothing_but_its_numbers(tmp_path: Path):
    finished(tmp_path).finish()
    text = page(tmp_path)
    assert "an error" in text
    assert "0.25" in text
    assert "No bounds are set for the preset default." in text


def test_what_comes_from_outside_is_escaped(tmp_path: Path):
    run = finished(tmp_path)
    bad = "<script>alert(1)</script>"
    run.note(bad)
    run.answer(bad)
    run.table(bad, [bad, "b"], [[bad, 1.0]])
    figure, axes = plt.subplots()
    axes.plot([0, 1])
    run.figure("curve", figure, bad)
    run.finish("failed", bad)
    assert "<script" not in page(tmp_path)


def test_markdown_is_rendered(tmp_path: Path):
    run = finished(tmp_path)
    run.note(
        "The plain model **loses** here, see [the paper](https://example.org) and `code`.\n\n| a | b |\n|--|--|\n| 1 | 2 |"
    )
    run.finish()
    text = page(tmp_path)
    assert "<strong>loses</strong>" in text
    assert "<td>1</td>" in text
    assert '<a href="https://example.org">' in text


def test_links_that_run_code_are_not_rendered(tmp_path: Path):
    run = finished(tmp_path)
    run.note("[click](javascript:alert(1))")
    run.finish()
    assert 'href="javascript' not in page(tmp_path)


def test_a_small_figure_is_embedded_as_svg_and_a_large_one_as_png(tmp_path: Path):
    run = finished(tmp_path)
    for name, count in (("small", 10), ("large", 20_000)):
        figure, axes = plt.subplots()
        axes.scatter(np.linspace(0, 1, count), np.linspace(0, 1, count) ** 2)
        run.figure(name, figure)
        assert not plt.fignum_exists(figure.number)  # pyright: ignore[reportAttributeAccessIssue]
    run.finish()
    kinds = re.findall(r'<img src="data:(image/[a-z+]+);base64', page(tmp_path))
    assert kinds == ["image/svg+xml", "image/png"]


def test_figures_are_the_same_bytes_each_time(tmp_path: Path):
    for name in ("a", "b"):
        run = finished(tmp_path / name)
        figure, axes = plt.subplots()
        axes.plot([0, 1], label="x")
        axes.fill_between([0, 1], [0, 1])
        run.figure("curve", figure)
    for kind in ("svg", "png"):
        left, right = ((tmp_path / name / "figures" / f"curve.{kind}").read_bytes() for name in ("a", "b"))
        assert left == right


def test_a_report_without_metrics_says_what_is_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        write_report(tmp_path)


# --- what a run refuses ----------------------------------------------------------------------------------------------


def test_a_table_has_rows_of_one_length(tmp_path: Path):
    with pytest.raises(ValueError, match="The table 't' has 2 columns; a row with 1 came"):
        finished(tmp_path).table("t", ["a", "b"], [[1]])


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", ".hidden"])
def test_names_that_become_files_are_plain(tmp_path: Path, name: str):
    run = finished(tmp_path)
    with pytest.raises(ValueError, match="becomes part of a file's name"):
        run.figure(name, plt.figure())
    plt.close("all")
    with pytest.raises(ValueError, match="becomes part of a file's name"):
        run.fit(name, None, None, steps=1)  # pyright: ignore[reportArgumentType]


def test_each_fit_has_a_name_of_its_own(tmp_path: Path):
    import torch

    run = finished(tmp_path)
    model = torch.nn.Linear(1, 1)
    run.fit("net", model, lambda model, _: model.weight.square().sum(), steps=1)
    with pytest.raises(ValueError, match='The run already has a fit called "net"'):
        run.fit("net", model, lambda model, _: model.weight.square().sum(), steps=1)
