"""Docstrings write formulas and code as the pages do, `$...$` and single backticks; Sphinx wants reStructuredText."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

BLOCK = re.compile(r"^( *)\$\$(.+?)\$\$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<![`:\w])`([^`]+)`(?![`_\w])")
INLINE = re.compile(r"(?<![`$\w])\$([^$`]+?)\$(?![`$\w])")


def as_literal(match: re.Match[str]) -> str:
    # Napoleon reads line by line, and would see half a literal in each of two lines.
    return f"``{' '.join(match[1].split())}``"


def as_directive(match: re.Match[str]) -> str:
    indent, formula = match.groups()
    lines = "\n".join(f"{indent}   {line.strip()}" for line in formula.strip().splitlines())
    return f"{indent}.. math::\n\n{lines}\n"


def rewrite(text: str) -> str:
    return INLINE.sub(r":math:`\1`", BLOCK.sub(as_directive, CODE.sub(as_literal, text)))


def on_docstring(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    lines[:] = rewrite("\n".join(lines)).split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", on_docstring, priority=400)  # before napoleon, at 500
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
