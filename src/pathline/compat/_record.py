"""What the stand-ins did in this process: counts, and the time spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathline.stats import Stats


class Record:
    """Counts of the solves while it is ``open``; nothing is kept otherwise."""

    def __init__(self) -> None:
        self.open = False
        self.solves: list[Stats] = []
        self.seconds = 0.0

    @contextmanager
    def forward(self, stats: Stats) -> Iterator[None]:
        """Time one solve, and keep its counts."""
        if not self.open:
            yield
            return
        self.solves.append(stats)
        with self.backward():
            yield

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Time a backward solve."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


RECORD = Record()
