"""How a nested state lies in one tensor: solvers see plain tensors, fields see the user's structure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_TENSOR = pytree.tree_structure(0)


class Structure:
    """The shape of a state: a tensor stays as it is, a tuple, named tuple, dict or nesting of them becomes one vector.

    Args:
        example: the state; its leaves are tensors of one dtype on one device.
        rows: each entry of the first dimension is a sample with a clock of its own; a structure becomes one vector for
            each of them, ``(batch, width)``, and any number of samples may pass.

    Raises:
        TypeError: a leaf is no tensor, is not floating or complex, or the leaves disagree in dtype or device.
        ValueError: with ``rows``, the leaves have no first dimension in common.
    """

    def __init__(self, example: Any, *, rows: bool = False) -> None:
        self.rows = rows
        self.plain = isinstance(example, Tensor)
        leaves, self.spec = ([example], _TENSOR) if self.plain else pytree.tree_flatten(example)
        if not leaves:
            raise TypeError(f"`y0` holds no tensor; it is {example!r}. Pass a tensor, or a tuple or dict of tensors.")
        for leaf in leaves:
            _check_leaf(leaf)
        first = leaves[0]
        for leaf in leaves[1:]:
            if leaf.dtype != first.dtype or leaf.device != first.device:
                raise TypeError(
                    f"`y0`: all tensors of a state share dtype and device; found {first.dtype} on {first.device} and "
                    f"{leaf.dtype} on {leaf.device}. Convert with .to({str(first.device)!r}, {first.dtype})."
                )
        self.dtype, self.device = first.dtype, first.device
        self.shapes = [leaf.shape for leaf in leaves]
        if rows and (not all(self.shapes) or len({shape[0] for shape in self.shapes}) > 1):
            raise ValueError(
                'clock="per-sample" gives each entry of the first dimension a clock of its own, and `y0` has '
                f"{'no dimensions' if not all(self.shapes) else f'first dimensions that differ: {self}'}. "
                "Add the batch with y0.unsqueeze(0)."
            )
        self.shapes = [shape[1:] if rows else shape for shape in self.shapes]
        self.widths = [shape.numel() for shape in self.shapes]
        self._lead = 1 if rows else 0

    def ravel(self, state: Any, what: str = "`f`") -> Tensor:
        """One tensor out of a state of this structure."""
        if self.plain:
            return state
        given = state
        leaves, spec = pytree.tree_flatten(state)
        if spec != self.spec:
            leaves, spec = pytree.tree_flatten(_in_order(state, self._skeleton()))
        if spec != self.spec:
            raise TypeError(
                f"{what} returned {_describe(state)} for a state of structure {self}. Return the same kind."
            )
        checked = [self._checked(leaf, i, given, what) for i, leaf in enumerate(leaves)]
        return torch.cat([leaf.reshape(*leaf.shape[: self._lead], -1) for leaf in checked], dim=-1)

    def _checked(self, leaf: Any, index: int, state: Any, what: str) -> Tensor:
        if not isinstance(leaf, Tensor) or leaf.shape[self._lead :] != self.shapes[index]:
            raise ValueError(
                f"{what} returned {_describe(state)} for a state of structure {self}. "
                "A field returns dy in the shapes of y."
            )
        if leaf.device != self.device:
            raise ValueError(f"{what} returned a leaf on {leaf.device} for a state on {self.device}. Move the field.")
        if leaf.dtype != self.dtype and not torch.is_autocast_enabled(self.device.type):
            raise TypeError(
                f"{what} returned {leaf.dtype} in leaf {index} for a state of {self.dtype}. "
                f"Move the field with .to({self.dtype})."
            )
        return leaf.to(self.dtype)

    def unravel(self, flat: Tensor) -> Any:
        """The state from one tensor; leading dimensions (times) stay in front of every leaf."""
        if self.plain:
            return flat
        lead = flat.shape[:-1]
        parts = flat.split(self.widths, dim=-1)
        return pytree.tree_unflatten(
            [part.reshape(lead + shape) for part, shape in zip(parts, self.shapes, strict=True)], self.spec
        )

    def ravel_rows(self, rows: Any) -> Tensor:
        """``(n, *state)`` out of a structure whose leaves are ``(n, *shape)``."""
        if self.plain:
            return rows
        leaves = pytree.tree_leaves(rows)
        return torch.cat([leaf.reshape(*leaf.shape[: 1 + self._lead], -1) for leaf in leaves], dim=-1)

    def leaf(self, x: Tensor, index: int) -> Tensor:
        """One leaf from its flat part."""
        return x.reshape(x.shape[:-1] + self.shapes[index])

    def half(self, x: Tensor, index: int) -> torch.Size:
        """The shape of the other leaf, where one leaf's flat part is ``x``."""
        return x.shape if self.plain else x.shape[:-1] + self.shapes[index]

    def broadcast(self, value: Any, like: Tensor, name: str) -> float | Tensor:
        """A tolerance for every element: a number, a tensor that broadcasts to the state, or a structure of them."""
        if isinstance(value, int | float):
            return float(value)
        if self.plain and isinstance(value, Tensor):
            value = _broadcast(value.to(like), like.shape, name)
            return value.reshape((1,) * (like.dim() - value.dim()) + value.shape) if self.rows else value
        values, spec = pytree.tree_flatten(value if self.plain else _in_order(value, self._skeleton()))
        if self.plain or spec != self.spec:
            raise ValueError(
                f"`{name}` is a number, a tensor that broadcasts to the state, or a structure like `y0` ({self}); "
                f"it is {_describe(value)}."
            )
        tensors = [torch.as_tensor(v, dtype=_real(like.dtype), device=like.device) for v in values]
        lead = like.shape[: self._lead]
        pairs = [(v, lead + shape) for v, shape in zip(tensors, self.shapes, strict=True)]
        return torch.cat([_broadcast(v, shape, name).expand(shape).reshape(*lead, -1) for v, shape in pairs], dim=-1)

    def _skeleton(self) -> Any:
        return pytree.tree_unflatten(range(len(self.shapes)), self.spec)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "spec": self._skeleton()}  # torch's own specs warn when they are unpickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, spec=pytree.tree_structure(state["spec"]))

    def __repr__(self) -> str:
        return _describe(pytree.tree_unflatten([torch.empty(s, device="meta") for s in self.shapes], self.spec))


