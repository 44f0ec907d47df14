"""The README and the pages of the documentation say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pathline
from tests.architecture.markdown import python_blocks, run_page
from tests.architecture.tree import PACKAGE, ROOT, experiment_names

README = ROOT / "README.md"
# design.md quotes the lines of a protocol, which are no program.
PAGES = [
    page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts and page.name != "design.md"
]
READMES = [README, *sorted((PACKAGE / "experiments").glob("*/README.md"))]


def lines_of_code(block: str) -> int:
    return sum(bool(line.strip()) for line in block.splitlines())


def test_the_examples_are_as_short_as_they_are_said_to_be():
    solve, training = python_blocks(README)[:2]
    assert lines_of_code(solve) <= 12
    assert lines_of_code(training) <= 15


@pytest.mark.timeout(300)  # a page may compile, with nothing in the compiler's cache
@pytest.mark.parametrize(
    "page", [page for page in [*READMES, *PAGES] if python_blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run_page(page)


@pytest.mark.parametrize("page", READMES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_readme_links_to_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)\)|(?:src|href)=\"([^\"#]+)\"", text)
    local = [a or b for a, b in targets if not re.match(r"[a-z]+:", a or b)]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


def test_the_make_targets_of_the_readme_exist():
    named = set(re.findall(r"\bmake ([a-z]+)", README.read_text()))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_every_public_name_is_in_the_reference():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    # The terms are listed whole, by their room.
    missing = [name for name in pathline.__all__ if not re.search(rf"\b{name}\b", text) and name not in {"ODE", "Term"}]
    assert not missing


def test_every_experiment_has_a_page():
    assert {page.stem for page in (ROOT / "docs" / "systems").glob("*.md")} == {"index", *experiment_names()}
