"""What can be drawn: a solution, or a model with a start and times."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def curve(source: Any, y0: Tensor | None, t: Tensor | None, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Times ``(n,)`` and states ``(n, ...)`` of a solution (on a fine grid where it is dense) or of a model."""
    if hasattr(source, "ys") and hasattr(source, "ts"):
        times, states = _of_solution(source, t, points)
    elif callable(source):
        times, states = _of_model(source, y0, t)
    else:
        raise TypeError(
            f"A Solution or a model is drawn, but {type(source).__name__} came. "
            "For bare tensors use axes.plot(t, y) of matplotlib."
        )
    if not isinstance(states, Tensor):
        raise TypeError(
            "The state is not one tensor; draw one of its parts, as in axes.plot(solution.ts, solution.ys['q'])."
        )
    return array(times), array(states)


def _of_solution(solution: Any, t: Tensor | None, points: int) -> tuple[Tensor, Any]:
    dense = getattr(solution, "curve", None) is not None
    if t is None and not dense:
        return solution.ts, solution.ys
    if t is None:
        first, last = float(solution.ts[0]), float(solution.ts[-1])
        t = torch.linspace(first, last, points, dtype=solution.ts.dtype, device=solution.ts.device)
    with torch.no_grad():
        return t, solution(t)


def _of_model(model: Any, y0: Tensor | None, t: Tensor | None) -> tuple[Tensor, Any]:
    if y0 is None or t is None:
        raise ValueError(
            "A model is drawn from a start and at times: pass `y0` and `t`, for instance t=torch.linspace(0, 1, 100)."
        )
    with torch.no_grad():
        return t, model(y0, t)


def array(tensor: Any) -> np.ndarray:
    """A tensor as numbers that matplotlib can draw."""
    return torch.as_tensor(tensor).detach().cpu().double().numpy()
