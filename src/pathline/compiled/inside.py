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

from pathline._structure import real_dtype
from pathline.gradients.backprop import Backprop
from pathline.solution import Solution
from pathline.solvers import METHODS
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
    if hasattr(f.f if isinstance(f, ODE) else f, "own_events"):
        return False
    if not all(options[name] == plain for name, plain in _PLAIN.items()):
        return False
    if isinstance(t, Tensor):
        return options["dt"] is None and t.dim() == 1
    return options["dt"] is not None and len(t) == 2 and t[0] != t[1]


def _fixed(solver: RungeKutta, f: Any, y: Tensor, t: Any, dt: float | None, args: Any) -> Solution:
    """Fixed steps from row to row."""
    term: Any = _Traced(f)
    dtype = real_dtype(y.dtype)
    if isinstance(t, Tensor):
        times = t.double().unbind()
        ts = t.to(dtype)
    else:
        assert dt is not None
        count = max(1, math.ceil(abs(t[1] - t[0]) / dt * (1 - 1e-12)))
        times = [t[0] + (t[1] - t[0]) * i / count for i in range(count + 1)]
        ts = torch.tensor([t[0], t[1]], dtype=dtype, device=y.device)
    rows, steps = [y], len(times) - 1
    for k in range(steps):
        y = solver.step(term, times[k], times[k + 1], y, args, None).y1
        if isinstance(t, Tensor) or k == steps - 1:
            rows.append(y)
    stats = Stats(steps=steps, accepted=steps, evaluations=steps * solver.stages)
    valid = torch.ones(len(rows), dtype=torch.bool, device=y.device)
    return Solution(ts, torch.stack(rows), y, ts[-1], valid, Status.SUCCESS, stats)


class _Traced:
    """What a step sees of the field. A function's signature is read off its code, since Dynamo follows no `inspect`."""

    def __init__(self, f: Any) -> None:
        self.f = f
        self.takes = f.__code__.co_argcount if isinstance(f, types.FunctionType) else 0
        self.term = None if self.takes else f if isinstance(f, ODE) else ODE(f)

    def rate(self, t: Any, y: Tensor, args: Any) -> Tensor:
        """dy/dt."""
        dtype = real_dtype(y.dtype)
        t = t.to(dtype) if isinstance(t, Tensor) else torch.full((), t, dtype=dtype, device=y.device)
        if self.term is not None:
            dy = self.term.rate(t, y, args)
        else:
            dy = self.f(y) if self.takes == 1 else self.f(t, y) if self.takes == 2 else self.f(t, y, args)
        if dy.shape != y.shape:
            raise ValueError(
                f"`f` returned shape {tuple(dy.shape)} for a state of shape {tuple(y.shape)}. "
                "A field returns dy in the shape of y."
            )
        return dy


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
