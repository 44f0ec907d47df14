"""The tensors that a field reads: found at call time, and replaceable while a backward pass recomputes.

Searched are a module's parameters, buffers and attributes, a function's closure, defaults and the globals it names, the
object behind a bound method, `functools.partial`, containers, and `args`; then the graph of one evaluation, which
shows what the search missed. What both miss is found by the backward passes, which look at the graph of every step.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

#: Objects visited at most; a field that holds a whole data set is no reason to walk it.
LIMIT = 20_000

#: Packages whose code and classes hold no tensor of a field.
_TRUSTED = {"torch", "numpy", "pathline", *sys.stdlib_module_names} - {"__main__"}


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: an entry of a container, or an attribute."""

    get: Callable[[], Any]
    put: Callable[[Any], None]


def _item(container: Any, key: Any) -> Place:
    return Place(functools.partial(container.__getitem__, key), functools.partial(container.__setitem__, key))


def _attribute(owner: Any, name: str) -> Place:
    return Place(functools.partial(getattr, owner, name), functools.partial(setattr, owner, name))


@dataclass
class Inputs:
    """Tensors that require grad, with the places they were found in.

    Attributes:
        tensors: parameters first, then the tensors in ``args``.
        places: for each tensor where it stands; nowhere that can be reached if found in a graph alone.
        complete: whether the search saw everything that the field can read; if not, the backward passes look at the
            graph of every step.
    """

    args: Any
    tensors: list[Tensor] = field(default_factory=list)
    places: list[list[Place]] = field(default_factory=list)
    complete: bool = True
    _index: dict[int, int] = field(default_factory=dict)
    _arg_leaves: list[Any] = field(default_factory=list)
    _arg_spec: Any = None

    def add(self, tensor: Tensor, place: Place | None) -> None:
        """Note a tensor and a place."""
        index = self._index.setdefault(id(tensor), len(self.tensors))
        if index == len(self.tensors):
            self.tensors.append(tensor)
            self.places.append([])
        if place is not None:
            self.places[index].append(place)

    def fixed_outside(self) -> bool:
        """Whether the tensors may stand in as they are: leaves of ordinary autograd."""
        return all(x.is_leaf and not _wrapped(x) for x in self.tensors)

    @contextmanager
    def replaced(self, tensors: Sequence[Tensor]) -> Iterator[Any]:
        """The field reads ``tensors`` in place of its own; yields the ``args`` to call it with."""
        for original, places in zip(self.tensors, self.places, strict=True):
            if not places:
                raise RuntimeError(
                    f"A tensor of shape {tuple(original.shape)} that the field reads lies where it cannot be replaced "
                    "(found only in the graph of an evaluation), and second derivatives, torch.func transforms and "
                    "tensors made by other operations need that. Pass it in `args`."
                )
        before = [(place, place.get()) for places in self.places for place in places]
        try:
            for tensor, places in zip(tensors, self.places, strict=True):
                for place in places:
                    place.put(tensor)
            yield self.current_args()
        finally:
            for place, value in before:
                place.put(value)

    def current_args(self) -> Any:
        """``args`` with what stands in place now."""
        return self.args if self._arg_spec is None else pytree.tree_unflatten(self._arg_leaves, self._arg_spec)


def find(f: Any, args: Any) -> Inputs:
    """Search a field and its ``args`` for tensors that require grad."""
    inputs = Inputs(args)
    walk = _Walk(inputs)
    walk.visit(f, None)
    if args is not None:
        inputs._arg_leaves, inputs._arg_spec = pytree.tree_flatten(args)
        leaves = inputs._arg_leaves
        for i, leaf in enumerate(leaves):
            walk.visit(leaf, _item(leaves, i))
    return inputs


class _Walk:
    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.seen: set[int] = set()
        self.keep: list[Any] = []  # ids are only unique while the objects live

    def visit(self, value: Any, place: Place | None) -> None:
        if isinstance(value, Tensor):
            if value.requires_grad or _wrapped(value):
                self.inputs.add(value, place)
            return
        if id(value) in self.seen or _plain(value):
            return
        if len(self.seen) > LIMIT or isinstance(value, type | types.ModuleType):
            self.inputs.complete = False  # code and classes outside the libraries below may hold anything
            return
        self.seen.add(id(value))
        self.keep.append(value)
        if isinstance(value, dict):
            self._items(value, list(value))
        elif isinstance(value, list):
            self._items(value, range(len(value)))
        elif isinstance(value, tuple | set | frozenset):
            for item in value:
                self.visit(item, None)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self.visit(value.__self__, None)
            self.visit(value.__func__, None)
        elif isinstance(value, functools.partial):
            self.visit(value.func, None)
            self.visit(value.args, None)
            self.visit(value.keywords, None)
        else:
            self._object(value)

    def _items(self, container: Any, keys: Any) -> None:
        for key in keys:
            self.visit(container[key], _item(container, key))

    def _function(self, function: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # a name that is not bound yet
                continue
            self.visit(value, _attribute(cell, "cell_contents"))
        self.visit(function.__defaults__, None)
        self.visit(function.__kwdefaults__, None)
        names = function.__globals__
        for name in sorted(_names(function.__code__)):
            if name in names:
                self.visit(names[name], _item(names, name))
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.visit(wrapped, None)

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


def _wrapped(tensor: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore[reportAttributeAccessIssue]


def transforming() -> bool:
    """Whether a torch.func transform is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]


# --- the graph of an evaluation ----------------------------------------------------------------------------------


def mark() -> int:
    """A number above that of every autograd node made so far."""
    one = torch.ones((), requires_grad=True)
    with torch.enable_grad():
        node = (one * 1).grad_fn
    assert node is not None
    return node._sequence_nr()


def reached(outputs: Sequence[Tensor], known: Sequence[Tensor], since: int) -> list[Tensor]:
    """Leaves that the graph of ``outputs`` reaches and that are not ``known``.

    Raises:
        RuntimeError: the graph reaches a tensor made before ``since`` by another operation and not known.
    """
    leaves = {id(x) for x in known if x.is_leaf}
    edges = {(x.grad_fn, x.output_nr) for x in known if x.grad_fn is not None}
    stack: list[Any] = [(x.grad_fn, x.output_nr) for x in outputs if x.grad_fn is not None]
    seen: set[Any] = set()
    missing: dict[int, Tensor] = {}
    while stack:
        node, number = stack.pop()
        if node in seen or (node, number) in edges:
            continue
        variable = getattr(node, "variable", None)
        if variable is not None:
            if id(variable) not in leaves:
                missing[id(variable)] = variable
            continue
        if node._sequence_nr() < since:
            raise RuntimeError(
                f"The field reads a tensor that was made before the solve by {node.name()}; a backward pass that "
                "recomputes the field cannot see it as an input. Pass it in `args`."
            )
        seen.add(node)
        stack += [edge for edge in node.next_functions if edge[0] is not None]
    return list(missing.values())
