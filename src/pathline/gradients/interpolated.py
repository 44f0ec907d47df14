"""The adjoint alone, solved backwards along a state that the forward solve left, or that is solved forward again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pathline._structure import host
from pathline.controllers import PID, Controller, FixedStep, Grid
from pathline.gradients.augmented import Backward
from pathline.gradients.recompute import Recipe
from pathline.hooks import Hooks
from pathline.loop import Piece, Problem, Result, integrate
from pathline.saving import Save
from pathline.solvers.base import horner
from pathline.status import ERRORS
from pathline.terms import Bound

if TYPE_CHECKING:
    from pathline.gradients.adjoint import Adjoint


class Curve:
    """A polynomial between each two knots, asked for one time after the other.

    Args:
        knots: strictly monotone, one more than pieces.
        pieces: ``(degree + 1, *state)`` each, in powers of theta.
    """

    def __init__(self, knots: Sequence[float], pieces: Sequence[Tensor]) -> None:
        self.knots, self.pieces = knots, pieces
        self.sign = 1.0 if knots[-1] >= knots[0] else -1.0
        self.keys = [self.sign * t for t in knots]

    def __call__(self, t: float | Tensor) -> Tensor:
        """The curve at a time, and its derivatives where the time has one."""
        at = host(t)
        k = min(max(bisect_right(self.keys, self.sign * at) - 1, 0), len(self.pieces) - 1)
        left, right = self.knots[k], self.knots[k + 1]
        theta: Any = min(max((at - left) / (right - left), 0.0), 1.0)
        if isinstance(t, Tensor) and t.requires_grad:
            theta = theta + (t - t.detach()) / (right - left)
        return horner(self.pieces[k], theta)


def ends_of(start: float, pieces: Sequence[Piece]) -> list[float]:
    """The times between which accepted steps were made."""
    return [start, *(host(piece.end) for piece in pieces)]


# --- what the forward solve leaves -------------------------------------------------------------------------------


class Stations:
    """States at some accepted steps: evenly spread, the first among them, never more than ``most``.

    The number of steps is not known beforehand: whenever there are too many states every second one is dropped.
    """

    def __init__(self, most: int) -> None:
        self.most, self.stride, self.count = most, 1, 0
        self.states: dict[int, Tensor] = {}

    def watching(self, hooks: Hooks) -> Hooks:
        """Hooks that also show the stations every accepted step."""

        def accepted(t0: Any, t1: Any, y: Any, step: Any) -> None:
            hooks.on_accept(t0, t1, y, step)
            self.add(y)

        return Hooks(hooks.on_step, accepted, hooks.on_reject)

    def add(self, y: Tensor) -> None:
        """The state before one more step."""
        if self.count % self.stride == 0:
            self.states[self.count] = y
            while len(self.states) > self.most:
                self.stride *= 2
                self.states = {n: x for n, x in self.states.items() if n % self.stride == 0}
        self.count += 1


@dataclass
class Trail:
    """Where a backward solve finds the state.

    Attributes:
        ends: the times between which the forward solve made its steps; on the per-sample clock its pieces.
        numbers: of the steps at whose start the state was kept.
        left: these states, or the dense output of each step, ``(degree + 1, *state)``; on the per-sample clock that of
            all steps, ``(pieces, degree + 1, *state)``.
    """

    ends: Sequence[Any]
    numbers: Sequence[int] = ()
    left: Sequence[Tensor] = field(default=(), repr=False)


# --- where the backward solve reads it ---------------------------------------------------------------------------


class Source(Protocol):
    """Curves of the state."""

    def stretches(self, t1: Any, t0: Any, before: Tensor) -> Iterator[tuple[Any, Any]]:
        """From ``t1`` back to ``t0``, where the state was ``before``: how far each curve serves, and the curve."""
        ...


class Stored:
    """The dense output of the forward solve."""

    def __init__(self, trail: Trail) -> None:
        self.curve = Curve(trail.ends, trail.left) if trail.left else None

    def stretches(self, t1: float, t0: float, before: Tensor) -> Iterator[tuple[float, Any]]:
        """One curve for all."""
        yield t0, self.curve


class Repeated:
    """From each stored row the solution is solved forward again, differentiably where a graph is wanted."""

    def __init__(self, backward: Backward) -> None:
        self.backward = backward

    def stretches(self, t1: float, t0: float, before: Tensor) -> Iterator[tuple[float, Curve]]:
        """One curve for each interval."""
        yield t0, again(self.backward, t0, t1, before)


class Stationed:
    """From each stored state the solution is solved forward again, up to where the next one was stored."""

    def __init__(self, backward: Backward, trail: Trail) -> None:
        self.backward, self.trail = backward, trail
        self.ends = trail.ends
        self.sign = 1.0 if self.ends[-1] >= self.ends[0] else -1.0
        self.starts = [self.ends[n] for n in trail.numbers]
        self.last: tuple[int, Curve | None] = -1, None

    def stretches(self, t1: float, t0: float, before: Tensor) -> Iterator[tuple[float, Any]]:
        """A curve from each station."""
        sign = self.sign
        while t1 != t0:
            k = max(sum(sign * start < sign * t1 for start in self.starts) - 1, 0)
            low = max(sign * self.starts[k], sign * t0) * sign
            yield low, self._from(k)
            t1 = low

    def _from(self, k: int) -> Curve | None:
        if self.last[0] != k:
            self.last = -1, None  # one curve at a time
            numbers = self.trail.numbers
            stop = numbers[k + 1] if k + 1 < len(numbers) else len(self.ends) - 1
            steps = self.ends[numbers[k] : stop + 1]
            self.last = k, again(self.backward, steps[0], steps[-1], self.trail.left[k], steps)
        return self.last[1]


def again(backward: Backward, t0: float, t1: float, y: Tensor, steps: Sequence[float] | None = None) -> Curve:
    """A stretch of the forward solve once more, as a curve; ``steps`` are the ends of those that were made."""
    problem = repeated(backward, [t0, t1], steps)
    with reading(backward) as args:
        result: Result = integrate(problem, y, args)
    if not result.status:
        raise ERRORS[result.status](
            f"The forward solve, repeated from t = {t0:g} for the adjoint, did not reach t = {t1:g} "
            f'({result.status.value}). Use Adjoint(state="dense"), which keeps the solution, or '
            'gradient="checkpointed".',
            None,
            result.status,
        )
    return Curve(ends_of(t0, result.pieces), [piece.outputs[-1] for piece in result.pieces])


def repeated(backward: Backward, times: Any, steps: Sequence[float] | None = None) -> Problem:
    """The problem of a stretch of the forward solve."""
    problem = backward.problem
    return replace(
        problem,
        term=backward.field,
        times=times,
        controller=_controller(problem.controller, times, steps),
        save=Save(dense=True),
        stats=backward.stats,
        hooks=Hooks(),
        watch=None,
    )


def _controller(controller: Controller, times: Any, steps: Sequence[float] | None) -> Controller:
    if isinstance(controller, PID) and steps is not None:
        return replace(controller, first_step=abs(steps[1] - steps[0]))
    if isinstance(controller, FixedStep | Grid) and steps is not None:
        return Grid(steps)
    if isinstance(controller, Grid) and controller.times is not None and not isinstance(times, Tensor):
        low, high = min(times), max(times)
        inside = [t for t in map(host, controller.times) if low < t < high]
        return Grid([times[0], *sorted(inside, reverse=times[0] > times[1]), times[1]])
    return controller


@contextmanager
def reading(backward: Backward) -> Iterator[Any]:
    """The field reading the tensors of the backward pass; yields ``args``."""
    tape = backward.tape
    if not tape.transform:
        yield tape.args
        return
    with tape.recipe.inputs.replaced(tape.inputs) as args:
        yield args


# --- the backward solve ------------------------------------------------------------------------------------------


class Interpolated(Backward):
    """``a`` alone, ``da/dt = -a^T df/dy(t, y(t))`` with ``y(t)`` read from a curve.

    Linear, and stable where the forward solve is. Where the solver kicks and drifts, the halves of ``a`` change places,
    as beside the state.
    """

    remedy = 'Use gradient="checkpointed", which is exact, or another `method` in Adjoint(...).'
    path: Any = None

    def __init__(
        self,
        config: Adjoint,
        recipe: Recipe,
        inputs: Sequence[Tensor],
        create_graph: bool,
        *,
        timed: bool,
        trail: Trail,
    ) -> None:
        super().__init__(config, recipe, inputs, create_graph, timed=timed)
        self.source: Any = self.reads(trail)

    def reads(self, trail: Trail) -> Source:
        """Where the state comes from. A stored one is a number; for second derivatives it is solved again from rows."""
        if self.create_graph:
            return Repeated(self)
        return Stored(trail) if self.config.state == "dense" else Stationed(self, trail)

    def pack(self, y: Tensor, a: Tensor, scale: Tensor) -> Tensor:
        """The scaled adjoint."""
        return self.turned(a)

    def unpack(self, state: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled adjoint; the state is not known here."""
        return state, self.turned(state)

    def pair(self, t: Any, state: Tensor, samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``y``, read, and the scaled ``a``."""
        return self.path(t), self.turned(state)

    def parts(self, state: Tensor, scale: Tensor | float = 1.0) -> tuple[Any, ...]:
        """``(a,)``: what a norm or a hook sees."""
        return (self.problem.structure.unravel(self.turned(state) * scale),)

    def tolerance(self, value: Any, start: Tensor, name: str) -> float | Tensor:
        """That of the state."""
        return value

    def rates(self, t: Tensor, state: Tensor, samples: Tensor | None = None, field: Bound | None = None) -> Tensor:
        """``da/dt = -a^T df/dy``."""
        y, a = self.pair(t, state)
        _, (da,) = self._pull(t, y, a, parameters=False, field=field)
        return torch.zeros_like(a) if da is None else self.turned(-da)

    def half(self, name: str, t: Tensor, pair: Tensor, samples: Tensor | None = None) -> Tensor:
        """Minus ``a^T`` the derivative of the kick or of the drift."""
        q, p = self.problem.term.halves(self._at(t, samples))
        field = self.field if samples is None else self.field.select(samples)
        when = t if samples is None else t.reshape(-1)

        def piece(own: Sequence[Any], _: Any, args: Any) -> Sequence[Tensor | None]:
            return [getattr(field, name)(when, own[0], args)]

        x, at = q if name == "kick" else p, float(t.detach().flatten()[0])
        _, (da,), _, _ = self.tape.pull(piece, [x], [pair], at, parameters=False)
        return torch.zeros_like(x) if da is None else -da

    def _at(self, t: Tensor, samples: Tensor | None) -> Tensor:
        return self.path(t)

    def interval(
        self,
        t1: float,
        t0: float,
        y: Tensor,
        before: Tensor,
        adjoint: Tensor,
        keep: Callable[[Result, Tensor], None] | None,
    ) -> Tensor:
        """The adjoint carried from ``t1`` back to ``t0``, where the state was ``before``."""
        if t0 == t1 or (keep is None and not bool(adjoint.any())):
            return adjoint
        for low, curve in self.source.stretches(t1, t0, before):
            self.path = curve
            _, adjoint = self.carried(t1, low, y, adjoint, keep)
            t1, self.path, curve = low, None, None  # the next one is made when this one is gone
        return adjoint
