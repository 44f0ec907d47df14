"""The registry of methods."""

from __future__ import annotations

import difflib
from typing import Any

from pathline.solvers.base import Solver, Step
from pathline.solvers.runge_kutta import RungeKutta
from pathline.tableaus import TABLEAUS

__all__ = ["METHODS", "RungeKutta", "Solver", "Step", "find_solver"]

#: Every method by its name.
METHODS: dict[str, Any] = {name: RungeKutta(tableau) for name, tableau in TABLEAUS.items()}


def find_solver(method: str | Solver) -> Solver:
    """The solver for a name of the registry, or the solver itself.

    Raises:
        ValueError: no method has this name.
        TypeError: neither a name nor a solver.
    """
    if isinstance(method, str):
        if method in METHODS:
            return METHODS[method]
        close = difflib.get_close_matches(method, METHODS, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        raise ValueError(f'No solver is called "{method}".{hint} The others: {", ".join(METHODS)}.')
    if callable(getattr(method, "step", None)) and callable(getattr(method, "init", None)):
        return method
    raise TypeError(f"`method` is a name or a Solver with init() and step(); it is {method!r}.")
