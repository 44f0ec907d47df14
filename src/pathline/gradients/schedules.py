"""Which states a solve keeps while it does not know how many steps will come, and which a backward pass makes again.

A schedule knows numbers of steps alone: "state k" is the one before step k. The start, state 0, is always at hand.
"""

from __future__ import annotations

from math import comb
from typing import Any, Protocol


class Schedule(Protocol):
    """What is kept on the way forward, and in which strides the way back makes states again.

    Attributes:
        kept: the states kept so far, by their number.
    """

    kept: dict[int, Any]

    def offer(self, k: int, state: Any, size: int) -> None:
        """Keep state ``k`` or not; ``size`` is its bytes. Numbers come in order, from 1."""
        ...

    def halt(self, held: int, wanted: int, depth: int) -> int:
        """Where to keep the next state on the way from state ``held`` to ``wanted``, with ``depth`` states at hand."""
        ...


class Every:
    """Every k-th state; on the way back all of one stretch.

    Args:
        stride: k.
    """

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.kept: dict[int, Any] = {}

    def offer(self, k: int, state: Any, size: int) -> None:
        """Keep it where ``k`` is a multiple of the stride."""
        if k % self.stride == 0:
            self.kept[k] = state

    def halt(self, held: int, wanted: int, depth: int) -> int:
        """The next state; before the last stretch (the states given up) the next multiple."""
        start = wanted // self.stride * self.stride
        return held + 1 if held >= start else (held // self.stride + 1) * self.stride


class Binomial:
    """A given number of states, placed such that few steps are made again, however many there will be.

    With s states beside the start and at most r repetitions of each step, ``C(s + 1 + r, r)`` steps can be undone, and
    no schedule undoes more: for n steps the cost grows like log n with s ~ log n, and for fixed s like ``n^(1/s)``.

    Forward, every state is kept for a moment. When all places are taken, one is given up that stands before another of
    a higher level; if there is none, the last state moves on, one level higher.

    Args:
        states: how many, beside the start; None finds that from ``memory``.
        memory: their bytes.

    References:
        Griewank (1992), Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
        differentiation. Wang, Moin, Iaccarino (2009), Minimal repetition dynamic checkpointing algorithm for unsteady
        adjoint calculation.
    """

    def __init__(self, states: int | None, memory: float | None = None) -> None:
        self.states, self.memory = states, memory
        self.kept: dict[int, Any] = {}
        self.levels: dict[int, int] = {}
        #: States of falling level, and those that stand before one of a higher level.
        self.front: list[int] = []
        self.spare: list[int] = []

    def offer(self, k: int, state: Any, size: int) -> None:
        """Keep it in the place of another."""
        if self.states is None:
            self.states = self._affordable(size)
        level = 0
        if len(self.kept) >= self.states:
            if self.spare:
                self._drop(self.spare.pop())
            else:
                level = 1 + self._drop(self.front.pop())
                while self.front and self.levels[self.front[-1]] < level:
                    self.spare.append(self.front.pop())
        self.kept[k], self.levels[k] = state, level
        self.front.append(k)

    def _drop(self, k: int) -> int:
        del self.kept[k]
        return self.levels.pop(k)

    def _affordable(self, size: int) -> int:
        assert self.memory is not None
        count = int(self.memory // max(size, 1))
        if count < 1:
            raise ValueError(
                f"`memory` holds at least one state, which is {size} bytes here (with what the method carries along); "
                f"it is {self.memory:g}. Raise it."
            )
        return count

    def halt(self, held: int, wanted: int, depth: int) -> int:
        """The best place for the next of the free ones; the state wanted itself where none is free."""
        steps, places = wanted - held + 1, (self.states or 1) + 2 - depth
        if places <= 1:
            return wanted
        repetitions = 1
        while _reach(places, repetitions) < steps:
            repetitions += 1
        return held + min(_reach(places, repetitions - 1), steps - _reach(places - 1, repetitions - 1))


def _reach(places: int, repetitions: int) -> int:
    """The most steps that can be undone: from so many places, the start among them, each repeated so often."""
    return comb(places + repetitions, places)


class Spread:
    """A few states spread over the whole solve: every k-th, with k doubled whenever there are too many.

    Args:
        states: at most so many.
    """

    def __init__(self, states: int) -> None:
        self.states, self.stride = states, 1
        self.kept: dict[int, Any] = {}

    def offer(self, k: int, state: Any, size: int) -> None:
        """Keep it where ``k`` is a multiple of the present stride."""
        if k % self.stride:
            return
        self.kept[k] = state
        while len(self.kept) > self.states:
            self.stride *= 2
            self.kept = {k: state for k, state in self.kept.items() if k % self.stride == 0}

    def halt(self, held: int, wanted: int, depth: int) -> int:
        """Nothing is kept on the way."""
        return wanted
