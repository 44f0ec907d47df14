"""The step protocol: what every solver promises the loop.

    carry = solver.init(term, t0, y0, args)
    step = solver.step(term, t0, t1, y, args, carry)

Times are floats, or 0-d tensors where the derivative with respect to them is wanted; states are flat tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathline.terms import Bound, Time


class Step(Protocol):
    """What a solver returns: the end of a step, and the solution inside it.

    A step may also have ``retry``, the carry for another, shorter step from the same start.

    Attributes:
        y1: the state at the end of the step.
        error: an estimate of its local error, without gradient; a pair of estimates, the finer first, from a method
            that combines two; None from a fixed-step method.
        carry: what the next step takes over (the slope at the end): a tensor, a tuple of tensors, or None.
        failed: why the step could not be made (a Newton iteration that does not converge), else None; the controller
            then tries a shorter step.
    """

    @property
    def y1(self) -> Tensor: ...
    @property
    def error(self) -> Tensor | tuple[Tensor, Tensor] | None: ...
    @property
    def carry(self) -> Any: ...
    @property
    def failed(self) -> str | None: ...

    def rows(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(len(times), *state)``: dense output at times inside the step."""
        ...

    def coefficients(self) -> Tensor:
        """``(degree + 1, *state)``: dense output in powers of ``theta = (t - t0) / (t1 - t0)``."""
        ...


class Solver(Protocol):
    """A method for one step. Solvers hold no state of a solve: one object serves all solves.

    Attributes:
        name: the name in the registry.
        needs: what the term must offer, "rate" or "contract".
        adaptive: whether a step comes with an error estimate.
        carries_slope: whether ``init`` and the steps hand on the slope at their end.
        order, embedded_order: of the solution and of the error estimate.
    """

    name: str
    needs: str
    adaptive: bool
    carries_slope: bool

    @property
    def order(self) -> int: ...
    @property
    def embedded_order(self) -> int | None: ...

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> Any:
        """What the first step starts with."""
        ...

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Any) -> Step:
        """One step from ``t0`` to ``t1``."""
        ...


Weights = Sequence[tuple[int, float]]


def sparse(weights: Sequence[Any]) -> Weights:
    """The weights that are not zero, with their index."""
    return [(i, float(w)) for i, w in enumerate(weights) if w]


def combine(y: Tensor, dt: Time, weights: Weights, ks: Sequence[Tensor]) -> Tensor:
    """``y + dt * sum(w * k)``: one operation for each weight that is not zero.

    A chain of ``torch.add`` with ``alpha`` is half the cost of stacking the slopes, at the small sizes where overhead
    counts; a tensor ``dt`` carries the derivative with respect to the times.
    """
    if isinstance(dt, Tensor):
        for i, w in weights:
            y = torch.addcmul(y, ks[i], dt.to(ks[i].dtype), value=w)
        return y
    for i, w in weights:
        y = torch.add(y, ks[i], alpha=dt * w)
    return y
