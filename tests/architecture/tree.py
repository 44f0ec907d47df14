"""Where things are in the repository, for the tests that read it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "pathline"


def committed_files() -> list[Path]:
    """The files of the repository, with those about to be added and without those that git ignores."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def experiment_names() -> list[str]:
    return sorted(path.parent.name for path in (PACKAGE / "experiments").glob("*/config.py"))
