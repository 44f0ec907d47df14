"""Python blocks of Markdown pages: what a reader would paste has to run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.architecture.tree import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def python_blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def run_page(page: Path) -> dict[str, object]:
    """Runs the blocks of a page from top to bottom in one namespace, as a reader would in one session."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(python_blocks(page), start=1):
        exec(compile(block, f"{page.relative_to(ROOT)}, block {number}", "exec"), namespace)
    return namespace
