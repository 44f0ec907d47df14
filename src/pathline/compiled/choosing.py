"""Whether a solve can be compiled, and how."""

from __future__ import annotations

import difflib
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pathline._forward import forward_mode
from pathline.compiled.gradient import Whole
from pathline.compiled.kernels import known_options
from pathline.compiled.rows import CompiledRows
from pathline.compiled.solver import Compiled
from pathline.controllers import PID
from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Gradient
from pathline.gradients.checkpointed import Checkpointed
from pathline.gradients.inputs import transforming
from pathline.loop import Problem
from pathline.solvers.runge_kutta import RungeKutta
from pathline.tolerance import Tolerance


def compiled(
    problem: Problem, gradient: Gradient, options: bool | Mapping[str, Any], *, watched: bool
) -> tuple[Problem, Gradient]:
    """The solve with compiled steps and its gradient, or as they are where they cannot be compiled.

    Args:
        problem: the solve.
        gradient: how it is differentiated.
        options: True, or options of Inductor.
        watched: events look into every step.

    Raises:
        TypeError: ``options`` is neither.
    """
    if not isinstance(options, bool | Mapping):
        raise TypeError(
            "`compile` is True, False, or a mapping of options for Inductor such as "
            f'{{"max_autotune": True}}; it is {options!r}.'
        )
    _check_options(options)
    if transforming() or forward_mode() or 0 in problem.term.empty().shape[1:]:
        return problem, gradient
    if options is False or os.environ.get("PATHLINE_COMPILE") == "0":
        return problem, gradient
    solver = problem.solver
    if type(solver) is not RungeKutta:
        _said_once(f'"{solver.name}" is not an explicit Runge-Kutta method')
        return problem, gradient
    if problem.term.empty().is_complex():
        _said_once("Inductor has no kernels for complex numbers")
        return problem, gradient
    config = problem.controller if isinstance(problem.controller, PID) else None
    ordinary = config is not None and config.norm is None and type(problem.term.tolerance) is Tolerance
    error = "ratio" if ordinary else "estimate" if config is not None else ""
    keeps_all = type(gradient) is Checkpointed and gradient == Checkpointed()
    common: dict[str, Any] = {
        "rows": not problem.save.steps,
        "dense": problem.save.dense or watched,
        "error": error,
        "recompute": not isinstance(gradient, Backprop),
        "options": {} if options is True else dict(options),
    }
    if problem.per_sample:
        if problem.times.numel():
            jumps = config is not None and config.jumps is not None
            tolerance = problem.term.tolerance
            steps = CompiledRows(solver, problem.times, tolerance=tolerance, bounded=jumps, **common)
            problem = replace(problem, solver=steps)
        return problem, gradient
    size = math.prod(problem.term.empty().shape[1:])
    trial = config is not None and config.first_step is None
    steps = Compiled(solver, problem.times, size=size, trial=trial, **common)
    problem = replace(problem, solver=steps)
    return problem, Whole(gradient) if keeps_all or isinstance(gradient, Backprop) else gradient


def _check_options(options: Any) -> None:
    """A misspelt option would pass for a field that cannot be compiled."""
    if isinstance(options, bool) or not options:
        return
    known = known_options()
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f' Did you mean "{near[0]}"?' if near else " torch._inductor.list_options() names them all."
            raise ValueError(f"`compile` holds {name!r}, which is no option of Inductor.{hint}")


_SAID: set[str] = set()


def _said_once(reason: str) -> None:
    if reason not in _SAID:
        _SAID.add(reason)
        warnings.warn(f"`compile=True`: {reason}, and its steps run as they are.", RuntimeWarning, stacklevel=4)
