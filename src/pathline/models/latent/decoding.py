"""The states of many series at times of their own, from one solve."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pathline.controls.piecewise import PiecewisePolynomial
from pathline.data.series import ragged
from pathline.gradients import Backprop, Checkpointed, find_gradient
from pathline.models.neural_ode import NeuralODE
from pathline.saving import Save
from pathline.solvers import find_solver
from pathline.terms import ODE, PerSample

#: Rows of a solve at the union of all times, for each one that is asked for, from which on its dense output is read
#: instead. Measured, forwards and backwards: at 3 both take the same, at 50 too for small batches, at 200 rows take six
#: times as long. One clock a sample takes twice as long as the curve.
RAGGED = 8.0


class Places(NamedTuple):
    """Where states are asked for.

    Attributes:
        times: ``(N,)``, float64.
        rows: ``(N,)``, entries of the batch.
    """

    times: Tensor
    rows: Tensor


class Counting(nn.Module):
    r"""A state and the integral of a rate along it, $\dot z = f(t, z)$, $\dot \Lambda = \lambda(z)$.

    The integral is part of the state, not a running cost beside it: its error has to count where the state rests.

    Args:
        field: $f$.
        rate: $\lambda$, ``(batch, width) -> (batch, E)``.
        width: Size of $z$.
    """

    def __init__(self, field: Any, rate: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.field, self.counted, self.width = field, rate, width
        self.ode = ODE(field)

    @property
    def own_events(self) -> Any:
        """The events that the field brings along, if it does: what they change of the state stands in front."""
        return self.field.own_events

    def forward(self, t: Tensor, y: Tensor, args: Any) -> Tensor:
        """The rate of both."""
        z = y[..., : self.width]
        return torch.cat([self.ode.rate(t, z, args), self.counted(z)], -1)


def states_at(
    dynamics: Any,
    y0: Tensor,
    args: Any,
    t0: float,
    places: Places,
    rate: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """States at ragged places, and the integral of a rate from ``t0`` to them.

    Args:
        dynamics: A ``NeuralODE``, or anything that is solved at times that all share.
        y0: ``(batch, Z)``, at ``t0``.
        args: Handed to the field; its tensors have the batch first.
        t0: The start, not after any place.
        places: Where.
        rate: A function of states, ``(batch, E)``.

    Returns:
        ``(N, Z)``, and ``(N, E)`` with a rate.
    """
    if rate is None:
        found = _at_places(dynamics, dynamics.solve, y0, args, t0, places)
        return dynamics.shown(found) if isinstance(dynamics, NeuralODE) else found, None
    if not isinstance(dynamics, NeuralODE):
        raise TypeError(
            "A rate of events is integrated along a differential equation: `dynamics` is a NeuralODE or a field, but "
            f"{type(dynamics).__name__} came."
        )
    start = dynamics.augmented(y0)
    width = start.shape[-1]

    def counted(z: Tensor) -> Tensor:
        return rate(dynamics.shown(z))

    with torch.no_grad():
        zeros = torch.zeros_like(counted(start))
    solver = partial(dynamics.solve_field, Counting(dynamics.field, counted, width))
    found = _at_places(dynamics, solver, torch.cat([start, zeros], -1), args, t0, places)
    return dynamics.shown(found[..., :width]), found[..., width:]


def _at_places(dynamics: Any, solver: Callable[..., Any], y0: Tensor, args: Any, t0: float, places: Places) -> Tensor:
    if getattr(dynamics, "clock", "shared") == "per-sample":
        return _own_clocks(solver, y0, args, t0, places)
    times, column = torch.unique(places.times, return_inverse=True)
    if _reads_curve(dynamics, len(times) * len(y0), len(places.times)):
        solution = solver(y0, (t0, float(times[-1])), args=args, save=Save(dense=True))
        return read(solution.curve, places)
    lead = not len(times) or float(times[0]) != t0
    if lead:
        times = torch.cat([times.new_full((1,), t0), times])
    return solver(y0, times, args=args).ys[column + lead, places.rows]


def _reads_curve(dynamics: Any, rows: int, wanted: int) -> bool:
    """Whether dense output is cheaper than rows at the union of all times, and possible."""
    if not isinstance(dynamics, NeuralODE):
        return False
    stepped = dynamics.dt is None and dynamics.controller is None and not find_solver(dynamics.method).adaptive
    differentiable = isinstance(find_gradient(dynamics.gradient), Backprop | Checkpointed)
    return rows > RAGGED * wanted and not stepped and differentiable


def read(curve: PiecewisePolynomial, places: Places) -> Tensor:
    """A curve of the whole batch at single places, without its values anywhere else: ``(N, ...)``.

    At a jump it is the value behind it, as in the rows of a solve.
    """
    knots, coefficients = curve.knots, curve.coefficients
    times = places.times.to(knots)
    piece = (torch.searchsorted(knots, times, right=True) - 1).clamp(0, len(knots) - 2)
    width = knots[piece + 1] - knots[piece]
    theta = (times - knots[piece]) / torch.where(width == 0, torch.ones_like(width), width)
    powers = theta.unsqueeze(-1) ** torch.arange(coefficients.shape[1], device=knots.device)
    picked = coefficients[piece, :, places.rows]
    return torch.einsum("nd,nd...->n...", powers.to(picked), picked)


def _own_clocks(solver: Callable[..., Any], y0: Tensor, args: Any, t0: float, places: Places) -> Tensor:
    """Every entry of the batch goes to its own times, in its own steps."""
    order = torch.argsort(places.times, stable=True)
    order = order[torch.argsort(places.rows[order], stable=True)]
    rows = places.rows[order]
    counts = torch.bincount(rows, minlength=len(y0))
    number = ragged.places(rows, ragged.offsets_of(counts)) + 1
    longest = int(counts.max()) if len(rows) else 0
    last = places.times.new_full((len(y0),), t0).scatter_reduce(0, places.rows, places.times, "amax")
    times = last.expand(longest + 1, len(y0)).clone()
    times[0] = t0
    times[number, rows] = places.times[order]
    given = args if args is None or _marked(args) else PerSample(args)
    place = torch.empty_like(number).scatter(0, order, number)
    return solver(y0, times, args=given).ys[place, places.rows]


def _marked(args: Any) -> bool:
    leaves = pytree.tree_leaves(args, is_leaf=lambda x: isinstance(x, PerSample))
    return any(isinstance(leaf, PerSample) for leaf in leaves)
