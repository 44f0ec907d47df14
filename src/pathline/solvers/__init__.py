"""The registry of methods."""

from __future__ import annotations

from typing import Any

from pathline._registry import look_up
from pathline.solvers.adams import ADAMS
from pathline.solvers.auto import Auto
from pathline.solvers.base import Solver, Step
from pathline.solvers.bdf import BDF
from pathline.solvers.collocation import COLLOCATION
from pathline.solvers.dirk import DIRKS
from pathline.solvers.imex import IMEXS
from pathline.solvers.reversible import REVERSIBLE, Reversible
from pathline.solvers.rosenbrock import ROSENBROCK
from pathline.solvers.runge_kutta import RungeKutta
from pathline.solvers.scipy import Scipy
from pathline.solvers.symplectic import SYMPLECTIC
from pathline.tableaus import TABLEAUS

__all__ = ["METHODS", "Reversible", "RungeKutta", "Scipy", "Solver", "Step", "find_solver"]

#: The error estimate of tsit5 swings more than others do: under the classical controller it is rejected twice as often.
GAINS = {"tsit5": (0.2, 0.8, 0.0)}

#: Every method by its name.
METHODS: dict[str, Any] = {
    name: RungeKutta(tableau, GAINS.get(name, (0.0, 1.0, 0.0))) for name, tableau in TABLEAUS.items()
}
METHODS |= DIRKS | COLLOCATION | IMEXS
METHODS |= ROSENBROCK | {"bdf": BDF(), "auto": Auto()} | ADAMS
METHODS |= SYMPLECTIC | REVERSIBLE | {"scipy": Scipy()}


def find_solver(method: str | Solver) -> Solver:
    """The solver for a name of the registry, or the solver itself.

    Raises:
        ValueError: no method has this name.
        TypeError: neither a name nor a solver.
    """
    if isinstance(method, str):
        return look_up("solver", method, METHODS)
    if (
        not isinstance(method, type)
        and callable(getattr(method, "step", None))
        and callable(getattr(method, "init", None))
    ):
        return method
    raise TypeError(f"`method` is a name or a Solver with init() and step(); it is {method!r}.")
