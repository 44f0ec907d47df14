"""The accepted steps of a solve, in 16 bytes each, and the few states that a schedule keeps."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pathline._random import snapshot
from pathline._structure import host
from pathline.gradients.schedules import Schedule
from pathline.loop import Piece, Problem
from pathline.solvers.base import Packed, floating


@dataclass
class State:
    """Where a solve stands before a step.

    Attributes:
        y: the state; of all samples.
        carry: the floating tensors of what the method carries along.
        random: the random generators, where the field draws.
        samples: whose rows these are, where some have left.
    """

    y: Tensor
    carry: list[Tensor] = field(default_factory=list)
    random: Any = None
    samples: Tensor | None = None

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(x.nbytes for x in (self.y, *self.carry, *(self.random or ())) if x is not None)


class StepLog:
    """A list of accepted steps for the loop to append to.

    A step is its two times. What more it has (rows, a side of a jump, a cut) is kept with it; the states and carries
    before the steps go to the schedule, which keeps some.

    Args:
        problem: the solve.
        schedule: None keeps no state but the start.
        draws: whether the field draws random numbers.
    """

    def __init__(self, problem: Problem, schedule: Schedule | None, draws: bool) -> None:
        self.problem, self.term, self.schedule, self.draws = problem, problem.term, schedule, draws
        self.watched = problem.watch is not None
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self.times = array("d")
        self.special: dict[int, Any] = {}
        #: What is carried along, beside its floating tensors, from which step on.
        self.since: list[int] = []
        self.kinds: list[Packed] = []
        self.after: Any = None
        if self.schedule is not None:
            self.schedule.kept.clear()

    def __len__(self) -> int:
        return len(self.times) // 2

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> Any:
        piece = self.special.get(k)
        if piece is None:
            piece = Piece(self.times[2 * k], self.times[2 * k + 1], slice(0, 0), self.term, ())
            piece.carry = self.kinds[bisect_right(self.since, k) - 1]
        return piece

    def append(self, piece: Any) -> None:
        """Note a step, and offer the state before it to the schedule."""
        k = len(self)
        packed = Packed(piece.carry if k else None)  # the first step makes its own
        state = State(piece.y0, packed.take(), piece.random)
        if piece.active is not None:
            samples, y, given = piece.active
            state = State(y, floating(given) if k else [], piece.random, samples)
        self._offer(k, state, piece)
        piece.y0 = piece.active = None
        piece.carry = self._kind(k, packed)
        piece.random = self._own_random(piece.random)
        if piece.index is not None or not self._plain(piece):
            self.special[k] = piece
        ends = (0.0, 0.0) if piece.index is not None else (host(piece.t0), host(piece.t1))
        self.times.extend(ends)

    def _offer(self, k: int, state: State, piece: Any) -> None:
        if k and self.schedule is not None:
            self.schedule.offer(k, state, state.size)

    def _plain(self, piece: Any) -> bool:
        due = piece.due
        return (
            piece.term is self.term
            and piece.cut is None
            and piece.random is None
            and not piece.outputs
            and due.start == due.stop
        )

    def _kind(self, k: int, packed: Packed) -> Packed:
        """The same object for carries that are alike."""
        if not self.kinds or not _alike(self.kinds[-1], packed):
            self.since.append(k)
            self.kinds.append(packed)
        return self.kinds[-1]

    def _own_random(self, before: Any) -> Any:
        """The generators before a step; None where they stand as the step before left them."""
        if before is None:
            return None
        follows = self.after is not None and all(
            a is None or torch.equal(a, b) for a, b in zip(self.after, before, strict=True)
        )
        # Looking for events may draw too, between the steps.
        self.after = None if self.watched else snapshot(self.term.device)
        return None if follows else before

    def settle(self) -> None:
        """Forget the rows of the steps: they have been laid out."""
        for k, piece in list(self.special.items()):
            piece.outputs = ()
            if piece.index is not None:
                piece.curve = None
            elif self._plain(piece):
                del self.special[k]


def _alike(a: Packed, b: Packed) -> bool:
    plain = all(x is None for x in (*a.leaves, *b.leaves))
    return plain and a.places == b.places and a.spec == b.spec
