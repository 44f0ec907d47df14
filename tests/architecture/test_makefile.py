"""The two commands of the README, as far as they can be seen without running them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")

TARGETS = ["demo", "test", "lint", "types", "docs", "bench", "reproduce", "clean"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_help_lists_every_target():
    listed = re.findall(r"^  make (\w+)", make().stdout, re.MULTILINE)
    assert set(TARGETS) <= set(listed)


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "clean"])
def test_a_target_builds_the_environment_when_it_is_missing(target: str, tmp_path: Path):
    planned = make("-n", f"VENV={tmp_path}/venv", target)
    assert planned.returncode == 0, planned.stderr
    assert "-c constraints/tested.txt" in planned.stdout


def test_an_environment_that_is_ready_is_reused(tmp_path: Path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    (venv / ".ready").touch()
    planned = make("-n", f"VENV={venv}", "test")
    assert planned.returncode == 0, planned.stderr
    assert "pip install" not in planned.stdout
    assert "pytest" in planned.stdout


def fake_python(path: Path, answers: dict[str, int]) -> Path:
    """A `python` that ends with the given code when the program it is asked to run holds one of the words."""
    cases = "\n".join(f'*"{word}"*) exit {code} ;;' for word, code in answers.items())
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}\n*) exit 0 ;;\nesac\n')
    path.chmod(0o755)
    return path


def test_a_python_without_venv_is_told_the_line_that_installs_it(tmp_path: Path):
    python = fake_python(tmp_path / "python", {"ensurepip": 1, "virtualenv": 1})
    result = make(f"VENV={tmp_path}/venv", f"PYTHON={python}", f"{tmp_path}/venv/bin/python")
    assert result.returncode != 0
    assert "sudo apt-get install python3-venv" in result.stderr


def test_virtualenv_stands_in_for_venv(tmp_path: Path):
    python = fake_python(tmp_path / "python", {"ensurepip": 1, "-m venv": 1})
    result = make(f"VENV={tmp_path}/venv", f"PYTHON={python}", f"{tmp_path}/venv/bin/python")
    assert result.returncode == 0, result.stderr


def test_an_old_python_is_named(tmp_path: Path):
    python = fake_python(tmp_path / "python", {"version_info": 1})
    result = make(f"VENV={tmp_path}/venv", f"PYTHON={python}", f"{tmp_path}/venv/bin/python")
    assert result.returncode != 0
    assert "3.11" in result.stderr
