"""The user's own functions in a solve with costs: they see the state alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pathline._structure import Structure
from pathline.controllers import PID
from pathline.events import Event
from pathline.hooks import Hooks
from pathline.integrals.rates import own_time
from pathline.terms import ODE, Bound


class _Own:
    """A user's function of ``(t, y, args)``, called with ``(t, (y, q), (args, drawn))``."""

    def __init__(self, fn: Any, own: Bound) -> None:
        self.ode, self.plain = ODE(fn), own.structure.plain

    def __call__(self, t: Tensor, state: Any, args: Any) -> Any:
        return self.ode.rate(own_time(t, state[0]) if self.plain else t, state[0], args[0])


class _Reset(_Own):
    """The same, giving a state to go on from; costs go on as they are."""

    def __call__(self, t: Tensor, state: Any, args: Any) -> Any:
        return super().__call__(t, state, args), state[1]


class Shown:
    """``Save(fn=...)`` of the state, with the costs beside it."""

    def __init__(self, fn: Any, own: Bound) -> None:
        self.fn, self.plain = fn, own.structure.plain

    def __call__(self, t: Tensor, state: Any) -> Any:
        return self.fn(own_time(t, state[0]) if self.plain else t, state[0]), state[1]


class First:
    """A function whose result is a pair, for the first of it."""

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn

    def __call__(self, x: Any) -> Any:
        return self.fn(x)[0]


class _Norm:
    """A norm of the scaled error of the state."""

    def __init__(self, norm: Any) -> None:
        self.norm = norm

    def __call__(self, scaled: Any) -> Any:
        return self.norm(scaled[0])


def seeing(event: Event, own: Bound) -> Event:
    """An event whose functions see the state."""
    crossing, reset = event.crossing, event.reset
    return replace(
        event,
        crossing=None if crossing is None else _Own(crossing, own),
        reset=None if reset is None else _Reset(reset, own),
    )


def controlled(controller: Any) -> Any:
    """A controller whose norm sees the error of the state."""
    if isinstance(controller, PID) and controller.norm is not None:
        return replace(controller, norm=_Norm(controller.norm))
    return controller


def hooked(hooks: Hooks, own: Bound, structure: Structure) -> Hooks:
    """Hooks see the flat state of the solve without costs."""
    ravel = own.structure.ravel
    if hooks == Hooks():
        return hooks
    return Hooks(
        lambda t0, t1, y: hooks.on_step(t0, t1, ravel(structure.unravel(y)[0])),
        lambda t0, t1, y, step: hooks.on_accept(t0, t1, ravel(structure.unravel(y)[0]), step),
        lambda t0, t1, y, step: hooks.on_reject(t0, t1, ravel(structure.unravel(y)[0]), step),
    )


@dataclass(frozen=True)
class Unwrap:
    """From a solution of the whole to one of the state, with its costs.

    Attributes:
        real: the costs that are real whatever the state.
    """

    real: frozenset[str]

    def __call__(self, solution: Any) -> Any:
        """The solution as the user sees it."""
        ys, rows = solution.ys
        y1, last = solution.y1
        events = {
            name: replace(record, before=record.before[0], after=record.after[0])
            for name, record in solution.events.items()
        }
        return replace(
            solution,
            ys=ys,
            y1=y1,
            events=events,
            integrals=self._shown(rows),
            integrals1=self._shown(last),
            unravel=First(solution.unravel),
        )

    def _shown(self, costs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.real if name in self.real and x.is_complex() else x for name, x in costs.items()}
