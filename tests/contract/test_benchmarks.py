"""The arithmetic of the benchmarks (nothing is timed here)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.allocations import allocations
from benchmarks.contenders import Contender, OurTrial, TorchTrial, Unavailable, ours, ready, torchdiffeq
from benchmarks.ensembles import Ensemble, pathline_solve, reference
from benchmarks.environment import environment, installed
from benchmarks.growth import slope
from benchmarks.profile import PARTS, parts
from benchmarks.rows import Point, Row
from benchmarks.summary import judged, verdict
from benchmarks.tasks import conv_task, count, default_task, long_task, spiral_task
from benchmarks.timing import Comparison, race


def test_ratio_is_the_median_of_the_pairs():
    timed = Comparison(ours=(1.0, 2.0, 1.0), theirs=(2.0, 2.0, 5.0))
    assert timed.ratio == 2.0
    assert timed.milliseconds() == (1000.0, 2000.0)


def test_bounds_hold_the_median_and_tighten_with_pairs():
    noise = np.random.default_rng(1).lognormal(0.0, 0.2, 400)
    few, many = (Comparison((1.0,) * n, tuple(2.0 * noise[:n])) for n in (10, 400))
    for timed in (few, many):
        low, high = timed.bounds
        assert low <= timed.ratio <= high
    assert many.bounds[1] - many.bounds[0] < few.bounds[1] - few.bounds[0]


@pytest.mark.parametrize(
    ("bound", "at_least", "verdict"),
    [(2.0, True, "PASS"), (1.9, True, "MISS"), (2.1, False, "MISS"), (1.9, False, "PASS")],
)
def test_the_bar_is_held_to_the_bound(bound, at_least, verdict):
    row = Row("a row", value=2.5, bound=bound, unit="x", bar=2.0, at_least=at_least)
    assert row.verdict == verdict
    assert verdict in str(row)
    assert row.entry()["verdict"] == verdict
    assert Row("a row", 2.5, 2.0, "x").verdict == ""


def test_environment_names_versions_and_no_host():
    found = environment("scipy", "no-such-package-here")
    assert set(found) == {"python", "machine", "threads", "versions"}
    assert found["versions"].keys() == {"pathline", "torch", "scipy"}
    assert installed("no-such-package-here") is None


def test_reference_is_tighter_than_what_it_judges():
    """On y' = MLP(y) the reference agrees with scipy's own tolerance, and its start is the task's."""
    task = default_task(2, 8, 4)
    reference = task.reference()
    assert reference.shape == (11, 4, 2)
    assert reference.dtype == torch.float64
    torch.testing.assert_close(reference[0], task.y0.double())
    with torch.no_grad():
        torch.testing.assert_close(task.ours("backprop").double(), reference, rtol=0.0, atol=1e-4)


def test_the_long_row_takes_fifty_steps():
    with torch.no_grad():
        assert long_task().solution("backprop").stats.accepted >= 50


def test_counting_evaluations():
    task = default_task(2, 8, 4)
    found = count(task.field, lambda: [task.field(torch.tensor(0.0), task.y0) for _ in range(3)])
    assert found == 3
    assert not task.field._forward_pre_hooks


# --- turns --------------------------------------------------------------------------------------------------------


def test_everybody_runs_in_turns_and_pairs_share_their_rounds():
    ran = []
    works = {name: lambda name=name: ran.append(name) for name in ("a", "b", "c")}
    times = race(works, rounds=8, budget=1.0)
    del ran[:6]  # each is warmed up twice
    assert sorted(ran) == sorted(["a", "b", "c"] * 8)
    assert {ran[3 * i] for i in range(8)} == {"a", "b", "c"}
    assert len(times.pair("a", "c").ours) == 8


