"""A walk over what a field can read: tensors with the places they stand in, and modules."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Objects visited at most; a field that holds a whole data set is no reason to walk it.
LIMIT = 20_000

#: Packages whose code and classes hold no tensor of a field.
_TRUSTED = {"torch", "numpy", "pathline", *sys.stdlib_module_names} - {"__main__"}


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: an entry of a container, or an attribute."""

    get: Callable[[], Any]
    put: Callable[[Any], None]


def item_place(container: Any, key: Any) -> Place:
    """An entry of a dict or list."""
    return Place(functools.partial(container.__getitem__, key), functools.partial(container.__setitem__, key))


def _element(place: Place, index: int) -> Place:
    """An element of a tuple: putting one makes the tuple anew in its own place."""

    def put(value: Any) -> None:
        old = place.get()
        items = [*old[:index], value, *old[index + 1 :]]
        place.put(type(old)._make(items) if hasattr(old, "_make") else tuple(items))

    return Place(lambda: place.get()[index], put)


def _attribute(owner: Any, name: str) -> Place:
    return Place(functools.partial(getattr, owner, name), functools.partial(setattr, owner, name))


class Walk:
    """Visit a field's parameters, attributes, closures, defaults, and the globals that its code names.

    Args:
        on_tensor: called with every tensor and its place (None where it cannot be replaced).
        on_module: called with every module; returning False keeps the walk out of it.

    Attributes:
        complete: whether everything that the field can read was seen: never so where it runs code of its own, which may
            reach a tensor in ways that no search foresees.
    """

    def __init__(
        self,
        on_tensor: Callable[[Tensor, Place | None], None],
        on_module: Callable[[nn.Module], bool] = lambda module: True,
    ) -> None:
        self.on_tensor, self.on_module = on_tensor, on_module
        self.complete = True
        self.seen: set[int] = set()
        self.keep: list[Any] = []  # ids are only unique while the objects live

    def visit(self, value: Any, place: Place | None = None) -> None:
        """Visit a value and what it holds."""
        if isinstance(value, Tensor):
            self.on_tensor(value, place)
            return
        if id(value) in self.seen or _plain(value):
            return
        if len(self.seen) > LIMIT or isinstance(value, type | types.ModuleType):
            self.complete = False  # code and classes outside the libraries below may hold anything
            return
        self.seen.add(id(value))
        self.keep.append(value)
        if isinstance(value, dict | list):
            self._items(value, list(value) if isinstance(value, dict) else range(len(value)))
        elif isinstance(value, tuple | set | frozenset):
            for i, item in enumerate(value):
                indexed = place is not None and isinstance(value, tuple)
                self.visit(item, _element(place, i) if indexed else None)  # pyright: ignore[reportArgumentType]
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType | functools.partial):
            self._bound(value)
        elif not isinstance(value, nn.Module) or self.on_module(value):
            self._object(value)

    def _items(self, container: Any, keys: Any) -> None:
        for key in keys:
            self.visit(container[key], item_place(container, key))

    def _bound(self, value: types.MethodType | functools.partial[Any]) -> None:
        if isinstance(value, types.MethodType):
            parts = (value.__self__, value.__func__)
        else:
            parts = (value.func, value.args, value.keywords)
        for part in parts:
            self.visit(part)

    def _function(self, function: types.FunctionType) -> None:
        self.complete = False
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # a name that is not bound yet
                continue
            self.visit(value, _attribute(cell, "cell_contents"))
        self.visit(function.__defaults__, _attribute(function, "__defaults__"))
        self.visit(function.__kwdefaults__)
        names = function.__globals__
        for name in sorted(_names(function.__code__)):
            if name in names:
                self.visit(names[name], item_place(names, name))
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.visit(wrapped)

    def _object(self, value: Any) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._items(attributes, list(attributes))
        for slot in (name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())):
            if isinstance(slot, str) and hasattr(value, slot) and not slot.startswith("__"):
                self.visit(getattr(value, slot), _attribute(value, slot))
        self._class(type(value))

    def _class(self, kind: type) -> None:
        """Globals and closures that an object's own code names, and tensors that its class holds."""
        for base in kind.__mro__:
            if not _trusted(base.__module__):
                for name, member in list(vars(base).items()):
                    self.complete = False
                    if isinstance(member, types.FunctionType | Tensor):
                        self.visit(member, _attribute(base, name))


def _plain(value: Any) -> bool:
    """What holds no tensor of the field: values, and all that belongs to Python and the libraries below."""
    if value is None or isinstance(value, str | bytes | int | float | complex | types.BuiltinFunctionType):
        return True
    if isinstance(value, torch.dtype | torch.device | torch.Size | torch.Generator):
        return True
    if isinstance(value, types.ModuleType):
        return _trusted(value.__name__)
    if isinstance(value, type | types.FunctionType):
        return _trusted(value.__module__ or "")
    return type(value).__module__ == "numpy"


def _trusted(module: str) -> bool:
    top = module.partition(".")[0]
    return top in _TRUSTED


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names
