"""The continuous adjoint: a second differential equation, solved backwards."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pathline._structure import Structure, host
from pathline.controllers import PID, Controller, Grid
from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Kept, Sum, gather, inner
from pathline.gradients.recompute import Recipe, Tape, no_forward_mode, prepare
from pathline.loop import Hooks, Problem, Result, integrate
from pathline.saving import Save
from pathline.solvers import Solver, find_solver
from pathline.stats import Stats
from pathline.status import ERRORS, Status
from pathline.terms import Bound, Term
from pathline.tolerance import Tolerance

#: How far, relative to its size, the state may miss its stored value when it is integrated backwards.
RECONSTRUCTION = 1e-2


@dataclass(frozen=True)
class Adjoint:
    """Integrate the adjoint ``a = dL/dy`` backwards in time, beside the state.

    ``da/dt = -a^T df/dy``, ``dL/dtheta = integral of a^T df/dtheta``; at every output time the state is set to the
    stored row and ``a`` jumps by the row's cotangent. Memory does not grow with the number of steps. The gradient is
    that of the exact solution, not of the computed one: it is as accurate as the tolerances, and where the backward
    solve is unstable (dissipative or stiff fields over long times) it is wrong; `Checkpointed` is not.

    Error control sees the state and the adjoint, not the parameters (the "seminorm" of Kidger et al.): these are
    quadratures, summed by a Gauss rule over the dense output of every accepted backward step. The equation is linear in
    ``a``, so it is integrated at unit scale: ``atol`` is relative to the largest cotangent, and a loss in other units
    gives the same gradient. *Stable.*

    Args:
        method: of the backward solve; None takes that of the forward solve, as do the other arguments.
        rtol, atol: tolerances of the backward solve.
        controller: its controller.

    Raises:
        ValueError: a negative tolerance, or a method that does not exist.

    References:
        Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural Ordinary Differential Equations, appendix B and C.
        Kidger, Chen, Lyons (2021), "Hey, that's not an ODE": Faster ODE adjoints via seminorms.
    """

    method: str | Solver | None = None
    rtol: float | None = None
    atol: float | None = None
    controller: Controller | None = None

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` is a number >= 0, or None for that of the forward solve; it is {value!r}.")
        if self.method is not None:
            find_solver(self.method)

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve under one autograd function; ``Save(fn=...)`` is applied to its rows."""
        if problem.solver.needs != "rate":
            raise ValueError(
                f'gradient="adjoint" needs a term with a rate dy/dt, and "{problem.solver.name}" integrates one '
                'without. Use gradient="checkpointed".'
            )
        at_rest = problem.times[0] == problem.times[-1]
        if at_rest or not torch.is_grad_enabled():
            return Backprop().solve(problem, y0, t, args, field)
        plain = replace(problem, save=replace(problem.save, fn=None))
        recipe = prepare(plain, y0, args, field)
        run = _Run(self, recipe)
        rows = _Solve.apply(run, y0, t, *recipe.inputs.tensors)
        curve = None if run.kept.curve is None else _NoGradient.apply(run.kept.curve, rows)
        y1 = rows[-1].clone() if run.kept.result.status else run.kept.y1
        return Kept((rows,), curve, y1, run.kept.result)


