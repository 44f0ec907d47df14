"""The shipped conformance suite over the registry."""

from __future__ import annotations

import pytest

import pathline
from pathline.testing import SOLVER_CHECKS

CHECKS = [name for name in SOLVER_CHECKS if name != "orders"]  # orders are taken apart in test_accuracy.py


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("method", sorted(pathline.METHODS))
def test_promise(method, check):
    SOLVER_CHECKS[check](method)
