"""L-BFGS iterations for the end of a fit, where the loss is smooth and the batch is full."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pathline.status import SolveError
from pathline.train.failures import NonFiniteLoss, check_finite

__all__ = ["NoProgress", "lbfgs_iteration", "make_lbfgs"]


class NoProgress(RuntimeError):
    """The line search found no better point: the fit has converged, as far as its precision goes."""


def make_lbfgs(model: nn.Module) -> torch.optim.LBFGS:
    """One iteration a call, with a strong Wolfe line search of at most 25 evaluations.

    References:
        Nocedal, Wright (2006), Numerical Optimization, algorithms 3.5 and 7.5.
    """
    return torch.optim.LBFGS(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=1.0, max_iter=1, max_eval=26, tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip


def lbfgs_iteration(
    fabric: Fabric, entry: Any, optimizer: torch.optim.LBFGS
) -> tuple[float, dict[str, float], Exception | None]:
    """One iteration; where the line search meets a failing solve the parameters return to where they were.

    Returns:
        The loss before the iteration, the numbers that the loss returned with it, and the error, if any.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    first: list[tuple[float, dict[str, float]]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = entry(None)
        first.append((check_finite(value), dict(entry.module.extra)))
        fabric.backward(value)
        return value.detach()

    try:
        optimizer.step(closure)  # pyright: ignore[reportArgumentType] - torch annotates floats, and calls .item() itself
        if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
            raise NonFiniteLoss("The line search of L-BFGS produced parameters that are not finite.")
    except (SolveError, NonFiniteLoss) as error:
        with torch.no_grad():
            for parameter, kept in zip(parameters, before, strict=True):
                parameter.copy_(kept)
        return math.nan, {}, error
    moved = any(not torch.equal(parameter, kept) for parameter, kept in zip(parameters, before, strict=True))
    value, extra = first[0]
    return value, extra, None if moved else NoProgress("The line search found no better point.")
