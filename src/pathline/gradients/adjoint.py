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
from pathline.gradients.base import Kept, gather, run
from pathline.gradients.recompute import Recipe, no_forward_mode, prepare
from pathline.gradients.row_augmented import RowBackward
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
    stored row and ``a`` jumps by the row's cotangent. Memory does not grow with the number of steps. The gradient is
    that of the exact solution, not of the computed one: it is as accurate as the tolerances, and where the backward
    solve is unstable (dissipative or stiff fields over long times) it is wrong; `Checkpointed` is not.

    Error control sees the state and the adjoint, not the parameters (the "seminorm" of Kidger et al.): these are
    quadratures, summed by a Gauss rule over the dense output of every accepted backward step. The equation is linear in
    ``a``, so it is integrated at unit scale: ``atol`` is relative to the largest cotangent, and a loss in other units
    gives the same gradient. *Stable.*

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
            "seminorm" leaves time and parameters out, and these are quadratures again. Without, it maps ``(y, a)``.
        max_steps: of the backward solve between two output times.
        hooks: called by the backward solve, with states in the parts that ``norm`` receives.

    Raises:
        ValueError: a negative tolerance, a method that does not exist, or another name of a norm.

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
    """

    method: str | Solver | None = None
    rtol: float | None = None
    atol: float | None = None
    controller: Controller | None = None
    control_parameters: bool = False
    norm: Callable[[Any], Tensor | float] | str | None = None
    max_steps: int | None = None
    hooks: Hooks | None = None

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` is a number >= 0, or None for that of the forward solve; it is {value!r}.")
        if self.method is not None:
            find_solver(self.method)
        if self.norm is not None and self.norm != "seminorm" and not callable(self.norm):
            raise ValueError(
                f'`norm` is "seminorm", a function of the parts of the error, or None; it is {self.norm!r}.'
            )

    def prepare(self, problem: Problem, y0: Tensor, args: Any, field: Any) -> Recipe:
        """What the solve depends on: every tensor that the field reads."""
        return prepare(problem, y0, args, field)

    def missed(self, message: str, worst: float) -> None:
        """Say that the backward solve did not return to where the forward one had been, by a part ``worst``."""
        warnings.warn(f'{message} Use gradient="checkpointed", which is exact.', stacklevel=3)

    def backward(self, recipe: Recipe, *given: Any) -> list[Tensor | None]:
        """The backward pass, see `sweep`."""
        return sweep(self, recipe, *given)

    def solve(self, problem: Problem, y0: Tensor, t: Tensor | None, args: Any, field: Any) -> Kept:
        """Solve under one autograd function; ``Save(fn=...)`` is applied to its rows."""
        if problem.solver.needs == "contract":
            raise ValueError(
                f'gradient="adjoint" needs a term with a rate dy/dt, and "{problem.solver.name}" integrates one '
                'without. Use gradient="checkpointed".'
            )
        if problem.at_rest or not torch.is_grad_enabled():
            return Backprop().solve(problem, y0, t, args, field)
        plain = replace(problem, save=replace(problem.save, fn=None))
        recipe = self.prepare(plain, y0, args, field)
        solve = _Run(self, recipe)
        rows, y1 = _Solve.apply(solve, y0, t, *recipe.inputs.tensors)
        kept = solve.kept
        y1 = _end(problem, kept, rows, y1)
        curve = None if kept.curve is None else _NoGradient.apply(kept.curve, rows)
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

    def forward(self, y0: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        recipe, problem = self.recipe, self.recipe.problem
        with torch.no_grad(), recipe.forward(tensors) as args:
            result = run(problem, y0, args, slope=recipe.slope)
            kept = self.kept = gather(problem, result)
        recipe.slope = None
        self.times = _row_times(problem, kept) if problem.per_sample else _times(problem, result)
        for piece in result.pieces:
            piece.outputs = ()
        rows, y1 = kept.rows[0], kept.y1.clone()
        kept.rows = result.first = ()
        return rows.clone() if rows._is_view() else rows, y1

    def backward(
        self, rows: Tensor, y1: Tensor, g: Tensor | None, g_y1: Tensor | None, t: Tensor | None, tensors: Any
    ) -> list[Tensor | None]:
        """The state at the end joins the rows: an event or a failure may have ended the solve between two of them."""
        g = torch.zeros_like(rows) if g is None else g
        g_y1 = torch.zeros_like(y1) if g_y1 is None else g_y1
        if self.recipe.problem.per_sample:
            reached = self.kept.reached.reshape(*rows.shape[:2], *(1,) * (rows.dim() - 2))
            rows, g = torch.where(reached, rows, y1), torch.where(reached, g, torch.zeros_like(g))
        else:
            n = len(self.times) - 1
            rows, g = rows[:n], g[:n]
        ends = [torch.cat([rows, y1.unsqueeze(0)]), torch.cat([g, g_y1.unsqueeze(0)])]
        g_y0, g_t, *g_tensors = self.config.backward(self.recipe, self.times, *ends, t, tensors)
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
    def forward(run: _Run, y0: Tensor, t: Tensor | None, *tensors: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return run.forward(y0, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        run, _, t, *tensors = inputs
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(t, *output, *tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise no_forward_mode()

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_y1: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        run: _Run = ctx.run
        t, rows, y1, *tensors = ctx.saved_tensors
        return None, *run.backward(rows, y1, g, g_y1, t, tensors)


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
    """
    create_graph = torch.is_grad_enabled()
    if create_graph and t is not None:
        raise RuntimeError(
            'Second derivatives with respect to `t` are not offered by gradient="adjoint". Use gradient="checkpointed".'
        )
    problem = recipe.problem
    controlled = config.control_parameters and config.norm != "seminorm"
    if controlled and problem.per_sample:
        raise ValueError('`control_parameters` is for clock="shared"; with one clock a sample leave it out.')
    kind = RowBackward if problem.per_sample else Controlled if controlled else Backward
    backward = kind(config, recipe, tensors, create_graph, timed=t is not None)
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
    stats.backward_evaluations += backward.stats.evaluations
    return [adjoint + g[0], g_t, *backward.totals()]
