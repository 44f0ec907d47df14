"""Times of pieces of work, interleaved, and what can be said about their ratios."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
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
        return bootstrap(self._ratios())

    def milliseconds(self) -> tuple[float, float]:
        """The medians of ours and theirs."""
        return 1e3 * float(np.median(self.ours)), 1e3 * float(np.median(self.theirs))

    def _ratios(self) -> np.ndarray:
        return np.array(self.theirs) / np.array(self.ours)


@dataclass(frozen=True)
class Race:
    """Seconds of each piece of work by the round it ran in; slow ones run in every second, fourth, ... round."""

    times: Mapping[str, Mapping[int, float]]

    def pair(self, ours: str, theirs: str) -> Comparison:
        """The rounds in which both ran."""
        mine, other = self.times[ours], self.times[theirs]
        rounds = sorted(mine.keys() & other.keys())
        return Comparison(tuple(mine[i] for i in rounds), tuple(other[i] for i in rounds))

    def milliseconds(self, name: str) -> tuple[float, float, float]:
        """The median of one piece of work, and its 95 % bootstrap interval."""
        found = 1e3 * np.array(list(self.times[name].values()))
        return float(np.median(found)), *bootstrap(found)


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the median."""
    draws = np.random.default_rng(0).choice(values, (4000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


def race(works: Mapping[str, Work], *, rounds: int, budget: float, least: int = 4, full: tuple[str, ...] = ()) -> Race:
    """Time pieces of work in turns, each round in another order.

    Args:
        works: by name; each is run twice before, to warm it up and to learn how long it takes.
        rounds: how often each of them runs, if it can.
        budget: seconds for each; what takes longer runs in a half, a quarter, ... of the rounds.
        least: how often each runs at least.
        full: names that run in every round, whatever they take.
    """
    strides = {}
    for name, work in works.items():
        work()
        taken = seconds(work)
        wanted = rounds if name in full else min(rounds, max(least, int(budget / max(taken, 1e-9))))
        strides[name] = 2 ** round(math.log2(rounds / wanted))
    gc.collect()
    times: dict[str, dict[int, float]] = {name: {} for name in works}
    names = list(works)
    for i in range(rounds):
        turn = i % max(len(names), 1)
        order = names[turn:] + names[:turn]
        for name in order if i % 2 == 0 else reversed(order):
            if i % strides[name] == 0:
                times[name][i] = seconds(works[name])
    return Race(times)


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