def test_a_slow_one_runs_in_some_rounds(monkeypatch):
    taken = {"slow": 1.0, "fast": 1e-3}
    monkeypatch.setattr("benchmarks.timing.seconds", lambda work: taken[work()])
    works = {name: lambda name=name: name for name in taken}
    times = race(works, rounds=16, budget=5.0)
    assert {name: len(found) for name, found in times.times.items()} == {"slow": 4, "fast": 16}
    assert times.pair("fast", "slow").ratio == pytest.approx(1000.0)
    assert times.milliseconds("slow") == (1000.0, 1000.0, 1000.0)
    assert len(race(works, rounds=16, budget=5.0, full=("slow",)).times["slow"]) == 16


def test_bars_are_judged_line_by_line():
    rows = [
        Row("fast", 3.0, 2.5, "x", 2.0, line="first"),
        Row("slow", 2.0, 1.5, "x", 2.0, line="first"),
        Row("long", 9.0, 9.0, "s", 6.0, at_least=False, line="second"),
        Row("none", None, None, "x", 2.0, reason="nobody built it"),
        Row("unfair", 9.0, 9.0, "x", 2.0, holds=False),
        Row("free", 1.0, 1.0, "x"),
    ]
    assert [verdict(row).split(":")[0] for row in rows[:5]] == [
        "met",
        "missed by 25%",
        "missed by 50%",
        "not available",
        "missed",
    ]
    text = judged(rows)
    assert text.index("first") < text.index("slow") < text.index("second")
    assert "1 met, 3 missed, 1 not available" in text
    assert "free" not in text
    assert "nobody built it" in str(rows[3])


def test_slopes_of_powers():
    assert slope([(10, 3.0), (100, 300.0), (1000, 30000.0)]) == pytest.approx(2.0)


# --- contenders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [default_task(2, 8, 4), spiral_task(), conv_task(2, 3, 4)], ids=lambda task: task.name)
def test_contenders_compute_one_gradient(task):
    truth = task.reference_gradient()
    for contender in (ours("backprop", compiled=False), ours("checkpointed", compiled=False), torchdiffeq("backprop")):
        trial = ready(contender, task)
        trial.work()
        error = float((trial.gradient() - truth).norm() / truth.norm())
        assert error < 1e-3, contender.name
        assert trial.evaluations()[0] > 6


def test_the_field_of_the_other_library_is_the_same():
    diffrax_peer = pytest.importorskip("benchmarks.diffrax_peer")
    for task in (default_task(2, 8, 4), spiral_task(), conv_task(2, 3, 4)):
        field, parameters = diffrax_peer.field_of(task.field)
        theirs = torch.tensor(np.asarray(field(0.0, diffrax_peer.to_jax(task.y0), parameters)))
        torch.testing.assert_close(theirs, task.field(torch.zeros(()), task.y0), rtol=1e-4, atol=1e-5)


def test_a_contender_that_cannot_run_says_why():
    def make(task):
        raise ValueError("It needs a frobnicator. Buy one.")

    with pytest.raises(Unavailable, match="^It needs a frobnicator$"):
        ready(Contender("somebody", make), default_task(2, 4, 2))
    point = Point("a task", "somebody", reason="It needs a frobnicator")
    assert "not available: It needs a frobnicator" in str(point)


def test_allocations_see_what_is_kept_and_what_was_needed():
    x = torch.ones(1000, requires_grad=True)

    def forward():
        return (x * 2.0).exp().sum()  # exp keeps its result, 4000 bytes; the product is freed

    kept, peak = allocations(forward, lambda loss: loss.backward())
    assert 4000 <= kept < 5000
    assert 8000 <= peak < 14000


def test_checkpoints_keep_less_than_a_tape():
    task = default_task(2, 16, 8)
    kept = {}
    for mode in ("backprop", "checkpointed"):
        trial = OurTrial(task, {"gradient": mode})
        trial.work()
        kept[mode] = trial.memory()[0]
    plain = TorchTrial(task, lambda: task.ours("backprop")).memory()[0]
    assert kept["checkpointed"] < 0.5 * kept["backprop"]
    assert plain == pytest.approx(kept["backprop"], rel=0.05)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_oscillators_are_solved_to_their_reference(clock):
    task = Ensemble(2.0, 4.0, 3, outputs=True)
    solve = pathline_solve(task, clock=clock, compiled=False)
    solve.work()
    truth = reference(task.mu, task.y0(), task.t())
    assert float((solve.rows() - truth).abs().max()) < 5e-3
    assert solve.calls() > 20


