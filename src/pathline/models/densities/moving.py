"""The rate of a state and of its log-density, as one field of one tensor.

The log-density is one more column of the state rather than a cost beside it, because its error must count: where a
state rests while the divergence there moves, steps that look at the state alone would be as long as they please.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pathline.operators import At, traced
from pathline.terms import ODE

#: Costs that come from the products that the divergence takes anyway.
COSTS = ("kinetic", "jacobian")


class Moving:
    r"""The rate of ``[y, a, ...]`` for $\dot y = f(t, y)$, $\dot a = \mathrm{div} f$, and costs beside them.

    One row is one sample: the event, flattened, then one column for ``a`` and one for each cost. ``args`` are
    ``(context, noise)``.

    Args:
        field: The rate of the state.
        event_shape: Of one sample.
        trace: How the divergence is found.
        costs: Those of ``COSTS`` that are wanted.
    """

    def __init__(self, field: Any, event_shape: torch.Size, trace: Any, costs: tuple[str, ...] = ()) -> None:
        self.field, self.event_shape, self.trace, self.costs = field, event_shape, trace, costs
        self.term = ODE(field)
        self.size = event_shape.numel()

    def __call__(self, t: Tensor, state: Tensor, args: Any) -> Tensor:
        """The rates, in the shape of ``state``, ``(batch, size + 1 + costs)``."""
        context, noise = args
        y = self.event(state)
        if t.dim():
            t = t.reshape(-1, *(1,) * len(self.event_shape))
        now = _Now(self.field, t, context, self.term)
        dy, div, norm = traced(now, y, self.trace, noise, norm="jacobian" in self.costs)
        dy = dy.flatten(1)
        columns = [dy, div.unsqueeze(1)]
        for name in self.costs:
            cost = dy.square().sum(1) if name == "kinetic" else norm
            assert cost is not None
            columns.append(cost.unsqueeze(1))
        return torch.cat(columns, 1)

    def start(self, y: Tensor) -> Tensor:
        """The state of a solve that starts at ``y``, ``(batch, *event)``."""
        return F.pad(y.flatten(1), (0, 1 + len(self.costs)))

    def event(self, state: Tensor) -> Tensor:
        """The samples in a state."""
        return state[:, : self.size].reshape(-1, *self.event_shape)

    def tolerances(self, rtol: float, atol: float, like: Tensor) -> tuple[Any, Any]:
        """Tolerances by which costs don't count, and the rest does as if there were none."""
        if not self.costs:
            return rtol, atol
        seen, rest = self.size + 1, len(self.costs)
        share = math.sqrt(seen / (seen + rest))
        return rtol * share, like.new_tensor([atol * share] * seen + [math.inf] * rest)


class _Now(At):
    """A field at one time, whatever its signature."""

    def __init__(self, field: Any, t: Tensor, args: Any, term: ODE) -> None:
        super().__init__(field, t, args)
        self.term = term

    def __call__(self, y: Tensor) -> Tensor:
        return self.term.rate(self.t, y, self.args)  # pyright: ignore[reportArgumentType]


class Shown:
    """A running cost of the state alone, as one of the state with its columns.

    Args:
        cost: ``(t, y, dy)``, with what else it asks for by name.
        moving: Whose state it is shown.
    """

    def __init__(self, cost: Any, moving: Moving) -> None:
        self.cost, self.moving = cost, moving
        self.timeless = getattr(cost, "timeless", False)
        self.__signature__ = inspect.signature(cost)

    def draw(self, state: Tensor) -> Any:
        """What the cost draws at the start of a solve."""
        return self.cost.draw(self.moving.event(state))

    def __call__(self, t: Tensor, state: Tensor, dstate: Tensor, **wishes: Any) -> Tensor:
        """The cost of each sample, ``(batch,)``."""
        moving = self.moving
        if "args" in wishes:
            wishes["args"] = wishes["args"][0]
        if "pull" in wishes:
            pull, rest = wishes["pull"], state.shape[1] - moving.size
            wishes["pull"] = lambda v: moving.event(pull(F.pad(v.flatten(1), (0, rest))))
        return self.cost(t, moving.event(state), moving.event(dstate), **wishes)
