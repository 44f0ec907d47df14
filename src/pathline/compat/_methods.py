"""The original's methods and options, as this library's solvers and controllers."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pathline.compat._errors import require
from pathline.compat._grids import Chords, Perturbed, Steps
from pathline.controllers import PID, Controller
from pathline.solvers import METHODS
from pathline.solvers.adams import Adams
from pathline.solvers.scipy import Scipy
from pathline.tolerance import Tolerance

ADAPTIVE = ("dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun")
ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")
IMPLICIT = (
    "implicit_euler",
    "implicit_midpoint",
    "trapezoid",
    "radauIIA3",
    "gl4",
    "radauIIA5",
    "gl6",
    "sdirk2",
    "trbdf2",
)
#: Where the names differ: the original's `rk4` is the 3/8 rule.
OURS = {"heun2": "heun", "rk4": "rk4_38"}
NAMES = (*ADAPTIVE, "euler", "midpoint", "heun2", "heun3", "rk4", *ADAMS, *IMPLICIT, "scipy_solver")

_STEPS = ("first_step", "min_step", "max_step", "max_num_steps", "step_t", "jump_t")
_ADAPTIVE_OPTIONS = frozenset((*_STEPS, "safety", "ifactor", "dfactor", "dtype", "norm"))
_GRID_OPTIONS = frozenset(("step_size", "grid_constructor", "interp", "perturb", "norm"))
_OPTIONS = (
    dict.fromkeys(ADAPTIVE, _ADAPTIVE_OPTIONS)
    | dict.fromkeys(("euler", "midpoint", "heun2", "heun3", "rk4"), _GRID_OPTIONS)
    | dict.fromkeys(ADAMS, _GRID_OPTIONS | {"max_order", "max_iters"})
    | dict.fromkeys(IMPLICIT, _GRID_OPTIONS | {"max_iters"})
    | {"scipy_solver": frozenset(("solver", "min_step", "max_step", "norm"))}
)
_STEP = ("callback_step",)
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")
#: The original steps without end where nobody says otherwise.
ENDLESS = 2**31 - 1


@dataclass(frozen=True)
class Plan:
    """How to solve: what `method` and `options` ask for.

    Attributes:
        name: the original's name of the method.
        solver: ours.
        controller: of the steps.
        max_steps: between two requested times; None is unlimited.
        measures: whether it has a use for tolerances.
        callbacks: the names of those it calls.
    """

    name: str
    solver: Any
    controller: Controller
    max_steps: int | None
    measures: bool
    callbacks: tuple[str, ...]


def plan(
    method: str | None,
    options: dict[str, Any],
    rtol: Any,
    atol: Any,
    norm: Callable[[Any], Any] | None,
    like: torch.dtype,
    rate: Callable[[Any, Tensor], Tensor] | None = None,
    *,
    inner: bool = True,
) -> Plan:
    """The plan of a solve.

    Args:
        method: the original's name; None is its default.
        options: the original's.
        rtol: relative tolerance.
        atol: absolute tolerance.
        norm: of the scaled error; None is the root mean square.
        like: the dtype of the requested times.
        rate: the field on flat states, for a constructor of grids.
        inner: whether values are wanted between the points of a grid.

    Raises:
        ValueError: no method has this name, or options exclude each other.
    """
    name = "dopri5" if method is None else method
    if name not in _OPTIONS:
        listed = '", "'.join(NAMES)
        raise ValueError(f'Invalid method "{name}". Must be one of {{"{listed}"}}.')
    unknown = {key: value for key, value in options.items() if key not in _OPTIONS[name]}
    if unknown:
        warnings.warn(f"{name}: Unexpected arguments {unknown}", stacklevel=4)
    if name in ADAPTIVE:
        steps = options.get("max_num_steps")
        limit = None if steps is None or int(steps) >= ENDLESS else int(steps)
        return Plan(name, METHODS[name], _pid(options, norm), limit, True, CALLBACKS)
    if name == "scipy_solver":
        return Plan(name, _scipy(options), Steps(ends=True), None, True, ())
    solver = _fixed(name, options, rtol, atol)
    on_grid = _on_grid(solver, options, Steps(like=like, rate=rate), inner=inner)
    return Plan(name, *on_grid, None, name in ADAMS, _STEP)


def _pid(options: dict[str, Any], norm: Callable[[Any], Any] | None) -> PID:
    step_t, jump_t = (_sorted(options.get(name)) for name in ("step_t", "jump_t"))
    stops = [*(step_t or ()), *(jump_t or ())]
    if len(set(stops)) < len(stops):
        raise ValueError("`step_t` and `jump_t` must not have any repeated elements between them.")
    low, high, first = (float(options.get(key) or 0.0) for key in ("min_step", "max_step", "first_step"))
    return PID(
        first_step=first or None,
        min_step=low or None,
        max_step=high if 0.0 < high < math.inf else None,
        force_min_step=low > 0.0,
        norm=norm,
        must_hit=step_t,
        jumps=jump_t,
        safety=float(options.get("safety", 0.9)),
        # The original takes factors of one, which forbid any change.
        shrink=min(float(options.get("dfactor", 0.2)), 0.9),
        grow=max(float(options.get("ifactor", 10.0)), 1.0 + 1e-9),
    )


def _sorted(times: Any) -> list[float] | None:
    return None if times is None else sorted(torch.as_tensor(times).detach().double().reshape(-1).tolist())


def _fixed(name: str, options: dict[str, Any], rtol: Any, atol: Any) -> Any:
    if name in ADAMS:
        return _adams(name, options, rtol, atol)
    solver = METHODS[OURS.get(name, name)]
    if "max_iters" in options and name in IMPLICIT:
        return _with_iterations(solver, int(options["max_iters"]))
    return solver


def _adams(name: str, options: dict[str, Any], rtol: Any, atol: Any) -> Adams:
    order = int(options.get("max_order", 12))
    require(order <= 12, "max_order must be at most 12")
    if order < 4:
        warnings.warn("max_order is below 4, so the solver reduces to `rk4`.", stacklevel=6)
        return METHODS["rk4_38"]
    return Adams(
        implicit=name != "explicit_adams",
        max_order=order,
        max_iters=int(options.get("max_iters", 4)),
        tolerance=Tolerance(rtol, atol),
        start="rk4_38",
        name=name,
    )


def _with_iterations(solver: Any, iterations: int) -> Any:
    other = copy.copy(solver)
    other.newton = replace(solver.newton, iterations=iterations)
    return other


def _scipy(options: dict[str, Any]) -> Any:
    limits = {key: float(options[key]) for key in ("min_step", "max_step") if key in options}
    return Scipy(options.get("solver", "LSODA"), **limits)


def _on_grid(solver: Any, options: dict[str, Any], steps: Steps, *, inner: bool) -> tuple[Any, Steps]:
    length, grid = options.get("step_size"), options.get("grid_constructor")
    interp, perturb = options.get("interp", "linear"), bool(options.get("perturb", False))
    if length is not None and grid is not None:
        raise ValueError("step_size and grid_constructor are mutually exclusive arguments.")
    if interp not in ("linear", "cubic"):
        raise ValueError(f"Unknown interpolation method {interp}")
    if perturb:
        solver = Perturbed(solver)
    if inner and interp == "linear" and not (length is None and grid is None):
        solver = Chords(solver)
    return solver, replace(steps, length=None if length is None else float(length), grid=grid)
