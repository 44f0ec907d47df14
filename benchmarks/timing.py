"""Times of two pieces of work, interleaved, and what can be said about their ratio."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Work = Callable[[], object]


@dataclass(frozen=True)
class Comparison:
    """Seconds of each of many interleaved pairs."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of theirs / ours: how many times faster ours is."""
        return float(np.median(self._ratios()))

    @property
    def bounds(self) -> tuple[float, float]:
        """The 95 % bootstrap interval of that median."""
        ratios = self._ratios()
        draws = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
        low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
        return float(low), float(high)

    def milliseconds(self) -> tuple[float, float]:
        """The medians of ours and theirs."""
        return 1e3 * float(np.median(self.ours)), 1e3 * float(np.median(self.theirs))

    def _ratios(self) -> np.ndarray:
        return np.array(self.theirs) / np.array(self.ours)


def compare(ours: Work, theirs: Work, *, pairs: int, warmup: int = 3) -> Comparison:
    """Time two pieces of work in alternation; each goes first in half of the pairs."""
    for _ in range(warmup):
        ours()
        theirs()
    gc.collect()
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(pairs):
        works = ((0, ours), (1, theirs))
        for which, work in works if i % 2 == 0 else reversed(works):
            times[which].append(seconds(work))
    return Comparison(tuple(times[0]), tuple(times[1]))


def seconds(work: Work) -> float:
    """The time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