class _Run:
    """One solve: what the autograd function needs beside tensors."""

    def __init__(self, config: Adjoint, recipe: Recipe) -> None:
        self.config, self.recipe = config, recipe
        self.kept: Any = None
        self.times: list[float] = []

    def forward(self, y0: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        recipe, problem = self.recipe, self.recipe.problem
        with torch.no_grad(), recipe.forward(tensors) as args:
            result = integrate(problem, y0, args, slope=recipe.slope)
            self.kept = gather(problem, result)
        recipe.slope = None
        ends = [problem.times[0], *(host(piece.t1) for piece in result.pieces)]
        self.times = ends if problem.save.steps else list(problem.times[: result.valid])
        for piece in result.pieces:
            piece.outputs = ()
        rows = self.kept.rows[0]
        self.kept.rows = result.first = ()
        return rows.clone() if rows._is_view() else rows


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(run: _Run, y0: Tensor, t: Tensor | None, *tensors: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return run.forward(y0, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        run, _, t, *tensors = inputs
        ctx.run = run
        ctx.save_for_backward(t, output, *tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise no_forward_mode()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        run: _Run = ctx.run
        t, rows, *tensors = ctx.saved_tensors
        return None, *sweep(run.config, run.recipe, run.times, rows, g, t, tensors)


class _NoGradient(torch.autograd.Function):
    """Values that say so when they are differentiated."""

    @staticmethod
    def forward(x: Tensor, like: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError(
            'The dense output of a solve with gradient="adjoint" carries no gradient. Ask for the times you need in '
            '`t`, or use gradient="checkpointed".'
        )


# --- the backward pass -------------------------------------------------------------------------------------------


def sweep(
    config: Adjoint,
    recipe: Recipe,
    times: Sequence[float],
    rows: Tensor,
    g: Tensor,
    t: Tensor | None,
    tensors: Sequence[Tensor],
    keep: Callable[[Result, Tensor], None] | None = None,
) -> list[Tensor | None]:
    """Gradients of the start, the times and the inputs, from the cotangents ``g`` of the rows.

    Args:
        config: of the backward solve.
        recipe: of the forward solve.
        times: of the rows.
        rows: the stored states, ``(n, *state)``.
        g: their cotangents.
        t: the requested times, where they require grad.
        tensors: the inputs of the field.
        keep: called with each interval's solve (dense) and the scale of its adjoint.
    """
    create_graph = torch.is_grad_enabled()
    if create_graph and t is not None:
        raise RuntimeError(
            'Second derivatives with respect to `t` are not offered by gradient="adjoint". Use gradient="checkpointed".'
        )
    problem = recipe.problem
    backward = _Backward(config, recipe, tensors, create_graph)
    with backward.tape.open(), torch.set_grad_enabled(create_graph):
        adjoint = torch.zeros_like(rows[0])
        slopes: list[Tensor] = []
        for i in range(len(times) - 1, 0, -1):
            if t is not None:
                slopes.append(inner(g[i], backward.rate(times[i], rows[i])))
            adjoint = adjoint + g[i]
            adjoint = backward.interval(times[i], times[i - 1], rows[i], rows[i - 1], adjoint, keep)
        if t is not None:
            slopes.append(-inner(adjoint, backward.rate(times[0], rows[0])))
        g_t = None if t is None else torch.stack(slopes[::-1]).to(t.dtype)
        if g_t is not None and len(times) < len(problem.times):
            g_t = torch.cat([g_t, g_t.new_zeros(len(problem.times) - len(times))])
        backward.warn()
    stats = problem.stats
    stats.backward_steps += backward.stats.steps
    stats.backward_evaluations += backward.stats.evaluations
    return [adjoint + g[0], g_t, *backward.total.values]


class _Backward:
    """The augmented system between two output times, and the sums of the parameters' quadratures."""

    def __init__(self, config: Adjoint, recipe: Recipe, inputs: Sequence[Tensor], create_graph: bool) -> None:
        self.create_graph = create_graph
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

    def rate(self, t: float, y: Tensor) -> Tensor:
        """The field itself."""
        return self.field.rate(t, y, self.tape.args)

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
        with torch.no_grad():
            scale = adjoint.abs().max() if adjoint.numel() else adjoint.abs().sum()
        if t0 == t1 or (keep is None and not scale.item()):
            return adjoint
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        start = torch.stack([y, adjoint / scale])
        problem = self._problem(t1, t0, start, scale, dense=keep is not None)
        result = integrate(problem, start, None)
        if not result.status:
            raise ERRORS[result.status](_failed(result, t1, t0), None, result.status)
        if keep is not None:
            keep(result, scale)
        with torch.no_grad():
            size = torch.stack([before.abs().max(), y.abs().max()]).max().clamp_min(1e-6)
            self.missed.append((result.y1[0] - before).abs().max() / size)
        return result.y1[1] * scale

    def warn(self) -> None:
        """Say so where the state, integrated backwards, did not come back to where it had been."""
        worst = torch.stack(self.missed).max().item() if self.missed else 0.0
        limit = max(RECONSTRUCTION, 10 * self.rtol) if isinstance(self.rtol, float) else RECONSTRUCTION
        if not worst <= limit:
            warnings.warn(
                f"The adjoint integrated the state backwards and missed the forward solution by {worst:.0e} of its "
                f"size (more than {limit:g}): the backward solve is unstable or its tolerance too loose, and "
                'the gradient is unreliable. Use gradient="checkpointed", which is exact.',
                stacklevel=2,
            )

    def _problem(self, t1: float, t0: float, start: Tensor, scale: Tensor, *, dense: bool) -> Problem:
        forward = self.problem
        structure = Structure(start)
        term = Bound(_Augmented(self), structure, start, Stats(), Tolerance(self.rtol, self.atol))

        def accepted(a: Any, b: Any, _: Tensor, step: Any) -> None:
            a, b = host(a), host(b)
            self.first_step = abs(b - a) if self.first_step is None or b != t0 else self.first_step
            if self.total.values:
                self._quadrature(a, b, step, scale)

        return Problem(
            term=term,
            solver=self.solver,
            controller=self._controller(t1, t0),
            structure=structure,
            times=[t1, t0],
            rtol=self.rtol,
            atol=self.atol,
            save=Save(dense=dense),
            stats=self.stats,
            max_steps=forward.max_steps,
            hooks=Hooks(on_accept=accepted),
        )

    def _controller(self, t1: float, t0: float) -> Controller:
        controller = self.controller
        if isinstance(controller, PID):
            first = self.first_step if controller.first_step is None else controller.first_step
            return replace(controller, first_step=first, norm=None)
        if isinstance(controller, Grid) and controller.times is not None:
            low, high = min(t0, t1), max(t0, t1)
            inside = [float(s) for s in controller.times if low < float(s) < high]
            return Grid([t1, *sorted(inside, reverse=t0 < t1), t0])
        return controller

    def augmented(self, t: Tensor, state: Tensor) -> Tensor:
        """``d/dt (y, a) = (f, -a^T df/dy)``."""
        y, a = state[0], state[1]
        dy, (da,) = self._pull(t, y, a, parameters=False)
        assert dy is not None
        down = torch.zeros_like(a) if da is None else -da
        return torch.stack([dy if self.create_graph else dy.detach(), down])

    def _quadrature(self, a: float, b: float, step: Any, scale: Tensor) -> None:
        """Add ``integral of a^T df/dtheta`` over one backward step."""
        half, middle = (b - a) / 2, (a + b) / 2
        times = [middle + half * node for node in self.nodes]
        for s, weight, (y, adjoint) in zip(times, self.weights, step.rows(times), strict=True):
            _, grads = self._pull(s, y, adjoint * (scale * (-half * weight)), parameters=True)
            self.total.add(grads)

    def _pull(self, t: Any, y: Tensor, a: Tensor, *, parameters: bool) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """The rate, and ``a^T df`` by the state or by the parameters."""

        def piece(own: Sequence[Any], _: Any, args: Any) -> Sequence[Tensor | None]:
            return [self.field.rate(t, own[0], args)]

        keep = not parameters
        dy, g_own, _, g_inputs = self.tape.pull(piece, [y], [a], host(t), parameters=parameters, keep=keep)
        return dy, g_inputs if parameters else g_own


class _Augmented(Term):
    def __init__(self, backward: _Backward) -> None:
        self.backward = backward

    def rate(self, t: Tensor, y: Tensor, args: Any) -> Tensor:
        return self.backward.augmented(t, y)


def _failed(result: Result, t1: float, t0: float) -> str:
    reason = {
        Status.MAX_STEPS: "took too many steps",
        Status.STEP_UNDERFLOW: "ran into a vanishing step size",
        Status.NON_FINITE: "became infinite or NaN",
    }[result.status]
    return (
        f"The adjoint, integrated backwards from t = {t1:g} to {t0:g}, {reason} at t = {result.t1:g}: solving the "
        'state backwards is unstable here. Use gradient="checkpointed", which is exact and needs no backward solve.'
    )
