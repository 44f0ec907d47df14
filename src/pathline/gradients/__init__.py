"""How a solve is differentiated."""

from __future__ import annotations

from typing import Any

from pathline._registry import look_up
from pathline.gradients.adjoint import Adjoint
from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Gradient, Kept
from pathline.gradients.checkpointed import Checkpointed
from pathline.gradients.implicit import Implicit
from pathline.gradients.reversible import Reconstructed

__all__ = [
    "GRADIENTS",
    "Adjoint",
    "Backprop",
    "Checkpointed",
    "Gradient",
    "Implicit",
    "Kept",
    "Reconstructed",
    "find_gradient",
]

#: Every gradient by its name.
GRADIENTS: dict[str, Any] = {
    "backprop": Backprop(),
    "checkpointed": Checkpointed(),
    "reversible": Reconstructed(),
    "adjoint": Adjoint(),
}


def find_gradient(gradient: str | Gradient) -> Gradient:
    """The gradient for a name, or the object itself.

    Raises:
        ValueError: no gradient has this name.
        TypeError: neither a name nor a gradient.
    """
    if isinstance(gradient, str):
        return look_up("gradient", gradient, GRADIENTS)
    if callable(getattr(gradient, "solve", None)) and not isinstance(gradient, type):
        return gradient
    raise TypeError(f"`gradient` is a name or a Gradient object such as pathline.Adjoint(); it is {gradient!r}.")
