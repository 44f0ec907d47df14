"""Other libraries' front doors, signature for signature, on this library's solvers."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

__all__ = ["install"]

#: The libraries that have a stand-in here.
LIBRARIES = ("torchdiffeq",)


def install(library: str) -> ModuleType:
    """Put our stand-in in the place of a library: ``import torchdiffeq`` then means ours, in every module to come.

    Call it before anything imports the library; a module that did so earlier keeps what it has. *Stable.*

    Args:
        library: "torchdiffeq".

    Returns:
        The stand-in.

    Raises:
        ValueError: there is none for this library.

    Example:
        >>> import sys, pathline.compat
        >>> pathline.compat.install("torchdiffeq").__name__
        'pathline.compat.torchdiffeq'
        >>> from torchdiffeq import odeint
        >>> odeint.__module__
        'pathline.compat.torchdiffeq'
        >>> del sys.modules["torchdiffeq"]  # from here on the installed one again
    """
    if library not in LIBRARIES:
        raise ValueError(f'There is a stand-in for {", ".join(LIBRARIES)}; none for "{library}".')
    sys.modules[library] = module = import_module(f"pathline.compat.{library}")
    return module