def time_like(t: Tensor, leaf: Tensor) -> Tensor:
    """The time as a channel: ``t`` expanded to ``leaf`` with its last dimension replaced by one.

    Works on both clocks: ``t`` is 0-d, or ``(batch,)`` or ``(batch, 1, ..., 1)`` for one clock a sample. *Stable.*

    Args:
        t: the time that the field received.
        leaf: a tensor ``(*batch, channels)`` of the state.

    Returns:
        ``(*batch, 1)``, in the dtype of ``leaf``.

    Raises:
        TypeError: ``t`` is no tensor.

    Example:
        >>> import torch, pathline
        >>> pathline.time_like(torch.tensor(0.5), torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """
    if not isinstance(t, Tensor):
        raise TypeError(f"`t` is the tensor that the field received; it is {t!r}. Pass torch.tensor({t!r}).")
    shape = (*leaf.shape[:-1], 1)
    return (
        t.reshape(t.shape[:1] + (1,) * (leaf.dim() - 1) if t.dim() else (1,) * leaf.dim()).to(leaf.dtype).expand(shape)
    )


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of times for a state: real, at least float32."""
    real = _real(dtype)
    return real if real in (torch.float32, torch.float64) else torch.float32


def host(t: float | Tensor) -> float:
    """A time as a Python float."""
    return t.item() if isinstance(t, Tensor) else t


def _real(dtype: torch.dtype) -> torch.dtype:
    return torch.empty((), dtype=dtype, device="meta").real.dtype if dtype.is_complex else dtype


def _check_leaf(leaf: Any) -> None:
    if not isinstance(leaf, Tensor):
        raise TypeError(
            f"`y0` is a tensor, or a tuple or dict of tensors; found {type(leaf).__name__} {leaf!r}. "
            "Convert it with torch.as_tensor(...)."
        )
    if not (leaf.is_floating_point() or leaf.is_complex()):
        raise TypeError(f"`y0` is floating or complex; it has dtype {leaf.dtype}. Pass y0.float() or y0.double().")


def _broadcast(value: Tensor, shape: Iterable[int], name: str) -> Tensor:
    shape = torch.Size(shape)
    try:
        matches = torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        matches = False
    if not matches:
        raise ValueError(f"`{name}` of shape {tuple(value.shape)} does not broadcast to the state's {tuple(shape)}.")
    return value


def _in_order(value: Any, like: Any) -> Any:
    """``value`` with the keys of its dicts in the order of ``like``."""
    if isinstance(value, dict) and isinstance(like, dict) and value.keys() == like.keys():
        return {key: _in_order(value[key], like[key]) for key in like}
    if isinstance(value, tuple | list) and isinstance(like, tuple | list) and len(value) == len(like):
        items = [_in_order(x, y) for x, y in zip(value, like, strict=True)]
        return getattr(value, "_make", type(value))(items)
    return value


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"Tensor{tuple(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_describe, value))
        name = type(value).__name__
        return f"({inner})" if name == "tuple" else f"[{inner}]" if name == "list" else f"{name}({inner})"
    return type(value).__name__
