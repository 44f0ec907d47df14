"""The tensors that a field reads: found at call time, and replaceable while a backward pass recomputes.

Searched are a module's parameters, buffers and attributes, a function's closure, defaults and the globals it names, the
object behind a bound method, `functools.partial`, containers, and `args`; then the graph of one evaluation, which
shows what the search missed. What both miss is found by the backward passes, which look at the graph of every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._search import Place, Walk, item_place


@dataclass
class Inputs:
    """Tensors that require grad, with the places they were found in.

    Attributes:
        tensors: parameters first, then the tensors in ``args``.
        places: for each tensor where it stands; nowhere that can be reached if found in a graph alone.
        complete: whether the field is made of the libraries' own modules alone; if not, the backward passes look at the
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
                made = "" if original.grad_fn is None else f", made by {original.grad_fn.name()}"
                raise RuntimeError(
                    f"A tensor of shape {tuple(original.shape)}{made}, that the field reads lies where it cannot be "
                    "replaced, and second derivatives, torch.func transforms and tensors made by other operations "
                    "need that. Pass it in `args`."
                )
        before = [(place, place.get()) for places in self.places for place in places]
        _SWAPS[0] += 1
        try:
            for tensor, places in zip(tensors, self.places, strict=True):
                for place in places:
                    place.put(tensor)
            yield self.current_args()
        finally:
            _SWAPS[0] += 1
            for place, value in before:
                place.put(value)

    def current_args(self) -> Any:
        """``args`` with what stands in place now."""
        return self.args if self._arg_spec is None else pytree.tree_unflatten(self._arg_leaves, self._arg_spec)


_SWAPS = [0]


def swaps() -> int:
    """Changes whenever a field begins to read other tensors than it did."""
    return _SWAPS[0]


def find(f: Any, args: Any) -> Inputs:
    """Search a field and its ``args`` for tensors that require grad."""
    inputs = Inputs(args)

    def found(tensor: Tensor, place: Place | None) -> None:
        if tensor.requires_grad or _wrapped(tensor):
            inputs.add(tensor, place)

    walk = Walk(found)
    walk.visit(f)
    if args is not None:
        inputs._arg_leaves, inputs._arg_spec = pytree.tree_flatten(args)
        leaves = inputs._arg_leaves
        for i, leaf in enumerate(leaves):
            walk.visit(leaf, item_place(leaves, i))
    inputs.complete = walk.complete
    return inputs


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
