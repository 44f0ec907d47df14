"""The augmented system that the adjoint method integrates backwards, between two output times."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline._structure import Structure, host
from pathline.controllers import PID, Controller, Grid, Whole
from pathline.gradients.base import Sum, inner
from pathline.gradients.recompute import Recipe, Tape
from pathline.hooks import Hooks
from pathline.loop import Problem, Result, integrate
from pathline.saving import Save
from pathline.solvers import find_solver
from pathline.stats import Stats
from pathline.status import ERRORS, Status
from pathline.terms import Bound, Term
from pathline.tolerance import Tolerance

if TYPE_CHECKING:
    from pathline.gradients.adjoint import Adjoint

#: How far, relative to its size, the state may miss its stored value when it is integrated backwards.
RECONSTRUCTION = 1e-2


class Backward:
    """``(y, a)`` stacked in one tensor, and the sums of the parameters' quadratures.

    Where the solver kicks and drifts, the halves of ``a`` change places: ``q' = drift(p)`` and
    ``a_p' = -(d drift)^T a_q`` depend on ``(p, a_q)`` alone, ``p' = kick(q)`` and ``a_q' = -(d kick)^T a_p`` on
    ``(q, a_p)``. So the augmented system is separable too, and the method of the forward solve serves it.

    Args:
        config: of the backward solve.
        recipe: of the forward solve.
        inputs: the tensors that the field reads.
        create_graph: whether the gradient is to be differentiated in turn.
        timed: whether the times require grad.
    """

    #: Where the pair is stacked. Implicit methods find the samples of a batch in the first dimension.
    axis = 0
    #: What to do where the backward solve fails.
    remedy = (
        'Solving the state backwards is unstable here. Use gradient="checkpointed", which is exact and needs no '
        'backward solve, or Adjoint(state="dense"), which reads the state from the forward solve.'
    )

    def __init__(
        self, config: Adjoint, recipe: Recipe, inputs: Sequence[Tensor], create_graph: bool, *, timed: bool
    ) -> None:
        self.config, self.create_graph, self.timed = config, create_graph, timed
        self.problem = problem = recipe.problem
        self.solver = problem.solver if config.method is None else find_solver(config.method)
        self.rtol = problem.rtol if config.rtol is None else config.rtol
        self.atol = problem.atol if config.atol is None else config.atol
        self.controller = config.controller or problem.controller
        self.stats = Stats()
        self.field = problem.term.counting(self.stats)
        self.tape = Tape(recipe, None, inputs, create_graph)
        self.total = Sum(len(inputs), in_place=not (create_graph or self.tape.transform))
        self.first_step: float | None = None
        self.missed: list[Tensor] = []
        points = (getattr(self.solver, "dense_order", 3) + 2) // 2
        self.nodes, self.weights = np.polynomial.legendre.leggauss(points)
        self.split = self.solver.needs == "split"
        if getattr(self.solver, "implicit", False) and problem.structure.plain and problem.term.empty().dim() > 2:
            self.axis = 1
        if self.split and not (problem.term.term.offers("kick") and problem.term.term.offers("drift")):
            raise ValueError(
                f'Adjoint(method="{self.solver.name}") kicks and drifts, and the field isn\'t split. '
                "Leave `method` out, which takes that of the forward solve."
            )

    # --- the parts of the state; another layout replaces these

    def pack(self, y: Tensor, a: Tensor, scale: Tensor) -> Tensor:
        """The state of the backward solve; ``a`` comes divided by ``scale``."""
        return torch.stack([y, self.turned(a)], self.axis)

    def unpack(self, state: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """``y``, and ``a`` still divided by ``scale``, at the end of an interval."""
        y, a = state.unbind(self.axis)
        return y, self.turned(a)

    def turned(self, a: Tensor) -> Tensor:
        """``a`` with its halves exchanged, for a solver that kicks and drifts; twice is once more ``a``."""
        if not self.split:
            return a
        q, p = self.problem.term.halves(a)
        if q.shape != p.shape:
            raise ValueError(
                f'gradient="adjoint" of "{self.solver.name}" needs halves of one size; they have {tuple(q.shape)} and '
                f'{tuple(p.shape)}. Use gradient="checkpointed".'
            )
        return self.problem.term.join(p, q)

    def parts(self, state: Tensor, scale: Tensor | float = 1.0) -> tuple[Any, ...]:
        """What a norm or, with the adjoint at its own scale, a hook sees."""
        unravel = self.problem.structure.unravel
        y, a = self.unpack(state, scale)  # pyright: ignore[reportArgumentType]
        return unravel(y), unravel(a * scale)

    def tolerance(self, value: Any, start: Tensor, name: str) -> float | Tensor:
        """A tolerance of the forward state, for the state of the backward solve."""
        lead = start.dim() - 1 - self.axis  # the dimensions behind the pair, where a tolerance has more than these
        wide = isinstance(value, Tensor) and value.dim() > lead
        return value.unsqueeze(-1 - lead) if wide else value

    @property
    def through(self) -> bool:
        """Whether the rates are differentiated: for second derivatives, or for a Jacobian of an implicit method."""
        return torch.is_grad_enabled()

    def pair(self, t: Any, state: Tensor, samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``y`` and the scaled ``a`` at a time inside an interval."""
        return self.unpack(state, state)

    def rates(self, t: Tensor, state: Tensor, samples: Tensor | None = None, field: Bound | None = None) -> Tensor:
        """``d/dt (y, a) = (f, -a^T df/dy)``; with the ``field`` a part of the whole, its part."""
        y, a = self.pair(t, state)
        dy, (da,) = self._pull(t, y, a, parameters=False, field=field)
        assert dy is not None
        down = torch.zeros_like(a) if da is None else -da
        return self.pack(dy if self.through else dy.detach(), down, state)

    def half(self, name: str, t: Tensor, pair: Tensor, samples: Tensor | None = None) -> Tensor:
        """The kick of ``(q, a_p)`` or the drift of ``(p, a_q)``: that of the state, and ``-a^T`` its derivative."""
        x, a = pair.unbind(self.axis)
        field = self.field if samples is None else self.field.select(samples)
        when = t if samples is None else t.reshape(-1)

        def piece(own: Sequence[Any], _: Any, args: Any) -> Sequence[Tensor | None]:
            return [getattr(field, name)(when, own[0], args)]

        dx, (da,), _, _ = self.tape.pull(piece, [x], [a], float(t.detach().flatten()[0]), parameters=False, keep=True)
        assert dx is not None
        down = torch.zeros_like(a) if da is None else -da
        return torch.stack([dx if self.create_graph else dx.detach(), down], self.axis)

    def accepted(self, a: float, b: float, step: Any, scale: Tensor) -> None:
        """Add ``integral of a^T df/dtheta`` over one backward step, or over each of its own steps where it has some."""
        if not self.total.values:
            return
        for first, last in pairwise(getattr(step, "knots", (a, b))):
            half, middle = (last - first) / 2, (first + last) / 2
            times = [middle + half * node for node in self.nodes]
            for s, weight, state in zip(times, self.weights, step.rows(times), strict=True):
                y, adjoint = self.pair(s, state)
                _, grads = self._pull(s, y, adjoint * (scale * (-half * weight)), parameters=True)
                self.total.add(grads)

    def totals(self) -> Sequence[Tensor | None]:
        """The gradients of the inputs."""
        return self.total.values

    # --- times

    def slope(self, t: float, y: Tensor, g: Tensor) -> Tensor:
        """The derivative by an output time, ``<g, f(t, y)>``."""
        return inner(g, self.field.rate(t, y, self.tape.args))

    def start_slope(self, t: float, y: Tensor, adjoint: Tensor) -> Tensor:
        """The derivative by the first time, ``-<a, f(t, y)>``."""
        return -inner(adjoint, self.field.rate(t, y, self.tape.args))

    # --- one interval

    def interval(
        self,
        t1: float,
        t0: float,
        y: Tensor,
        before: Tensor,
        adjoint: Tensor,
        keep: Callable[[Result, Tensor], None] | None,
    ) -> Tensor:
        """The adjoint carried from ``t1``, where the state is ``y``, back to ``t0``, where it was ``before``."""
        back, adjoint = self.carried(t1, t0, y, adjoint, keep)
        if back is not None and self.config.verify:
            with torch.no_grad():
                size = torch.stack([before.abs().max(), y.abs().max()]).max().clamp_min(1e-6)
                self.missed.append((back - before).abs().max() / size)
        return adjoint

    def carried(
        self, t1: float, t0: float, y: Tensor, adjoint: Tensor, keep: Callable[[Result, Tensor], None] | None
    ) -> tuple[Tensor | None, Tensor]:
        """The state, None where there is nothing to solve, and the adjoint, solved back to ``t0``."""
        with torch.no_grad():
            scale = adjoint.abs().max() if adjoint.numel() else adjoint.abs().sum()
        if t0 == t1 or (keep is None and not scale.item()):
            return None, adjoint
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        start = self.pack(y, adjoint / scale, scale)
        problem = self._problem(t1, t0, start, scale, dense=keep is not None)
        result = integrate(problem, start, None)
        if not result.status:
            raise ERRORS[result.status](f"{_failed(result, t1, t0)} {self.remedy}", None, result.status)
        if keep is not None:
            keep(result, scale)
        # The length that the clock would have tried next; what an output time cut short says little.
        self.first_step = result.dt or self.first_step
        back, adjoint = self.unpack(result.y1, scale)
        return back, adjoint * scale

    def warn(self) -> None:
        """Say so where the state, integrated backwards, did not come back to where it had been."""
        worst = torch.stack(self.missed).max().item() if self.missed else 0.0
        limit = max(RECONSTRUCTION, 10 * self.rtol) if isinstance(self.rtol, float) else RECONSTRUCTION
        if not worst <= limit:
            self.config.missed(
                f"The adjoint integrated the state backwards and missed the forward solution by {worst:.0e} of its "
                f"size (more than {limit:g}): the backward solve is unstable or its tolerance too loose, and "
                "the gradient is unreliable.",
                worst,
            )

    def _problem(self, t1: float, t0: float, start: Tensor, scale: Tensor, *, dense: bool) -> Problem:
        config, structure = self.config, Structure(start)
        rtol, atol = self.tolerance(self.rtol, start, "rtol"), self.tolerance(self.atol, start, "atol")
        hooks = config.hooks or Hooks()

        def accepted(a: Any, b: Any, state: Tensor, step: Any) -> None:
            self.accepted(host(a), host(b), step, scale)
            if config.hooks is not None:
                hooks.on_accept(a, b, self.parts(state, scale), step)  # pyright: ignore[reportArgumentType]

        return Problem(
            term=Bound(Augmented(self), structure, start, Stats(), Tolerance(rtol, atol)),
            solver=self.solver,
            controller=self._controller(t1, t0),
            structure=structure,
            times=[t1, t0],
            rtol=rtol,
            atol=atol,
            save=Save(dense=dense),
            stats=self.stats,
            max_steps=config.max_steps or self.problem.max_steps,
            hooks=Hooks(self._shown(hooks.on_step, scale), accepted, self._shown(hooks.on_reject, scale)),
        )

    def _shown(self, hook: Any, scale: Tensor) -> Any:
        """A hook that sees the parts of the state."""
        if self.config.hooks is None:
            return hook
        return lambda a, b, state, *step: hook(a, b, self.parts(state, scale), *step)

    def _controller(self, t1: float, t0: float) -> Controller:
        controller = self.controller
        if getattr(self.solver, "whole", False):
            return Whole()
        if isinstance(controller, Whole):
            controller = PID()
        if isinstance(controller, PID):
            first = self.first_step if controller.first_step is None else controller.first_step
            return replace(controller, first_step=first, norm=self.norm())
        if isinstance(controller, Grid) and controller.times is not None:
            low, high = min(t0, t1), max(t0, t1)
            inside = [s for s in map(host, controller.times) if low < s < high]
            return Grid([t1, *sorted(inside, reverse=t0 < t1), t0])
        return controller

    def norm(self) -> Callable[[Tensor], Tensor | float] | None:
        """Of the scaled error; None is the root mean square."""
        norm = self.config.norm
        return (lambda scaled: norm(self.parts(scaled))) if callable(norm) else None

    def _pull(
        self, t: Any, y: Tensor, a: Tensor, *, parameters: bool, field: Bound | None = None
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """The rate, and ``a^T df`` by the state or by the parameters."""
        return self._pull_at(self.field if field is None else field, t, host(t), y, a, parameters)

    def _pull_at(
        self, field: Bound, t: Any, at: float, y: Tensor, a: Tensor, parameters: bool
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        moving = isinstance(t, Tensor) and t.requires_grad  # Rosenbrock methods differentiate by time
        if moving and not self.tape.transform:
            (t,) = later(y, [t])

        def piece(own: Sequence[Any], _: Any, args: Any) -> Sequence[Tensor | None]:
            return [field.rate(own[1] if moving else t, own[0], args)]

        dy, g_own, _, g_inputs = self.current_tape(y).pull(
            piece, [y, t] if moving else [y], [a], at, parameters=parameters, keep=not parameters, through=self.through
        )
        return dy, g_inputs if parameters else g_own[:1]

    def current_tape(self, y: Tensor) -> Tape:
        """The tape, for a product at ``y``.

        One that records no graph in iterations and error estimates, whose numbers alone are wanted.
        """
        if not self.create_graph or self.tape.transform:
            return self.tape
        tape = copy.copy(self.tape)
        if torch.is_grad_enabled():
            tape.inputs = later(y, tape.inputs)
        else:
            tape.create_graph = False
        return tape


class Controlled(Backward):
    """``(a_t, y, a, a_theta...)`` in one vector: the adjoints of time and parameters under error control.

    ``a_t' = -a^T df/dt`` and ``a_theta' = -a^T df/dtheta`` run on from interval to interval, in the widest dtype of
    state and parameters.
    """

    def __init__(
        self, config: Adjoint, recipe: Recipe, inputs: Sequence[Tensor], create_graph: bool, *, timed: bool
    ) -> None:
        super().__init__(config, recipe, inputs, create_graph, timed=timed)
        if self.split:
            raise ValueError(
                f'`control_parameters` is not offered with "{self.solver.name}", which kicks and drifts. Leave it out.'
            )
        term = recipe.problem.term
        self.kinds = [x.dtype for x in inputs]
        self.wide = torch.empty(0, dtype=recipe.problem.structure.dtype).dtype
        for kind in self.kinds:
            self.wide = torch.promote_types(self.wide, kind)
        #: a_t and a_theta, unscaled, at the time reached.
        self.sums = [
            torch.zeros(shape, dtype=self.wide, device=term.device) for shape in [(), *(x.shape for x in inputs)]
        ]
        self.layout: Structure | None = None

    def pack(self, y: Tensor, a: Tensor, scale: Tensor) -> Tensor:
        """One vector, all but ``y`` divided by the scale."""
        time, *inputs = (x / scale for x in self.sums)
        parts = (time, y.to(self.wide), a.to(self.wide), *inputs)
        self.layout = self.layout or Structure(parts)
        return self.layout.ravel(parts)

    def unpack(self, state: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` and ``a``; the others are kept for the next interval."""
        time, y, a, *inputs = self._leaves(state)
        self.sums = [x * scale for x in (time, *inputs)]
        return self._narrow(y), self._narrow(a)

    def parts(self, state: Tensor, scale: Tensor | float = 1.0) -> tuple[Any, ...]:
        """``(a_t, y, a, *a_theta)``, ``y`` and ``a`` in the structure of the forward state."""
        time, y, a, *inputs = self._leaves(state)
        unravel = self.problem.structure.unravel
        return time * scale, unravel(y), unravel(a * scale), *(x * scale for x in inputs)

    def tolerance(self, value: Any, start: Tensor, name: str) -> float | Tensor:
        """A number for all; a tensor of the forward state serves ``y`` and ``a``, its least element the others."""
        assert self.layout is not None
        if isinstance(value, Tensor) and value.dim():
            least = value.min()
            value = (least, value, value, *[least] * (len(self.sums) - 1))
        elif isinstance(value, Tensor):
            value = value.item()
        return self.layout.broadcast(value, start, name)

    def rates(self, t: Tensor, state: Tensor, samples: Tensor | None = None, field: Bound | None = None) -> Tensor:
        """``d/dt (a_t, y, a, a_theta) = (-a^T df/dt, f, -a^T df/dy, -a^T df/dtheta)``."""
        whole = self.field if field is None else field
        _, y, a, *_ = self._leaves(state)
        moving = self.timed or t.requires_grad
        y = self._narrow(y)
        own = [y, *([t] if self.tape.transform else later(y, [t]))] if moving else [y]

        def piece(own: Sequence[Any], _: Any, args: Any) -> Sequence[Tensor | None]:
            return [whole.rate(own[1] if moving else t, own[0], args)]

        tape = self.current_tape(y)
        dy, g_own, _, g_inputs = tape.pull(piece, own, [self._narrow(a)], host(t), keep=True, through=self.through)
        assert dy is not None
        g_time = g_own[1] if self.timed else None
        pulled = zip((g_time, g_own[0], *g_inputs), (self.sums[0], a, *self.sums[1:]), strict=True)
        time, down, *inputs = (torch.zeros_like(x) if g is None else -g for g, x in pulled)
        parts = (time, dy if self.through else dy.detach(), down, *inputs)
        return torch.cat([x.reshape(-1).to(state) for x in parts])

    def accepted(self, a: float, b: float, step: Any, scale: Tensor) -> None:
        """The parameters are part of the state."""

    def totals(self) -> Sequence[Tensor | None]:
        """The gradients of the inputs, in their dtypes."""
        found = zip(self.sums[1:], self.kinds, strict=True)
        return [(x if kind.is_complex or not x.is_complex() else x.real).to(kind) for x, kind in found]

    def slope(self, t: float, y: Tensor, g: Tensor) -> Tensor:
        """``<g, f(t, y)>``; what an output time gains, all earlier times lose."""
        gained = super().slope(t, y, g)
        self.sums[0] = self.sums[0] - gained
        return gained

    def start_slope(self, t: float, y: Tensor, adjoint: Tensor) -> Tensor:
        """The integrated ``a_t``."""
        time = self.sums[0]
        return time.real if time.is_complex() else time

    def norm(self) -> Callable[[Tensor], Tensor | float]:
        """The user's, or the largest root mean square of the parts."""
        norm = self.config.norm
        if callable(norm):
            return lambda scaled: norm(self.parts(scaled))
        return lambda scaled: max(_rms(x) for x in self._leaves(scaled))

    def _leaves(self, state: Tensor) -> tuple[Tensor, ...]:
        assert self.layout is not None
        return self.layout.unravel(state)

    def _narrow(self, x: Tensor) -> Tensor:
        """Back in the dtype of the state."""
        kind = self.problem.structure.dtype
        return (x if kind.is_complex or not x.is_complex() else x.real).to(kind)


def _rms(x: Tensor) -> float:
    return torch.linalg.vector_norm(x).item() / x.numel() ** 0.5 if x.numel() else 0.0


def later(y: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors under names that were made after ``y``.

    Autograd leaves out what was made before all that it differentiates by. Without this, a product that is recorded
    would walk through the graph of all steps before it, and a backward solve would cost the square of its steps.
    """
    if not tensors or y.grad_fn is None or not torch.is_grad_enabled():
        return list(tensors)
    return list(_Later.apply(y, *tensors))  # pyright: ignore[reportGeneralTypeIssues]


class _Later(torch.autograd.Function):
    """The identity of all but the first input, on which it only pretends to depend."""

    @staticmethod
    def forward(y: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, *grads


class Augmented(Term):
    """The augmented system as a term; that of a part of a `Sum` where ``part`` is its number."""

    def __init__(self, backward: Backward, part: int | None = None) -> None:
        self.backward = backward
        self.field = None if part is None else backward.field.parts[part]

    @cached_property
    def stiff(self) -> Augmented:
        """The first part, which is the stiff part of the augmented system too."""
        return Augmented(self.backward, 0)

    @cached_property
    def nonstiff(self) -> Augmented:
        """The other part."""
        return Augmented(self.backward, 1)

    def rate(self, t: Tensor, y: Tensor, args: Any) -> Tensor:
        """The rates; ``args`` are the samples, on the per-sample clock."""
        return self.backward.rates(t, y, args, self.field)

    def kick(self, t: Tensor, q: Tensor, args: Any) -> Tensor:
        """That of the state and of its adjoint."""
        return self.backward.half("kick", t, q, args)

    def drift(self, t: Tensor, p: Tensor, args: Any) -> Tensor:
        """That of the state and of its adjoint."""
        return self.backward.half("drift", t, p, args)


def _failed(result: Result, t1: float, t0: float) -> str:
    reason = {
        Status.MAX_STEPS: "took too many steps",
        Status.STEP_UNDERFLOW: "ran into a vanishing step size",
        Status.NON_FINITE: "became infinite or NaN",
        Status.NEWTON: "did not converge in its Newton iteration",
    }.get(result.status, f"ended early ({result.status.value})")
    return f"The adjoint, integrated backwards from t = {t1:g} to {t0:g}, {reason} at t = {result.t1:g}."
