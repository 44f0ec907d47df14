"""Layers that cannot stand inside a field."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from pathline._search import Walk

_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def check_layers(f: Any, args: Any) -> None:
    """Refuse batch normalisation in train mode; warn once of a field with dropout.

    Raises:
        ValueError: a BatchNorm layer is in train mode.
    """
    for module in _modules(f, args):
        for layer in module.modules():
            if layer.training and isinstance(layer, _BatchNorm):
                raise ValueError(
                    f"The field holds {type(layer).__name__} in train mode: every evaluation would move its running "
                    "statistics, and the field would differ between training and use. Use torch.nn.GroupNorm, or "
                    "call field.eval()."
                )
            if layer.training and isinstance(layer, _DropoutNd) and layer.p > 0 and layer not in _warned:
                _warned.add(layer)
                warnings.warn(
                    f"The field holds {type(layer).__name__} in train mode: every stage of a step sees another field, "
                    "and an adaptive method takes that for error. Put it outside of the field, or call field.eval().",
                    stacklevel=3,
                )


def _modules(f: Any, args: Any) -> list[nn.Module]:
    """The modules that a field can call: itself, or those behind a function or an object, and those in ``args``."""
    found: list[nn.Module] = []

    def note(module: nn.Module) -> bool:
        found.append(module)
        return False

    walk = Walk(lambda tensor, place: None, note)
    walk.visit(f)
    if args is not None:
        walk.visit(args)
    return found
