"""`solve` inside somebody's own ``torch.compile``: fixed steps are traced with the rest, adaptive ones one opaque call.

Traced naively, an adaptive loop breaks the graph at every step and is slower than plain. This module is imported while
TorchDynamo traces, and its functions are what Dynamo sees.
"""

from __future__ import annotations

import logging
import math
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pathline.gradients.backprop import Backprop
from pathline.solution import Solution
from pathline.solvers import METHODS
from pathline.solvers.base import combine
from pathline.solvers.runge_kutta import RungeKutta
from pathline.stats import Stats
from pathline.status import Status
from pathline.terms import ODE

log = logging.getLogger("pathline.compile")

#: What a traced solve knows; everything else asks for the opaque call.
_PLAIN = {
    "rtol": None, "atol": None, "controller": None, "save": None, "clock": "shared", "batch_first": False,
    "check_rows": False, "integrals": None, "max_steps": None, "progress": None, "hooks": None,
}  # fmt: skip


def solve_inside(solve: Callable[..., Solution], f: Any, y0: Any, t: Any, options: dict[str, Any]) -> Solution:
    """Trace the steps where that can be done, else call ``solve`` behind the tracer's back."""
    method = options["method"]
    solver: Any = METHODS.get(method) if isinstance(method, str) else method
    if _traceable(solver, f, y0, t, options):
        return _fixed(solver, f, y0, t, options["dt"], options["args"])
    return _opaque(solve, f, y0, t, options)


def _traceable(solver: Any, f: Any, y0: Any, t: Any, options: dict[str, Any]) -> bool:
    if type(solver) is not RungeKutta or solver.adaptive or not isinstance(y0, Tensor) or len(options["events"]):
        return False
    if options["gradient"] != "backprop" and not isinstance(options["gradient"], Backprop):
        return False
    if not isinstance(f, nn.Module | ODE | types.FunctionType):
        return False
    if not all(options[name] == plain for name, plain in _PLAIN.items()):
        return False
    if isinstance(t, Tensor):
        return options["dt"] is None and t.dim() == 1
    return options["dt"] is not None and len(t) == 2 and t[0] != t[1]


def _fixed(solver: RungeKutta, f: Any, y: Tensor, t: Any, dt: float | None, args: Any) -> Solution:
    """Fixed steps from row to row."""
    term = (
        _Given(f, f.__code__.co_argcount) if isinstance(f, types.FunctionType) else f if isinstance(f, ODE) else ODE(f)
    )
    if isinstance(t, Tensor):
        times = t.double().unbind()
        ts = t.to(_real(y))
    else:
        assert dt is not None
        count = max(1, math.ceil(abs(t[1] - t[0]) / dt * (1 - 1e-12)))
        times = [t[0] + (t[1] - t[0]) * i / count for i in range(count + 1)]
        ts = torch.tensor([t[0], t[1]], dtype=_real(y), device=y.device)
    rows, steps = [y], len(times) - 1
    for k in range(steps):
        y = _step(solver, term, times[k], times[k + 1], y, args)
        if isinstance(t, Tensor) or k == steps - 1:
            rows.append(y)
    stats = Stats(steps=steps, accepted=steps, evaluations=steps * solver.stages)
    valid = torch.ones(len(rows), dtype=torch.bool, device=y.device)
    return Solution(ts, torch.stack(rows), y, ts[-1], valid, Status.SUCCESS, stats)


class _Given:
    """A function as a term; its signature is read off its code, since Dynamo follows no `inspect`."""

    def __init__(self, f: Callable[..., Tensor], takes: int) -> None:
        self.f, self.takes = f, takes

    def rate(self, t: Tensor, y: Tensor, args: Any) -> Tensor:
        """dy/dt."""
        return self.f(y) if self.takes == 1 else self.f(t, y) if self.takes == 2 else self.f(t, y, args)


def _step(solver: RungeKutta, term: Any, t0: Any, t1: Any, y: Tensor, args: Any) -> Tensor:
    dt = t1 - t0
    ks = [term.rate(_time(t0, y), y, args)]
    for c, row in zip(solver._fractions, solver._stage_weights, strict=True):
        ks.append(term.rate(_time(t1 if c == 1.0 else t0 + c * dt, y), combine(y, dt, row, ks), args))
    return combine(y, dt, solver._weights, ks)


def _real(y: Tensor) -> torch.dtype:
    return torch.float64 if y.dtype in (torch.float64, torch.complex128) else torch.float32


def _time(t: Any, y: Tensor) -> Tensor:
    return t.to(_real(y)) if isinstance(t, Tensor) else torch.full((), t, dtype=_real(y), device=y.device)


_SAID: set[str] = set()


@torch.compiler.disable(reason="an adaptive solve chooses its steps by values")  # pyright: ignore[reportCallIssue]
def _opaque(solve: Callable[..., Solution], f: Any, y0: Any, t: Any, options: dict[str, Any]) -> Solution:
    if "adaptive" not in _SAID:
        _SAID.add("adaptive")
        log.warning(
            "solve(method=%r) inside torch.compile runs as one plain call: its steps depend on values. For compiled "
            'steps pass solve(..., compile=True); for one graph use a fixed-step method such as "rk4" with `dt`.',
            options["method"],
        )
    return solve(f, y0, t, **options)
