"""What a field receives beside the state: what was inferred of each series, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def repeated(known: Any, n: int, copies: int) -> Any:
    """Tensors ``(n, ...)`` once more for each draw, ``(copies * n, ...)``.

    Args:
        known: What ``given`` returned, a structure of tensors, or None.
        n: Number of series.
        copies: Number of draws of each.

    Raises:
        ValueError: A tensor without an entry for each series.
    """

    def each(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not leaf.dim() or len(leaf) != n:
            raise ValueError(
                f"`given` returns tensors with one entry for each of the {n} series, ({n}, ...), but shape "
                f"{tuple(leaf.shape)} came. What all series share belongs into the field, or is x.expand({n}, ...)."
            )
        return leaf.repeat(copies, *[1] * (leaf.dim() - 1))

    return pytree.tree_map(each, known)


def joined(inferred: Any, known: Any) -> Any:
    """Both as one; where both are there, they are mappings from different names.

    Raises:
        TypeError: Something else than mappings.
        ValueError: A name that is in both.
    """
    if inferred is None or known is None:
        return inferred if known is None else known
    if not (isinstance(inferred, Mapping) and isinstance(known, Mapping)):
        raise TypeError(
            "What `start` and `given` return for the field are mappings from names, where both do, but "
            f"{type(inferred).__name__} and {type(known).__name__} came."
        )
    for name in inferred.keys() & known.keys():
        raise ValueError(f"`given` returns {name!r}, which is inferred already. Leave it out on one side.")
    return {**inferred, **known}
