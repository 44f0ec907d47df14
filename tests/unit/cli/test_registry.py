"""Experiments are found, read without torch, and changed by presets."""

from __future__ import annotations

import importlib
import math
import sys

import pytest

from pathline.experiments import Expected, UnknownExperiment, experiments, find, search
from pathline.experiments.reproducing import summarise
from pathline.train.configs import ConfigError

SAMPLES = ("tests.app.sample_experiments",)


def test_the_config_is_the_same_class_as_in_the_package():
    experiment = find("wave", SAMPLES)
    config = experiment.config("tiny")
    package = importlib.import_module(experiment.package)
    module = importlib.import_module(f"{experiment.package}.config")
    assert type(config) is module.Config
    assert callable(package.run)
    assert sys.modules[f"{experiment.package}.config"] is module


def test_hyphens_and_capitals_are_forgiven():
    assert find("Wave", SAMPLES).name == "wave"
    with pytest.raises(UnknownExperiment, match=r'No experiment is called "wvae"\. Did you mean "wave"'):
        find("wvae", SAMPLES)


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(UnknownExperiment, match=r'PATHLINE_EXPERIMENTS names the package "no\.such"'):
        experiments(("no.such",))


def test_presets_and_overrides():
    experiment = find("wave", SAMPLES)
    assert experiment.config().steps == 60
    tiny = experiment.config("tiny", {"net": {"activation": "relu"}})
    assert (tiny.steps, tiny.net.width, tiny.net.activation) == (6, 4, "relu")
    assert experiment.changed(tiny, "tiny") == {"net": {"activation": "relu"}}
    assert experiment.changed(tiny, "default") == {"steps": 6, "net": {"width": 4, "activation": "relu"}}
    with pytest.raises(ValueError, match=r'The experiment wave has no preset "tyni"\. Did you mean "tiny"'):
        experiment.config("tyni")
    with pytest.raises(ConfigError, match="No field of `config` is called 'stps'"):
        experiment.config("tiny", {"stps": 1})


def test_search_needs_every_word():
    assert [item.name for item in search(("doe", "SINE"), SAMPLES)] == ["wave"]
    assert search(("doe", "nothing"), SAMPLES) == []


@pytest.mark.parametrize(
    ("sense", "value", "met"),
    [
        ("<=", 1.0, True),
        ("<=", 1.1, False),
        (">=", 1.0, True),
        (">=", 0.9, False),
        ("<=", math.nan, False),
        (">=", math.nan, False),
    ],
)
def test_bounds(sense: str, value: float, met: bool):
    assert Expected("m", 1.0, sense, "s").met_by(value) is met  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("values", "sense", "met", "worst"),
    [
        ([0.8, 0.9, 1.2], "<=", True, True),
        ([0.1, 0.1, 1.3], "<=", True, False),
        ([1.2, 1.2, 1.2], "<=", False, True),
        ([0.8, 1.5, 1.5], ">=", True, True),
        ([0.7, 2.0, 2.0], ">=", True, False),
        ([math.nan, 0.5, 0.5], "<=", False, False),
    ],
)
def test_a_bound_applies_to_the_mean_and_the_worst_seed_may_miss_by_a_quarter(
    values: list[float], sense: str, met: bool, worst: bool
):
    bound = {"bound": 1.0, "sense": sense, "source": "s", "met": True}
    runs = [
        {"experiment": "x", "title": "X", "preset": "default", "seed": seed, "seconds": 1.0, "status": "finished",
         "missing": [],
         "metrics": [{"name": "m", "value": value, "unit": "", "expected": [bound]}]}
        for seed, value in enumerate(values)
    ]  # fmt: skip
    (judged,) = summarise(runs, {})["metrics"]["m"]["expected"]
    assert (judged["met"], judged["worst_met"]) == (met, worst)
