"""The front door: `solve` checks what it is given, once, and hands it to a gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._structure import Structure, host, real_dtype
from pathline.controllers import PID, Controller, FixedStep, Grid
from pathline.controls.piecewise import PiecewisePolynomial
from pathline.failure import explain
from pathline.gradients import Gradient, Kept, find_gradient
from pathline.gradients.inputs import transforming
from pathline.loop import Hooks, Problem, finite
from pathline.saving import Save
from pathline.solution import Solution
from pathline.solvers import Solver, find_solver
from pathline.stats import Stats
from pathline.status import ERRORS, Status
from pathline.surroundings import check_layers
from pathline.terms import ODE, Bound, Term
from pathline.tolerance import Tolerance

#: Default tolerances (rtol, atol) by the real dtype of the state.
TOLERANCES = {
    torch.float64: (1e-6, 1e-9),
    torch.float32: (1e-4, 1e-6),
    torch.bfloat16: (1e-2, 1e-3),
    torch.float16: (1e-2, 1e-3),
}
MAX_STEPS = 16_384

#: What a term must offer for a solver that needs the key.
NEEDS = {
    "rate": ("rate",),
    "parts": ("stiff", "nonstiff"),
    "split": ("kick", "drift"),
    "contract": ("control", "contract"),
}


def solve(
    f: Callable[..., Any] | Term,
    y0: Any,
    t: Tensor | Sequence[float],
    *,
    method: str | Solver = "tsit5",
    rtol: Any = None,
    atol: Any = None,
    dt: float | None = None,
    args: Any = None,
    controller: Controller | None = None,
    save: Save | None = None,
    events: Sequence[Any] = (),
    clock: str = "shared",
    gradient: str | Gradient = "backprop",
    compile: bool = False,
    max_steps: int | None = None,
    on_failure: str = "raise",
    progress: Callable[[float], None] | None = None,
    hooks: Hooks | None = None,
) -> Solution:
    """Solve ``dy/dt = f(t, y, args)``, ``y(t[0]) = y0``, and return the states at the times ``t``.

    The field receives ``t`` as a 0-d tensor, in the real dtype of ``y`` (at least float32) and on its device. Output
    stands exactly at the requested times, by the method's own dense output. No gradient passes through the choice of
    step sizes. *Stable.*

    Args:
        f: ``f(t, y)``, ``f(t, y, args)``, a module or function of ``y`` alone, or a `Term`. It returns dy in the shape,
            dtype and device of ``y``.
        y0: a tensor ``(*batch, *state)``, or a tuple, named tuple or dict of tensors, nested at will; float32, float64,
            complex64, complex128 or bfloat16.
        t: the times to return, monotone in either direction, repeats allowed; or ``(t0, t1)``. May require grad.
        method: a name from `METHODS`, or a `Solver`.
        rtol: relative tolerance of an adaptive method: a number, a tensor that broadcasts against the state, or a
            structure like ``y0``. By default 1e-4 for float32, 1e-6 for float64, 1e-2 for bfloat16.
        atol: absolute tolerance, alike; 1e-6, 1e-9, 1e-3. A step counts when the root mean square of
            ``error / (atol + rtol |y|)`` is at most 1.
        dt: the step of a fixed-step method; ``ceil(|t1 - t0| / dt)`` equal steps. Without it ``t`` is the grid.
        args: handed to the field whole; its tensors receive gradients.
        controller: `PID`, `FixedStep` or `Grid`, for what is beyond tolerances and ``dt``.
        save: what to keep, see `Save`.
        events: not available yet.
        clock: "shared", one step size for the whole batch.
        gradient: "backprop" (autograd through the steps), "checkpointed" (exact, memory of the states) or "adjoint"
            (Chen et al. 2018), or an object such as ``Adjoint(rtol=1e-6)``.
        compile: not available yet.
        max_steps: of the solve; by default 16 384 for adaptive methods, unlimited for fixed steps.
        on_failure: "raise" a `SolveError` that carries the partial solution, or "return" that solution.
        progress: called with the fraction done, between 0 and 1, after every accepted step.
        hooks: functions that the loop calls at every step, see `Hooks`.

    Returns:
        A `Solution`; ``.ys`` is ``(len(t), *y0.shape)``.

    Raises:
        TypeError, ValueError: an argument is wrong; the message says what was expected.
        SolveError: the solve failed and ``on_failure="raise"``.

    Example:
        >>> import torch, pathline
        >>> solution = pathline.solve(lambda t, y: -y, torch.ones(2), torch.linspace(0, 1, 3))
        >>> solution.ys[-1]
        tensor([0.3679, 0.3679])

    References:
        Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I.
        Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural Ordinary Differential Equations.
    """
    _refuse_unavailable(events, clock, compile, on_failure)
    _check_kinds(save, progress, hooks)
    structure = Structure(y0)
    flat = y0.clone() if structure.plain else structure.ravel(y0)  # nothing inside reaches the caller's tensor
    _check_start(flat)
    solver, differentiate = find_solver(method), find_gradient(gradient)
    term = _term(f, solver, args)
    times, moving, ts = _times(t, flat)
    save = save or Save()
    control = _controller(controller, solver, dt, rtol, atol, t, times)
    _check_moving(moving, control, save, term, solver)
    check_layers(f, args)
    stats = Stats()
    defaults = TOLERANCES[flat.real.dtype if flat.is_complex() else flat.dtype]
    rtol = _tolerance("rtol", rtol, defaults[0], structure, flat)
    atol = _tolerance("atol", atol, defaults[1], structure, flat)
    adapts = solver.adaptive and not isinstance(control, FixedStep | Grid)
    problem = Problem(
        term=Bound(term, structure, flat, stats, Tolerance(rtol, atol) if adapts else None),
        solver=solver,
        controller=control,
        structure=structure,
        times=times,
        rtol=rtol,
        atol=atol,
        save=save,
        stats=stats,
        max_steps=_max_steps(max_steps, control),
        hooks=_with_progress(hooks or Hooks(), progress, times),
    )
    _check_tolerances(problem)
    kept = differentiate.solve(problem, flat, moving, args, f)
    return _finish(problem, kept, ts, args, on_failure)


# --- checking ----------------------------------------------------------------------------------------------------


def _refuse_unavailable(events: Sequence[Any], clock: str, compile: bool, on_failure: str) -> None:
    if events:
        raise ValueError("`events` are not available yet; solve piece by piece, or hit times with PID(must_hit=...).")
    if clock == "per-sample":
        raise ValueError(
            'clock="per-sample" is not available yet; it is "shared", one step size for the whole batch. '
            "Where samples differ widely, solve them in groups."
        )
    if clock != "shared":
        raise ValueError(f'`clock` is "shared"; it is {clock!r}.')
    if compile:
        raise ValueError("`compile=True` is not available yet; leave it out.")
    if on_failure not in ("raise", "return"):
        raise ValueError(f'`on_failure` is "raise" or "return"; it is {on_failure!r}.')


def _check_kinds(save: Any, progress: Any, hooks: Any) -> None:
    if save is not None and not isinstance(save, Save):
        raise TypeError(f"`save` is a Save object; it is {save!r}. Pass pathline.Save(dense=True), for example.")
    if progress is not None and not callable(progress):
        raise TypeError(f"`progress` is a function of the fraction done; it is {progress!r}. Pass print, for example.")
    if hooks is not None and not isinstance(hooks, Hooks):
        raise TypeError(f"`hooks` is a Hooks object; it is {hooks!r}. Pass pathline.Hooks(on_accept=...).")


def _check_start(y0: Tensor) -> None:
    if transforming():
        if torch._C._functorch.is_batchedtensor(y0):  # pyright: ignore[reportAttributeAccessIssue]
            raise RuntimeError(
                "`solve` under torch.func.vmap is not available: its step sizes depend on values. Pass the batch as "
                "the first dimension of `y0` instead."
            )
        return
    if not finite(y0):
        bad = (~torch.isfinite(y0.detach())).nonzero()[0].tolist()
        raise ValueError(f"`y0` is finite; element {bad} is {y0.detach()[tuple(bad)].item()}.")


def _term(f: Any, solver: Solver, args: Any) -> Term:
    term = f if isinstance(f, Term) else ODE(f)
    needs = NEEDS[solver.needs]
    missing = [need for need in needs if not term.offers(need)]
    if missing:
        raise TypeError(
            f'The method "{solver.name}" needs a term with {" and ".join(needs)}(); {type(term).__name__} has no '
            f"{' and no '.join(missing)}(). Choose a method for this kind of term."
        )
    if args is not None and getattr(term, "takes", 3) != 3:
        raise TypeError(
            "`args` was given, and `f` does not take it: its signature is not f(t, y, args). Add `args` to it."
        )
    return term


def _times(t: Any, y0: Tensor) -> tuple[list[float], Tensor | None, Tensor]:
    """The requested times as host floats, as a tensor that requires grad (or None), and as the solution shows them."""
    ts = t if isinstance(t, Tensor) else _as_times(t, y0.device)
    if ts.dim() == 2:
        raise ValueError(
            f"`t` has shape {tuple(ts.shape)}. On the shared clock all samples have the same times, a 1-d tensor; "
            'times of its own for each sample need clock="per-sample", which is not available yet (there, pass t.T).'
        )
    if ts.dim() != 1 or len(ts) == 0:
        raise ValueError(f"`t` is a 1-d tensor of at least one time; it has shape {tuple(ts.shape)}.")
    if ts.is_complex() or ts.dtype == torch.bool:
        raise TypeError(f"`t` is real; it has dtype {ts.dtype}. Pass t.real or t.float().")
    if not ts.is_floating_point():
        ts = ts.double()  # float32 would merge large integers
    times: list[float] = ts.detach().tolist()
    if not all(map(math.isfinite, times)):
        raise ValueError(f"`t` is finite; it holds {next(x for x in times if not math.isfinite(x))}. Drop such times.")
    sign = 1.0 if times[-1] >= times[0] else -1.0
    for i, (a, b) in enumerate(itertools.pairwise(times)):
        if (b - a) * sign < 0:
            raise ValueError(
                f"`t` is monotone; it goes from {a:g} to {b:g} at index {i + 1}. Sort it, with repeats if you like."
            )
    moving = ts if ts.requires_grad and torch.is_grad_enabled() else None
    return times, moving, ts


def _as_times(t: Any, device: torch.device) -> Tensor:
    """A sequence of numbers or 0-d tensors as float64."""
    try:
        items = [] if isinstance(t, str) else list(t)
    except TypeError:
        items = []
    if not items:
        raise TypeError(
            f"`t` is a tensor of times, or (t0, t1); it is {t!r}. Pass torch.linspace(0, 1, 11), for example."
        )
    if any(isinstance(x, Tensor) for x in items):
        wide = [torch.as_tensor(x, dtype=torch.float64, device=device) for x in items]
        return torch.stack(wide) if all(x.dim() == 0 for x in wide) else torch.cat(wide)
    try:
        return torch.from_numpy(np.array(items, dtype=np.float64)).to(device)
    except (TypeError, ValueError):
        raise TypeError(
            f"`t` is a tensor of times, or (t0, t1); it is {t!r}. Pass torch.linspace(0, 1, 11), for example."
        ) from None


def _controller(
    controller: Controller | None, solver: Solver, dt: Any, rtol: Any, atol: Any, t: Any, times: Sequence[float]
) -> Controller:
    fixed = not solver.adaptive
    if fixed or isinstance(controller, FixedStep | Grid):
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value is not None:
                raise ValueError(
                    f'`{name}` was given, and the steps are fixed: "{solver.name}" has no use for it. Set `dt`, or '
                    'choose an adaptive method such as "tsit5".'
                )
    if controller is not None:
        if dt is not None:
            raise ValueError("`dt` and `controller` were both given; FixedStep(dt) is a controller already. Keep one.")
        if isinstance(controller, type) or not callable(getattr(controller, "clock", None)):
            raise TypeError(f"`controller` is an object such as PID(), FixedStep(dt) or Grid(); it is {controller!r}.")
        if fixed and isinstance(controller, PID):
            raise ValueError(
                f'"{solver.name}" has no error estimate for a PID controller. Use FixedStep(dt), or "tsit5".'
            )
        return controller
    if not fixed:
        if dt is not None:
            raise ValueError(
                f'`dt` is the step of a fixed-step method, and "{solver.name}" chooses its steps. Use '
                f"controller=PID(first_step={dt!r}), or controller=FixedStep({dt!r}) for equal steps."
            )
        return PID()
    if dt is not None:
        return FixedStep(dt)
    if not isinstance(t, Tensor) and len(times) == 2 and times[0] != times[1]:
        raise ValueError(f'"{solver.name}" takes fixed steps: set `dt`, or pass the grid as a tensor `t`.')
    return Grid()


def _check_moving(moving: Tensor | None, control: Controller, save: Save, term: Term, solver: Solver) -> None:
    if moving is None:
        return
    if not term.offers("rate") or solver.needs != "rate":
        raise ValueError(
            "`t` requires grad, and this term has no rate dy/dt to differentiate by time. Pass t.detach()."
        )
    if save.steps and not control.exact_times:
        raise ValueError("`t` requires grad, and Save(steps=True) keeps rows at other times. Pass t.detach().")


def _tolerance(name: str, value: Any, default: float, structure: Structure, like: Tensor) -> float | Tensor:
    if value is None:
        return default
    real = like.real if like.is_complex() else like
    found = structure.broadcast(value, real, name)
    low = found.min().item() if isinstance(found, Tensor) and found.numel() else found
    if isinstance(low, float) and not 0 <= low < math.inf:
        raise ValueError(f"`{name}` is a finite number >= 0; it is {low:g}.")
    return found


def _check_tolerances(problem: Problem) -> None:
    values = (problem.rtol, problem.atol)
    if problem.solver.adaptive and all(isinstance(x, float) and x == 0.0 for x in values):
        raise ValueError(
            "`rtol` and `atol` are both 0, which no step can meet. Set one of them, for example rtol=1e-9."
        )


def _max_steps(max_steps: int | None, control: Controller) -> int | None:
    if max_steps is None:
        return None if isinstance(control, FixedStep | Grid) else MAX_STEPS
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"`max_steps` is a positive integer; it is {max_steps!r}.")
    return max_steps


def _with_progress(hooks: Hooks, progress: Callable[[float], None] | None, times: Sequence[float]) -> Hooks:
    if progress is None:
        return hooks
    start, span = times[0], times[-1] - times[0]
    inner = hooks.on_accept

    def accepted(t0: Any, t1: Any, y0: Tensor, step: Any) -> None:
        inner(t0, t1, y0, step)
        progress((host(t1) - start) / span)

    return Hooks(hooks.on_step, accepted, hooks.on_reject)


# --- finishing ---------------------------------------------------------------------------------------------------


def _finish(problem: Problem, kept: Kept, ts: Tensor, args: Any, on_failure: str) -> Solution:
    result, structure, save = kept.result, problem.structure, problem.save
    status = result.status
    ends = [problem.times[0], *(host(piece.t1) for piece in result.pieces)]
    if save.steps:
        ts = torch.tensor(ends, dtype=torch.float64, device=ts.device).to(ts.dtype)
    n = len(ts)
    valid = n if save.steps and status else len(kept.rows[0]) if save.steps else result.valid
    if save.fn is None and not transforming() and not finite(kept.rows[0]):
        # A state may be finite where a slope for the row before it is not.
        bad = ~torch.isfinite(kept.rows[0].detach().reshape(len(kept.rows[0]), -1)).all(1)
        valid, status = int(bad.nonzero()[0]), Status.NON_FINITE
        result.status, result.suspect = status, kept.rows[0][valid]
    rows = [_filled(leaf[:valid], n) for leaf in kept.rows]
    if save.fn is not None:
        spec = result.spec
        if spec is None:
            rows, spec = _mapped(save, structure, ts, kept.rows[0], n)
        ys = pytree.tree_unflatten(rows, spec)
    else:
        ys = structure.unravel(rows[0])
    curve = None
    if kept.curve is not None:
        knots = torch.tensor(ends, dtype=torch.float64, device=ts.device)
        curve = PiecewisePolynomial(knots, kept.curve)
    elif save.dense:
        curve = _point(problem, kept.y1, args)
    reached = ts[-1] if status else torch.tensor(result.t1, dtype=ts.dtype, device=ts.device)
    solution = Solution(
        ts=ts,
        ys=ys,
        y1=structure.unravel(kept.y1),
        t1=reached,
        valid=torch.arange(n, device=ts.device) < valid,
        status=status,
        stats=problem.stats,
        curve=curve,
        unravel=structure.unravel,
        source=(problem, args),
    )
    if status is not Status.SUCCESS:
        solution.message = explain(problem, result, args)
        if on_failure == "raise":
            raise ERRORS[status](solution.message, solution, status)
    return solution


def _point(problem: Problem, y: Tensor, args: Any) -> PiecewisePolynomial:
    """The curve of a solve of no length: one time, with the slope there."""
    with torch.no_grad():
        slope = problem.term.rate(problem.times[0], y, args) if problem.solver.needs == "rate" else torch.zeros_like(y)
    knots = torch.tensor([problem.times[0]] * 2, dtype=torch.float64, device=y.device)
    return PiecewisePolynomial(knots, torch.stack([y, slope]).unsqueeze(0))


def _mapped(save: Save, structure: Structure, ts: Tensor, rows: Tensor, n: int) -> tuple[list[Tensor], Any]:
    """``save.fn`` over rows that a gradient returned whole."""
    assert save.fn is not None
    values = [save.fn(t.to(real_dtype(rows.dtype)), structure.unravel(y)) for t, y in zip(ts, rows, strict=False)]
    flat = [pytree.tree_flatten(value) for value in values]
    leaves = [torch.stack(column) for column in zip(*(leaves for leaves, _ in flat), strict=True)]
    return [_filled(leaf, n) for leaf in leaves], flat[0][1]


def _filled(rows: Tensor, n: int) -> Tensor:
    """Rows that were not reached repeat the last valid one, without gradient."""
    missing = n - len(rows)
    if missing <= 0:
        return rows
    return torch.cat([rows, rows[-1:].detach().expand(missing, *rows.shape[1:])])
