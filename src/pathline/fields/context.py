"""What a field that takes a context is given."""

from __future__ import annotations

from torch import Tensor


def checked_size(context: object) -> int:
    """The size of a context, 0 for none.

    Raises:
        ValueError: No whole number, or a negative one.
    """
    if type(context) is not int or context < 0:
        raise ValueError(f"`context` is the size of the context, 0 for none, but {context!r} came.")
    return context


def check_none(context: Tensor | None) -> None:
    """Refuse a context that a field would pass over."""
    if context is not None:
        raise TypeError(
            "A context came, but this field was built without: give it context=SIZE, or leave the context out."
        )


def checked_context(context: Tensor | None, y: Tensor, size: int) -> Tensor:
    """The context in the dtype of the state and with its batch.

    Args:
        context: ``(..., size)``; its first dimensions broadcast to those of ``y``.
        y: The state, ``(..., n)``.
        size: As the field was built.

    Raises:
        TypeError: None came.
        ValueError: Another size.
    """
    if context is None:
        raise TypeError(
            f"This field was built with context={size} and receives none. Pass it: model(context), or args=context."
        )
    if context.shape[-1:] != (size,):
        raise ValueError(f"`context` has size {size} along its last dimension; its shape is {tuple(context.shape)}.")
    return context.to(y.dtype).expand(*y.shape[:-1], size)
