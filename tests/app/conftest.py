"""The command, in this process or in one of its own, with the sample experiments and an empty folder to run in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = "tests.app.sample_experiments"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATHLINE_EXPERIMENTS", SAMPLES)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def pathline(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command in this process."""
    from pathline.cli import main

    def call(*words: Any) -> Outcome:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # tyro ends the process for a value that it cannot read
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def subprocess_environment() -> dict[str, str]:
    further = os.pathsep.join(filter(None, [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        "PYTHONPATH": further,
        "PATHLINE_EXPERIMENTS": SAMPLES,
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }


def start(*words: Any, cwd: Path, module: tuple[str, ...] = ("-m", "pathline.cli")) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", *module, *map(str, words)],
        cwd=cwd, env=subprocess_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
