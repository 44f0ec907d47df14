"""Every experiment runs at its smallest, writes its figures, and keeps the bounds that hold at any size."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from pathline.experiments import find
from pathline.train import Run

NAMES = (
    "augmented",
    "classify",
    "clinic",
    "densities",
    "digits_density",
    "evolving_weights",
    "goku",
    "hare_lynx",
    "images_flow",
    "irregular",
    "regression",
    "spirals",
    "vowels",
)
FIGURES = {
    "augmented": {"spheres"},
    "classify": {"overview", "depth"},
    "clinic": {"patients", "lead"},
    "densities": {"densities", "flows", "race"},
    "digits_density": {"samples", "flow"},
    "evolving_weights": {"kernels"},
    "goku": {"films"},
    "hare_lynx": {"series", "phase"},
    "images_flow": {"sheet", "price", "way"},
    "irregular": {"fans", "steps"},
    "regression": {"fit", "adjoint"},
    "spirals": {"spirals", "rates"},
    "vowels": {"speakers"},
}


def carried_out(name: str, folder: Path, preset: str, seed: int = 0) -> dict:
    experiment = find(name)
    config = experiment.config(preset)
    expected = importlib.import_module(f"pathline.experiments.{name}.config").EXPECTED
    run = Run(name, config, folder=folder, preset=preset, seed=seed, device="cpu", expected=expected, quiet=True)
    experiment(config, run)
    return run.finish()


@pytest.fixture(scope="module", params=NAMES)
def tiny(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, carried_out(request.param, folder, "tiny")


def test_it_writes_numbers_figures_and_a_report(tiny):
    name, folder, results = tiny
    assert results["status"] == "finished"
    assert {path.stem for path in (folder / "figures").glob("*.png")} == FIGURES[name]
    assert (folder / "report.html").stat().st_size > 10_000
    assert json.loads((folder / "metrics.json").read_text())["metrics"] == results["metrics"]


def test_every_bound_of_the_full_run_has_its_metric(tiny):
    name, _, results = tiny
    expected = importlib.import_module(f"pathline.experiments.{name}.config").EXPECTED
    assert {bound.metric for bound in expected} <= {metric["name"] for metric in results["metrics"]}


def test_bounds_that_hold_at_any_size_hold(tiny):
    _, _, results = tiny
    assert not results["missing"]
    missed = [bound for metric in results["metrics"] for bound in metric["expected"] if not bound["met"]]
    assert not missed
