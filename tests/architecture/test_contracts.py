"""Who may import whom. The contracts themselves stand in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import PACKAGE, ROOT

MODULES = sorted(PACKAGE.rglob("*.py"))


def test_the_import_contracts_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def imports_the_front_page(source: str, depth: int = 1) -> bool:
    """Whether a module reaches for a name of `pathline` itself, other than a room or the version.

    Args:
        source: Text of the module.
        depth: How many packages it lies in: `pathline/loop.py` 1, `pathline/models/residual.py` 2.
    """
    allowed = {path.stem for path in PACKAGE.iterdir()} - {"__init__"} | {"__version__"}
    for node in ast.walk(ast.parse(source)):
        attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pathline"
        if attribute and node.attr not in allowed:
            return True
        if isinstance(node, ast.ImportFrom):
            root = (node.module == "pathline" and node.level == 0) or (node.module is None and node.level == depth)
            if root and not {alias.name for alias in node.names} <= allowed:
                return True
    return False


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_names_the_room_it_calls(path: Path):
    # The package's front page reaches every room, so an import through it would walk around the contracts.
    # Experiments, shipped checks and the command stand above all rooms and may use it, as a reader would.
    parts = path.relative_to(PACKAGE).parts
    if parts[0] not in {"experiments", "cli", "testing"}:
        assert not imports_the_front_page(path.read_text(encoding="utf-8"), depth=len(parts))


@pytest.mark.parametrize(
    ("source", "depth"),
    [
        ("from pathline import solve", 1),
        ("def f():\n    import pathline\n    pathline.solve()", 1),
        ("from . import solve", 1),
        ("from .. import solve", 2),
    ],
)
def test_the_check_sees_an_import_through_the_front_page(source: str, depth: int):
    assert imports_the_front_page(source, depth)


@pytest.mark.parametrize(
    "source",
    ["from pathline import __version__", "import pathline\npathline.__version__", "from pathline.terms import ODE"],
)
def test_the_check_lets_an_honest_import_pass(source: str):
    assert not imports_the_front_page(source)
