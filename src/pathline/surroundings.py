"""Layers that cannot stand inside a field."""

from __future__ import annotations

import functools
import types
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def check_layers(f: Any) -> None:
    """Refuse batch normalisation in train mode; warn once of a field with dropout.

    Raises:
        ValueError: a BatchNorm layer is in train mode.
    """
    for module in _modules(f):
        for layer in module.modules():
            if not layer.training:
                continue
            if isinstance(layer, _BatchNorm):
                raise ValueError(
                    f"The field holds {type(layer).__name__} in train mode: every evaluation would move its running "
                    "statistics, and the field would differ between training and use. Use torch.nn.GroupNorm, or "
                    "call field.eval()."
                )
            if isinstance(layer, _DropoutNd) and layer.p > 0 and layer not in _warned:
                _warned.add(layer)
                warnings.warn(
                    f"The field holds {type(layer).__name__} in train mode: every stage of a step sees another field, "
                    "and an adaptive method takes that for error. Put it outside of the field, or call field.eval().",
                    stacklevel=3,
                )


def _modules(f: Any) -> Iterator[nn.Module]:
    """The modules behind a field: itself, a bound method's object, a closure's, a partial's."""
    if isinstance(f, nn.Module):
        yield f
    elif isinstance(f, types.MethodType):
        yield from _modules(f.__self__)
    elif isinstance(f, functools.partial):
        for value in (f.func, *f.args, *f.keywords.values()):
            yield from _modules(value)
    elif isinstance(f, types.FunctionType):
        for cell in f.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            if isinstance(value, nn.Module):
                yield value
