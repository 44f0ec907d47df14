"""The continuous adjoint: a second differential equation, solved backwards."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pathline._structure import host
from pathline.controllers import Controller
from pathline.gradients.augmented import Backward, Controlled
from pathline.gradients.backprop import Backprop
from pathline.gradients.base import Kept, alive, differentiated, gather, run
from pathline.gradients.entries import entry_by_entry, once_by
from pathline.gradients.interpolated import Interpolated, Stations, Trail, ends_of
from pathline.gradients.recompute import Recipe, no_forward_mode, prepare
from pathline.gradients.row_augmented import RowBackward
from pathline.gradients.row_interpolated import RowInterpolated
from pathline.hooks import Hooks
from pathline.loop import Problem, Result
from pathline.row_saving import step_times
from pathline.solvers import Solver, find_solver
from pathline.solvers.base import spread_mask
from pathline.status import Status


@dataclass(frozen=True)
class Adjoint:
    """Integrate the adjoint ``a = dL/dy`` backwards in time, beside the state.

    ``da/dt = -a^T df/dy``, ``dL/dtheta = integral of a^T df/dtheta``; at every output time the state is set to the
    stored row and ``a`` jumps by the row's cotangent. The gradient is that of the exact solution, not of the computed
    one: it is as accurate as the tolerances.

    The state along the way is chosen by ``state``. "backward" integrates it beside ``a``, and memory does not grow with
    the number of steps; but where the forward solve contracts (dissipative or stiff fields over long times) the
    backward one is unstable and the gradient wrong, which ``verify`` finds out. "dense" reads it from the forward
    solve's dense output, which is kept: the equation of ``a`` alone is linear and as stable backwards as the solution
    is forwards. "checkpoints" keeps the state at some steps and solves forward again from one to the next, so that one
    stretch of dense output is held at a time. Their gradient is as accurate as the dense output. `Checkpointed` is
    exact in less memory than "dense"; the interpolated adjoint is for a backward solve by another method or with
    another tolerance.

    Error control sees ``a`` (and the state, where it is integrated), not the parameters (the "seminorm" of Kidger et
    al.): these are quadratures, summed by a Gauss rule over the dense output of every accepted backward step. The
    equation is linear in ``a``, so it is integrated at unit scale: ``atol`` is relative to the largest cotangent, and a
    loss in other units gives the same gradient. *Stable.*

    That a parameter acts only where the state shows it is an assumption: the weight of a fast oscillation breaks it
    while it is zero. With ``control_parameters=True`` one equation holds ``(a_t, y, a, a_theta...)``, as in the paper:
    time and parameters are integrated stage by stage and seen by the error control, at about twice the cost.

    Args:
        method: of the backward solve; None takes that of the forward solve, as do the other arguments.
        rtol, atol: tolerances of the backward solve.
        controller: its controller.
        control_parameters: whether the adjoints of time and parameters are under error control.
        norm: how a scaled error is measured. With ``control_parameters`` it maps ``(a_t, y, a, *a_theta)`` to a number,
            ``y`` and ``a`` in the structure of the state; by default the largest of the parts' root mean squares;
            "seminorm" leaves time and parameters out, and these are quadratures again. Without, it maps ``(y, a)``, or
            ``(a,)`` where the state is not integrated.
        max_steps: of the backward solve between two output times.
        hooks: called by the backward solve, with states in the parts that ``norm`` receives.
        state: where the backward solve has the state from: "backward", "dense" or "checkpoints".
        checkpoints: how many states ``state="checkpoints"`` keeps at most, spread evenly over the steps. On the
            per-sample clock the rows that are returned serve instead.
        verify: with ``state="backward"``, compare the state where the backward solve meets a stored row, and warn if it
            misses by more than a hundredth of its size.

    Raises:
        ValueError: a negative tolerance, a method that does not exist, another name of a norm or of where the state
            comes from, or ``control_parameters`` where the state is not integrated.

    Example:
        >>> import torch, pathline
        >>> rate = torch.tensor(0.5, requires_grad=True)
        >>> gradient = pathline.Adjoint(control_parameters=True)
        >>> t = torch.tensor([0.0, 1.0])
        >>> pathline.solve(lambda t, y: -rate * y, torch.ones(1), t, gradient=gradient).ys[-1].sum().backward()
        >>> rate.grad
        tensor(-0.6065)

    References:
        Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural Ordinary Differential Equations, appendix B and C.
        Kidger, Chen, Lyons (2021), "Hey, that's not an ODE": Faster ODE adjoints via seminorms.
        Kim, Ji, Deng, Ma, Rackauckas (2021), Stiff neural ordinary differential equations.
        Ma, Dixit, Innes, Guo, Rackauckas (2021), A comparison of automatic differentiation and continuous sensitivity
        analysis for derivatives of differential equation solutions.
    """

    method: str | Solver | None = None
    rtol: float | None = None
    atol: float | None = None
    controller: Controller | None = None
    control_parameters: bool = False
    norm: Callable[[Any], Tensor | float] | str | None = None
    max_steps: int | None = None
    hooks: Hooks | None = None
    state: str = "backward"
    checkpoints: int = 32
    verify: bool = True

    def __post_init__(self) -> None:
        if self.state not in ("backward", "dense", "checkpoints"):
            raise ValueError(f'`state` is "backward", "dense" or "checkpoints"; it is {self.state!r}.')
        if self.state != "backward" and self.controls:
            raise ValueError(
                f"`control_parameters` integrates the state beside the adjoint, and state={self.state!r} does not. "
                'Leave one of them out, or set norm="seminorm".'
            )
        if isinstance(self.checkpoints, bool) or not isinstance(self.checkpoints, int) or self.checkpoints < 1:
            raise ValueError(f"`checkpoints` is a positive whole number; it is {self.checkpoints!r}.")
        if not isinstance(self.verify, bool):
            raise TypeError(f"`verify` is True or False; it is {self.verify!r}.")
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            wrong = isinstance(value, str | bytes | bool)
            if wrong or (isinstance(value, int | float) and not 0 <= value < float("inf")):
                raise ValueError(f"`{name}` is a number >= 0, or None for that of the forward solve; it is {value!r}.")
        if self.method is not None:
            find_solver(self.method)
        if self.norm is not None and self.norm != "seminorm" and not callable(self.norm):
            raise ValueError(
                f'`norm` is "seminorm", a function of the parts of the error, or None; it is {self.norm!r}.'
            )

    @property
    def controls(self) -> bool:
        """Whether time and parameters are under error control."""
        return self.control_parameters and self.norm != "seminorm"

    def prepare(self, problem: Problem, y0: Tensor, args: Any, field: Any) -> Recipe:
        """What the solve depends on: every tensor that the field reads."""
        return prepare(problem, y0, args, field)

    def missed(self, message: str, worst: float) -> None:
        """Say that the backward solve did not return to where the forward one had been, by a part ``worst``."""
        warnings.warn(
            f'{message} Use gradient="checkpointed", which is exact, or Adjoint(state="dense"), which reads the state '
            "from the forward solve.",
            stacklevel=3,
        )

    def backward(self, recipe: Recipe, trail: Trail, *given: Any) -> list[Tensor | None]:
        """The backward pass, see `sweep`."""
        return sweep(self, recipe, *given, trail=trail)

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve under one autograd function; ``Save(fn=...)`` is applied to its rows."""
        if problem.solver.needs == "contract":
            raise ValueError(
                f'gradient="adjoint" needs a term with a rate dy/dt, and "{problem.solver.name}" integrates one '
                'without. Use gradient="checkpointed".'
            )
        if problem.at_rest or not torch.is_grad_enabled():
            return Backprop().solve(problem, y0, t, args, field)
        if self.state != "backward" and getattr(problem.solver, "whole", False):
            raise ValueError(
                f'Adjoint(state={self.state!r}) reads the state from dense output, and "{problem.solver.name}" keeps '
                'none. Leave `state` out, or use another method, such as "bdf".'
            )
        plain = replace(problem, save=replace(problem.save, fn=None))
        recipe = self.prepare(plain, y0, args, field)
        solve = _Run(self, recipe)
        rows, y1, *_ = _Solve.apply(solve, y0, t, *recipe.inputs.tensors)
        kept = solve.kept
        y1 = _end(problem, kept, rows, y1)
        curve = None if solve.curve is None else _NoGradient.apply(solve.curve, rows)
        solve.curve = None
        return Kept((rows,), curve, y1, kept.result, kept.reached)