def test_the_profile_is_the_whole_step():
    spent = parts(default_task(2, 8, 4), {})
    assert set(spent) == set(PARTS) - {"guards", "graphs", "graphs, backward"}
    assert all(taken > 0.0 for taken in spent.values())


# --- the record, as the pages read it -------------------------------------------------------------------------------


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """The modules that draw figures and tables, reading a record of their own."""
    monkeypatch.syspath_prepend(str(Path(command.__file__).parents[1] / "docs" / "_ext"))
    found = [importlib.import_module(name) for name in ("charts", "registries")]
    for module in found:
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "RESULT", tmp_path / "benchmarks.json")
    yield found
    for name in ("charts", "registries"):
        sys.modules.pop(name)


def recorded_points():
    """One of each kind."""
    notes = {"evaluations": (20, 19), "gradient error": 1e-7, "kept": 1500, "peak": 90000}
    bare = Point("2-64-32", "pathline compiled adjoint", reason="not yet")
    yield "training", [Point("2-64-32", "pathline backprop", 4.0, (3.0, 5.0), notes), bare]
    ends = [(n, end) for n in (1, 256) for end in ("200 outputs", "no outputs")]
    yield "ensembles", [Point(f"mu=2, batch {n}, {end}", "diffrax vmapped", float(n)) for n, end in ends]
    yield (
        "lotka_volterra",
        [Point("at 1e-3", "pathline dopri5", 4.0, notes={"evaluations": 20, "error": 1e-3, "tol": 1e-3})],
    )
    axes = ("dim", "batch", "steps", "outputs")
    yield "growth", [Point(f"{a} {v}", "torchdiffeq", 1.0, notes={"axis": a, "value": v}) for a in axes for v in (1, 9)]


def test_pages_read_what_the_command_writes(pages):
    charts, registries = pages
    drawn = {
        "training": lambda: charts.training_times(["2-64-32", "2-64-256"]),
        "ensembles": charts.ensembles,
        "lotka_volterra": lambda: charts.speed_precision("dopri5"),
        "growth": charts.growth,
    }
    for draw in drawn.values():
        figure = draw()
        assert "No run is on record yet" in figure.texts[0].get_text()
        assert not figure.axes[0].axison
    rows = [
        Row("met", 3.0, 2.5, "x", 2.0),
        Row("missed", 3.0, 1.0, "x", 2.0),
        Row("none", None, None, "x", reason="why"),
    ]
    for name, points in recorded_points():
        command.write(name, [*points, *rows], threads=1)
        figure = drawn[name]()
        assert sum(len(axes.lines) + len(axes.patches) for axes in figure.axes) > 0
        charts.plt.close(figure)
    charts.plt.close("all")
    sections = registries.json.loads((registries.RESULTS / "benchmarks.json").read_text())["sections"]
    _, body = registries.benchmark_table(sections["growth"]["rows"])
    assert [cells[-1] for cells in body] == ["kept", "missed by 50%", "not available: why"]
    _, body = registries.contender_table(sections["training"]["points"])
    assert body[0] == ["pathline backprop", "4", "20 + 19", "1.0e-07", "1.5", "90"]
    assert body[1][1:] == ["–"] * 5
    command.write("growth", rows, threads=2)
    assert "growth, all threads" in registries.json.loads(command.RESULT.read_text())["sections"]


def test_the_profile_becomes_a_table(pages):
    found = {"evaluations": 20, "loop": 10.0, "field": 30.0, "together": 50.0, "floor": 40.0}
    head, body = pages[1].profile_table({"eager": found})
    assert head == ["part", "eager, µs", "of the whole"]
    assert body[0] == ["loop", "10", "20%"]
    assert [cells[1] for cells in body[-2:]] == ["50", "40"]
