"""The examples of the docstrings run, and the public names explain themselves."""

from __future__ import annotations

import doctest
import importlib
from types import ModuleType

import pytest

import pathline
from tests.architecture.tree import PACKAGE

FILES = [path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py") if path.name != "__main__.py"]
MODULES = sorted(".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in FILES)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str):
    module = importlib.import_module(name)
    failures, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failures == 0


def has_own_docstring(value: object) -> bool:
    return bool((getattr(value, "__doc__", None) or "").strip())


@pytest.mark.parametrize("name", pathline.__all__)
def test_a_public_name_has_a_docstring(name: str):
    value = getattr(pathline, name)
    if isinstance(value, str | dict | ModuleType):
        return
    assert has_own_docstring(value)
