"""Sizes and counts that a model is built with, refused under the name of their argument."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any


def check_sizes(least: int = 1, **sizes: Any) -> None:
    """Each is a whole number, and not too small.

    Args:
        least: The smallest that will do.
        **sizes: By the name of the argument.

    Raises:
        ValueError: For the first that is not.

    Example:
        >>> check_sizes(hidden=0)
        Traceback (most recent call last):
        ...
        ValueError: `hidden` is a whole number, 1 or more, but 0 came. Choose one, as in hidden=4.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, Integral) or int(size) < least:
            rest = "Leave it out where there are none." if least == 0 else f"Choose one, as in {name}=4."
            raise ValueError(f"`{name}` is a whole number, {least} or more, but {size!r} came. {rest}")


def check_widths(**widths: Any) -> None:
    """Each is the width of a layer, or a sequence of such.

    Raises:
        ValueError: For the first that is not.
    """
    for name, given in widths.items():
        for width in given if isinstance(given, Sequence) else (given,):
            check_sizes(**{name: width})
