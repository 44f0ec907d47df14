"""What every experiment folder holds, so that the command, the docs and the tests can discover it."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from tests.architecture.tree import PACKAGE, experiment_names

NAMES = experiment_names()


@pytest.fixture(params=NAMES)
def config(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"pathline.experiments.{request.param}.config")


def test_there_are_experiments():
    assert {"regression", "hare_lynx"} <= set(NAMES)


def test_a_folder_of_an_experiment_is_complete():
    folders = [path for path in (PACKAGE / "experiments").iterdir() if path.is_dir() and path.name != "__pycache__"]
    for folder in folders:
        assert {"__init__.py", "config.py", "README.md"} <= {path.name for path in folder.iterdir()}, folder.name


def test_the_config_is_a_frozen_dataclass_with_a_help_text_for_each_field(config: ModuleType):
    assert dataclasses.is_dataclass(config.Config)
    assert config.Config.__dataclass_params__.frozen
    fields = {field.name for field in dataclasses.fields(config.Config)}
    source = Path(config.__file__ or "").read_text(encoding="utf-8")
    (body,) = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Config"]
    lines = source.splitlines()
    helped = set()
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            docstring = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            comment = "#" in lines[node.end_lineno - 1] or lines[node.lineno - 2].strip().startswith("#")
            if docstring or comment:
                helped.add(node.target.id)
    assert fields == helped


def test_the_presets_fit_the_config(config: ModuleType):
    assert "tiny" in config.PRESETS
    for values in config.PRESETS.values():
        config.Config(**values)


def test_what_is_expected_has_a_source(config: ModuleType):
    assert config.EXPECTED
    for expected in config.EXPECTED:
        assert expected.sense in ("<=", ">=")
        assert expected.source.strip()
        assert set(expected.presets) <= {"default", *config.PRESETS}


def test_an_experiment_says_what_it_is_about(config: ModuleType):
    for field in ("title", "summary", "authors", "paper", "tasks"):
        assert getattr(config.ABOUT, field), field


def test_an_experiment_is_a_function_of_its_config_and_the_run():
    for name in NAMES:
        assert callable(importlib.import_module(f"pathline.experiments.{name}").run)