def _end(problem: Problem, kept: Kept, rows: Tensor, y1: Tensor) -> Tensor:
    """The last state; where it is a requested row, with that row's dependence on its time."""
    if problem.save.steps:
        return y1
    if problem.per_sample:
        return torch.where(spread_mask(kept.result.code == 0, y1), rows[-1], y1)
    return rows[-1].clone() if kept.result.status is Status.SUCCESS else y1


class _Run:
    """One solve: what the autograd function needs beside tensors."""

    def __init__(self, config: Adjoint, recipe: Recipe) -> None:
        self.config, self.recipe = config, recipe
        self.kept: Any = None
        self.times: Any = []
        #: The dense output, where the user asked for it.
        self.curve: Tensor | None = None
        self.trail = Trail(())

    def forward(self, y0: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Rows, the last state, and what the backward solve is to find of the states between them."""
        recipe, problem = self.recipe, self.recipe.problem
        wanted = problem.save.dense
        stations = Stations(self.config.checkpoints)
        if self.config.state == "dense":
            problem = replace(problem, save=replace(problem.save, dense=True))
        elif self.config.state == "checkpoints" and not problem.per_sample:
            problem = replace(problem, hooks=stations.watching(problem.hooks))
        with torch.no_grad(), recipe.forward(tensors) as args:
            result = run(problem, y0, args, slope=recipe.slope)
            left = self._left(problem, result, stations, wanted=wanted)
            kept = self.kept = gather(recipe.problem, result)
        recipe.slope = None
        self.times = _row_times(problem, kept) if problem.per_sample else _times(problem, result)
        for piece in result.pieces:
            piece.outputs = ()
            if problem.per_sample:
                piece.curve = None
        rows, y1 = kept.rows[0], kept.y1.clone()
        self.curve = kept.curve
        kept.rows, kept.curve = (), None
        result.first = ()
        return rows.clone() if rows._is_view() else rows, y1, *left

    def _left(self, problem: Problem, result: Any, stations: Stations, *, wanted: bool) -> list[Tensor]:
        """What the backward solve will read; where it goes with each."""
        ends = result.pieces if problem.per_sample else ends_of(problem.times[0], result.pieces)
        self.trail = Trail(ends, list(stations.states))
        if self.config.state != "dense" or not result.pieces:
            return [y.clone() for y in stations.states.values()]
        if problem.per_sample:
            return [torch.cat([piece.curve for piece in result.pieces])]
        curves = [piece.outputs[-1] for piece in result.pieces]
        if wanted:
            return [curve.clone() for curve in curves]
        for piece in result.pieces:
            piece.outputs = piece.outputs[:-1]
        return curves

    def backward(
        self,
        rows: Tensor,
        y1: Tensor,
        g: Tensor | None,
        g_y1: Tensor | None,
        t: Tensor | None,
        left: Sequence[Tensor],
        tensors: Any,
    ) -> list[Tensor | None]:
        """The state at the end joins the rows: an event or a failure may have ended the solve between two of them."""
        trail = replace(self.trail, left=left)
        g = torch.zeros_like(rows) if g is None else g
        g_y1 = torch.zeros_like(y1) if g_y1 is None else g_y1
        if self.recipe.problem.per_sample:
            reached = self.kept.reached.reshape(*rows.shape[:2], *(1,) * (rows.dim() - 2))
            rows, g = torch.where(reached, rows, y1), torch.where(reached, g, torch.zeros_like(g))
        else:
            n = len(self.times) - 1
            rows, g = rows[:n], g[:n]
        ends = [torch.cat([rows, y1.unsqueeze(0)]), torch.cat([g, g_y1.unsqueeze(0)])]
        g_y0, g_t, *g_tensors = self.config.backward(self.recipe, trail, self.times, *ends, t, tensors)
        return [g_y0, None if g_t is None else self._requested(g_t), *g_tensors]

    def _requested(self, slopes: Tensor) -> Tensor:
        """Of the derivatives by the times of rows and end those of the requested times.

        The end is one of them only where no event and no failure came before; then its row has it already, unless rows
        are those of the steps.
        """
        problem, result = self.recipe.problem, self.kept.result
        n = len(problem.times)
        if not problem.save.steps:
            missing = n - (len(slopes) - 1)
            return torch.cat([slopes[:-1], slopes.new_zeros(missing, *slopes.shape[1:])])
        done = result.code == 0 if problem.per_sample else result.status is Status.SUCCESS
        return torch.cat([slopes[:1], slopes.new_zeros(n - 2, *slopes.shape[1:]), (slopes[-1] * done).unsqueeze(0)])


def _times(problem: Problem, result: Result) -> list[float]:
    """The times of the rows that were reached, and that of the last state."""
    ends = [problem.times[0], *(host(piece.end) for piece in result.pieces)]
    return [*(ends if problem.save.steps else problem.times[: result.valid]), host(result.t1)]


def _row_times(problem: Problem, kept: Kept) -> Tensor:
    """``(n + 1, batch)``: the times of the rows, those that were not reached at the end; then the end."""
    result, reached = kept.result, kept.reached
    assert reached is not None
    times = problem.times
    if problem.save.steps:
        times = step_times(result.pieces, problem.times[0], result.valid)
    return torch.cat([torch.where(reached, times, result.t1), result.t1.unsqueeze(0)])


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(run: _Run, y0: Tensor, t: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return run.forward(y0, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        run, _, t, *tensors = inputs
        ctx.run, ctx.inputs = run, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(t, *tensors, *output)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise no_forward_mode()

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_y1: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        run: _Run = ctx.run
        saved: list[Any] = alive(ctx.saved_tensors)
        t, *rest = saved
        tensors, (rows, y1, *left) = rest[: ctx.inputs], rest[ctx.inputs :]
        return None, *entry_by_entry(lambda gs: run.backward(rows, y1, gs[0], gs[1], t, left, tensors), [g, g_y1])


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
    times: Any,
    rows: Tensor,
    g: Tensor,
    t: Tensor | None,
    tensors: Sequence[Tensor],
    keep: Callable[[Result, Tensor], None] | None = None,
    trail: Trail | None = None,
) -> list[Tensor | None]:
    """Gradients of the start, the times and the inputs, from the cotangents ``g`` of the rows.

    Args:
        config: of the backward solve.
        recipe: of the forward solve.
        times: of the rows, ``(n, batch)`` on the per-sample clock; more than the requested ones where the last state is
            no requested row.
        rows: the stored states, ``(n, *state)``.
        g: their cotangents.
        t: the requested times, where they require grad; then the derivatives by ``times`` are among the results.
        tensors: the inputs of the field.
        keep: called with each interval's solve (dense) and the scale of its adjoint.
        trail: where the state is found, unless it is integrated backwards.
    """
    create_graph = differentiated(rows, g, t, *tensors)
    problem = recipe.problem
    backward = _backward(config, recipe, tensors, create_graph, trail, timed=t is not None)
    with backward.tape.open(), torch.set_grad_enabled(create_graph):
        adjoint = torch.zeros_like(rows[0])
        slopes: list[Tensor] = []
        for i in range(len(times) - 1, 0, -1):
            if t is not None:
                slopes.append(backward.slope(times[i], rows[i], g[i]))
            adjoint = adjoint + g[i]
            adjoint = backward.interval(times[i], times[i - 1], rows[i], rows[i - 1], adjoint, keep)
        if t is not None:
            # Rows of steps stand at fixed times, the first one too; a requested one moves with its time.
            slopes.append(backward.start_slope(times[0], rows[0], adjoint + g[0] if problem.save.steps else adjoint))
        g_t = None if t is None else torch.stack(slopes[::-1]).to(t.dtype)
        backward.warn()
    stats = problem.stats
    stats.backward_steps += backward.stats.steps
    stats.backward_accepted += backward.stats.accepted
    stats.backward_rejected += backward.stats.rejected
    stats.backward_evaluations += backward.stats.evaluations
    found = [adjoint + g[0], g_t, *backward.totals()]
    return list(once_by(t, found)) if create_graph and t is not None else found


def _backward(
    config: Adjoint, recipe: Recipe, tensors: Sequence[Tensor], create_graph: bool, trail: Trail | None, *, timed: bool
) -> Backward:
    per_sample = recipe.problem.per_sample
    if config.controls and per_sample:
        raise ValueError(
            '`control_parameters` is for clock="shared": with one clock a sample every sample would carry the '
            "gradients of all parameters. Leave it out."
        )
    if config.state == "backward" or trail is None:
        kind = RowBackward if per_sample else Controlled if config.controls else Backward
        return kind(config, recipe, tensors, create_graph, timed=timed)
    kind = RowInterpolated if per_sample else Interpolated
    return kind(config, recipe, tensors, create_graph, timed=timed, trail=trail)
