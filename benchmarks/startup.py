"""How long until the first line of a program, and of the command's help."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import Row
from benchmarks.timing import seconds

IMPORT = """
import time, torch
start = time.perf_counter()
import pathline
pathline.solve, pathline.Solution, pathline.METHODS
print(time.perf_counter() - start)
"""


def startup(*, quick: bool) -> Iterator[Row]:
    """Fresh processes: `import pathline` after torch, and `pathline --help`."""
    repeats = 3 if quick else 9
    _import_seconds()  # leaves the bytecode
    yield _row("import pathline, after import torch", [_import_seconds() for _ in range(repeats)], 0.2)
    command = Path(sys.executable).with_name("pathline")
    if not command.exists():
        print("pathline --help: skipped, the command isn't installed")
        return
    helps = [
        seconds(lambda: subprocess.run([command, "--help"], check=True, capture_output=True, env=_compiled()))
        for _ in range(repeats)
    ]
    yield _row("pathline --help", helps, 0.5)


def _row(name: str, times: list[float], bar: float) -> Row:
    middle = statistics.median(times)
    return Row(name, middle, middle, "s", bar, at_least=False, notes={"fastest": min(times), "slowest": max(times)})


def _import_seconds() -> float:
    process = subprocess.run(
        [sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True, env=_compiled()
    )
    return float(process.stdout)


def _compiled() -> dict[str, str]:
    """The environment, with bytecode kept between the processes as an installed package has it."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
