"""Looking a name up in a registry."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any


def look_up(kind: str, name: str, registry: Mapping[str, Any]) -> Any:
    """The entry of ``registry`` under ``name``.

    Raises:
        ValueError: there is none; the message names the nearest and the others.
    """
    if name in registry:
        return registry[name]
    close = difflib.get_close_matches(name.lower(), registry, n=1)
    hint = f' Did you mean "{close[0]}"? The others:' if close else " There are:"
    others = (other for other in registry if other not in close)
    raise ValueError(f'No {kind} is called "{name}".{hint} {", ".join(others)}.')
