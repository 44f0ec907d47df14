"""Events: what to watch for, and what to do at a crossing or at a given time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class EventRecord:
    """What happened at one event."""

    t: Tensor
    y: Any
    before: Any
    count: Any
    fired: Any
