"""The step protocol: what every solver promises the loop.

    carry = solver.init(term, t0, y0, args)
    step = solver.step(term, t0, t1, y, args, carry)

Times are floats, or 0-d tensors where the derivative with respect to them is wanted; on the per-sample clock they are
tensors ``(rows,)``, one for each sample that is still active. States are flat tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._structure import real_dtype

if TYPE_CHECKING:
    from pathline.terms import Bound, Time


class Step(Protocol):
    """What a solver returns: the end of a step, and the solution inside it.

    A step may also have ``retry``, the carry for another, shorter step from the same start; ``exponent``, one over the
    order of its error estimate plus one, where that changes from step to step; and ``factor``, the change of the step
    that the method itself proposes. With one clock a sample, these and ``failed`` are tensors ``(rows,)``. A step that
    failed may have ``lost``: True, or ``(rows,)`` of host booleans, where the field returned numbers not finite.

    Attributes:
        y1: the state at the end of the step.
        error: an estimate of its local error, without gradient; a pair of estimates, the finer first, from a method
            that combines two; None from a fixed-step method.
        carry: what the next step takes over (the slope at the end): a tensor, a structure of tensors, or None. What is
            wrapped as `Memory` is left out where a step is made again.
        failed: why the step could not be made (a Newton iteration that does not converge), else None; the controller
            then tries a shorter step. With one clock a sample, a bool tensor ``(rows,)``.
    """

    @property
    def y1(self) -> Tensor: ...
    @property
    def error(self) -> Tensor | tuple[Tensor, Tensor] | None: ...
    @property
    def carry(self) -> Any: ...
    @property
    def failed(self) -> str | Tensor | None: ...

    def rows(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(len(times), *state)``: dense output at times inside the step."""
        ...

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """``(degree + 1, *state)``: dense output in powers of ``theta = (t - t0) / (t1 - t0)``; of some rows alone."""
        ...


class Solver(Protocol):
    """A method for one step. Solvers hold no state of a solve: one object serves all solves.

    Attributes:
        name: the name in the registry.
        needs: what the term must offer: "rate", "parts" (of a `Sum`), "split" (of a `Separable`) or "contract".
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
    counts; a tensor ``dt`` carries the derivative with respect to the times, or a step for each row.
    """
    if isinstance(dt, Tensor):
        h = dt if dt.dtype is y.dtype and dt.dim() == y.dim() else spread(dt, y).to(y.dtype)
        for i, w in weights:
            y = torch.addcmul(y, ks[i], h, value=w)
        return y
    for i, w in weights:
        y = torch.add(y, ks[i], alpha=dt * w)
    return y


def spread(dt: Time, like: Tensor) -> Any:
    """A step as something that multiplies ``like``: a number stays one, ``(rows,)`` becomes ``(rows, 1, ..., 1)``."""
    if not isinstance(dt, Tensor):
        return dt
    dt = dt.to(real_dtype(like.dtype) if like.is_complex() else like.dtype)
    return dt.reshape(-1, *(1,) * (like.dim() - 1)) if dt.dim() == 1 and like.dim() > 1 else dt


def hermite(dt: Time, y0: Tensor, y1: Tensor, f0: Tensor, f1: Tensor) -> Tensor:
    """``(4, *state)``: the cubic through both ends with their slopes, in powers of ``theta``."""
    h = spread(dt, y0)
    rise, a, b = y1 - y0, h * f0, h * f1
    return torch.stack([y0, a, 3 * rise - 2 * a - b, a + b - 2 * rise])


def horner(coefficients: Tensor, theta: Tensor | float) -> Tensor:
    """The polynomial at ``theta``, which broadcasts to one coefficient's shape."""
    value = coefficients[-1]
    for c in reversed(coefficients[:-1].unbind()):
        value = value * theta + c
    return value


# --- carries -----------------------------------------------------------------------------------------------------


class Memory:
    """The part of a carry that only speeds a step up: Jacobians, factorisations. Recomputations go without it.

    Args:
        tree: tensors or a structure of them; on the per-sample clock with the rows first.
    """

    def __init__(self, tree: Any) -> None:
        self.tree = tree


pytree.register_pytree_node(
    Memory,
    lambda memory: ([memory.tree], None),
    lambda children, _: Memory(next(iter(children))),
    serialized_type_name="pathline.solvers.base.Memory",
)


def lasting(carry: Any) -> Any:
    """The carry without its memories, as a recomputation gets it."""
    if carry is None or isinstance(carry, Tensor):
        return carry
    return pytree.tree_map(
        lambda x: None if isinstance(x, Memory) else x, carry, is_leaf=lambda x: isinstance(x, Memory)
    )


class Packed:
    """A carry taken apart: the floating tensors, which gradients pass through, and the rest.

    Args:
        carry: without memories.
    """

    def __init__(self, carry: Any) -> None:
        self.leaves, self.spec = pytree.tree_flatten(carry)
        self.places = [i for i, x in enumerate(self.leaves) if isinstance(x, Tensor) and _floats(x)]

    def take(self) -> list[Tensor]:
        """The floating tensors; they are not kept here."""
        taken = [self.leaves[i] for i in self.places]
        for i in self.places:
            self.leaves[i] = None
        return taken

    def with_(self, tensors: Sequence[Tensor]) -> Any:
        """The carry with these floating tensors."""
        leaves = list(self.leaves)
        for i, x in zip(self.places, tensors, strict=True):
            leaves[i] = x
        return pytree.tree_unflatten(leaves, self.spec)


def floating(carry: Any) -> list[Tensor]:
    """The floating tensors of a carry, without those of its memories."""
    return [x for x in pytree.tree_leaves(lasting(carry)) if isinstance(x, Tensor) and _floats(x)]


def _floats(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def rows_of(carry: Any, index: Tensor) -> Any:
    """The carry of some rows."""
    if isinstance(carry, Tensor):
        return carry[index]
    return None if carry is None else pytree.tree_map_only(Tensor, lambda x: x[index], carry)


def either(mask: Tensor, a: Any, b: Any) -> Any:
    """Row by row the carry ``a`` where ``mask``, else ``b``; None where they are not alike."""
    if a is b:
        return a
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape:
            return None
        return torch.where(spread_mask(mask, a), a, b)
    if a is None or b is None:
        return None
    leaves, spec = pytree.tree_flatten(a)
    others, other = pytree.tree_flatten(b)
    return (
        None if spec != other else pytree.tree_unflatten(list(map(either, [mask] * len(leaves), leaves, others)), spec)
    )


def spread_mask(mask: Tensor, like: Tensor) -> Tensor:
    """``(rows, 1, ..., 1)``."""
    return mask.reshape(-1, *(1,) * (like.dim() - 1))
