"""The front door: `solve` checks what it is given, once, and hands it to a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._forward import forward_mode
from pathline._structure import Structure, host
from pathline.controllers import PID, Controller, FixedStep, Grid, Whole
from pathline.eventful import solve_eventful
from pathline.events import Event
from pathline.finishing import finish, finish_rows
from pathline.gradients import GRADIENTS, Backprop, Gradient, find_gradient
from pathline.gradients.inputs import transforming
from pathline.hooks import Hooks
from pathline.integrals import accrue
from pathline.loop import Problem, finite
from pathline.mapped import solve_mapped, vmapping
from pathline.row_eventful import solve_row_eventful
from pathline.saving import Save
from pathline.solution import Solution
from pathline.solvers import Solver, find_solver
from pathline.solvers.base import spread_mask
from pathline.stats import Stats
from pathline.surroundings import check_layers
from pathline.terms import ODE, Bound, PerSample, Term, own_events
from pathline.times import Times, row_times, shared_times
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
    events: Event | Sequence[Event] | Mapping[Any, Event] = (),
    clock: str = "shared",
    batch_first: bool = False,
    check_rows: bool = False,
    integrals: Mapping[str, Any] | None = None,
    gradient: str | Gradient = "backprop",
    compile: bool | Mapping[str, Any] = False,
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
        t: the times to return, monotone in either direction, repeats allowed; or ``(t0, t1)``. May require grad. On the
            per-sample clock ``(n,)`` for all samples, ``(n, batch)``, or a list of one tensor for each sample.
        method: a name from `METHODS`, or a `Solver`.
        rtol: relative tolerance of an adaptive method: a number, a tensor that broadcasts against the state, or a
            structure like ``y0``. By default 1e-4 for float32, 1e-6 for float64, 1e-2 for bfloat16.
        atol: absolute tolerance, alike; 1e-6, 1e-9, 1e-3. A step counts when the root mean square of
            ``error / (atol + rtol |y|)`` is at most 1.
        dt: the step of a fixed-step method; ``ceil(|t1 - t0| / dt)`` equal steps. Without it ``t`` is the grid.
        args: handed to the field whole; its tensors receive gradients.
        controller: `PID`, `FixedStep` or `Grid`, for what is beyond tolerances and ``dt``.
        save: what to keep, see `Save`.
        events: an `Event`, a sequence of them (their names are 0, 1, ...), or a mapping of names to events. Those that
            a field knows of itself, by a method ``own_events(span, args, rate)``, come to them.
        clock: "shared", one step size for the whole batch; or "per-sample": every entry of the first dimension of
            ``y0`` has its own steps, times, tolerances, events and status, and stops costing evaluations when it is
            done. The field then receives ``t`` as ``(rows, 1, ..., 1)`` (``(rows,)`` for a structured state) and the
            samples that are still active; what belongs to single samples reaches it as `PerSample` leaves of ``args``.
        batch_first: on the per-sample clock, ``t``, ``ts``, ``valid`` and ``ys`` have the batch before the time.
        check_rows: on the per-sample clock, look once whether the field mixes samples, which it must not.
        integrals: running costs ``q' = fn(t, y, dy)`` by name, integrated from zero beside the state, with gradients;
            ``dy`` is the rate that the field has just returned. They are at ``solution.integrals[name]`` for the rows
            of ``ys``. On the shared clock ``fn`` returns a tensor of any shape, ``(batch,)`` for one cost a sample; on
            the per-sample clock one a row, ``(rows, ...)``. Steps and evaluations are those of a solve without them.
            `KineticEnergy`, `JacobianNorm`, `ControlEffort`, `ErrorEstimate` and `StiffnessEstimate` are ready-made.
        gradient: "backprop" (autograd through the steps), "checkpointed" (exact, memory of the states), "reversible"
            (exact, no memory of the steps, for reversible methods) or "adjoint" (Chen et al. 2018), or an object such
            as ``Adjoint(rtol=1e-6)`` or ``Checkpointed(schedule="logarithmic", states=100)``.
        compile: compile the steps of an explicit method, and their derivatives, for this kind of field and shape of
            state: some seconds once, kept on disk. True, or a mapping of options for Inductor.
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
    if torch.compiler.is_compiling():
        from pathline.compiled.inside import solve_inside

        options = {"method": method, "rtol": rtol, "atol": atol, "dt": dt, "args": args, "controller": controller}
        options |= {"save": save, "events": events, "clock": clock, "batch_first": batch_first}
        options |= {"check_rows": check_rows, "integrals": integrals, "gradient": gradient, "compile": compile}
        options |= {"max_steps": max_steps, "on_failure": on_failure, "progress": progress, "hooks": hooks}
        return solve_inside(solve, f, y0, t, options)
    if vmapping():
        options = {"method": method, "rtol": rtol, "atol": atol, "dt": dt, "controller": controller, "save": save}
        options |= {"events": events, "clock": clock, "gradient": gradient, "max_steps": max_steps}
        options |= {"on_failure": on_failure, "progress": progress, "hooks": hooks, "integrals": integrals}
        mapped = solve_mapped(solve, f, y0, t, args, options)
        if mapped is not None:
            return mapped
    _refuse_unavailable(clock, on_failure)
    _check_kinds(save, progress, hooks)
    _check_clock(find_solver(method), clock)
    per_sample = clock == "per-sample"
    if not per_sample and (batch_first or check_rows):
        name = "batch_first" if batch_first else "check_rows"
        raise ValueError(f'`{name}` is for clock="per-sample"; on the shared clock leave it out.')
    structure = Structure(y0, rows=per_sample)
    flat = y0.clone() if structure.plain else structure.ravel(y0)  # nothing inside reaches the caller's tensor
    _check_start(flat)
    solver, differentiate = find_solver(method), find_gradient(gradient)
    if forward_mode():
        differentiate = Backprop()  # a tangent travels with the steps: there is nothing to recompute
    term = _term(f, solver, args)
    times = row_times(t, flat, batch_first=batch_first) if per_sample else shared_times(t, flat)
    save = save or Save()
    control = _controller(controller, solver, dt, rtol, atol, t, times)
    _check_moving(times.moving, control, save, term, solver)
    _check_args(args, flat, per_sample)
    check_layers(f, args)
    stats = Stats()
    defaults = TOLERANCES[flat.real.dtype if flat.is_complex() else flat.dtype]
    rtol = _tolerance("rtol", rtol, defaults[0], structure, flat)
    atol = _tolerance("atol", atol, defaults[1], structure, flat)
    adapts = solver.adaptive and (not isinstance(control, FixedStep | Grid) or isinstance(control, Whole))
    tolerance = Tolerance(rtol, atol, per_sample) if adapts else None
    problem = Problem(
        term=Bound(term, structure, flat, stats, tolerance),
        solver=solver,
        controller=control,
        structure=structure,
        times=times.host,
        rtol=rtol,
        atol=atol,
        save=save,
        stats=stats,
        max_steps=_max_steps(max_steps, control),
        hooks=_with_progress(hooks or Hooks(), progress, times.host),
    )
    _check_tolerances(problem)
    _check_gradient(solver, gradient)
    if check_rows and per_sample:
        _check_rows(problem, flat, args)
    named = _all_events(events, term, times, args, solver)
    if integrals:
        whole = accrue(problem, flat, args, integrals, named, differentiate)
        problem, flat, args, f, named = whole.problem, whole.start, whole.args, whole.field, whole.events
    if compile is not False:
        from pathline.compiled import compiled  # late: nothing else needs it

        problem, differentiate = compiled(problem, differentiate, compile, watched=bool(named))
    if not named:
        kept = differentiate.solve(problem, flat, times.moving, args, f)
    elif per_sample:
        kept = solve_row_eventful(differentiate, problem, flat, times, args, f, named)
    else:
        kept = solve_eventful(differentiate, problem, flat, times, args, f, named)
    if per_sample:
        return finish_rows(problem, kept, times, args, on_failure, batch_first)
    return finish(problem, kept, times, args, on_failure)


# --- checking ----------------------------------------------------------------------------------------------------


def _refuse_unavailable(clock: str, on_failure: str) -> None:
    if clock not in ("shared", "per-sample"):
        raise ValueError(f'`clock` is "shared" or "per-sample"; it is {clock!r}.')
    if on_failure not in ("raise", "return"):
        raise ValueError(f'`on_failure` is "raise" or "return"; it is {on_failure!r}.')


def _check_kinds(save: Any, progress: Any, hooks: Any) -> None:
    if save is not None and not isinstance(save, Save):
        raise TypeError(f"`save` is a Save object; it is {save!r}. Pass pathline.Save(dense=True), for example.")
    if progress is not None and not callable(progress):
        raise TypeError(f"`progress` is a function of the fraction done; it is {progress!r}. Pass print, for example.")
    if hooks is not None and not isinstance(hooks, Hooks):
        raise TypeError(f"`hooks` is a Hooks object; it is {hooks!r}. Pass pathline.Hooks(on_accept=...).")


def _all_events(events: Any, term: Term, times: Times, args: Any, solver: Solver) -> dict[Any, Event]:
    """Those that the field brings along, and those that were given."""
    own = _named(own_events(term, (times.host[0], times.host[-1]), args, getattr(term, "rate", None)))
    named = _named(events)
    for name in own:
        if name in named:
            raise ValueError(f"`events` names {name!r}, which the field brings along itself. Leave it out.")
    if (own or named) and getattr(solver, "whole", False):
        raise ValueError(
            f'"{solver.name}" takes the whole span in one step and sees no events. Use our "bdf" or "tsit5".'
        )
    return own | named


def _named(events: Any) -> dict[Any, Event]:
    named = {0: events} if isinstance(events, Event) else events
    if not isinstance(named, Mapping):
        try:
            named = dict(enumerate(named))
        except TypeError:
            named = {0: named}
    for event in named.values():
        if not isinstance(event, Event):
            raise TypeError(
                f"`events` is an Event, or a sequence or mapping of them; it holds {event!r}. Pass "
                "pathline.Event(crossing=...) or pathline.Event(at=...)."
            )
    return dict(named)


def _check_start(y0: Tensor) -> None:
    if transforming():
        return
    if not finite(y0):
        bad = (~torch.isfinite(y0.detach())).nonzero()[0].tolist()
        raise ValueError(f"`y0` is finite; element {bad} is {y0.detach()[tuple(bad)].item()}.")


def _term(f: Any, solver: Solver, args: Any) -> Term:
    term = f if isinstance(f, Term) else ODE(f)
    needs = NEEDS[solver.needs]
    missing = [need for need in needs if not term.offers(need)]
    if missing and solver.needs == "split":
        raise TypeError(
            f'"{solver.name}" kicks and drifts in turn and needs a field that is split: Separable(kick, drift), a '
            "module with methods kick and drift, or Hamiltonian(kinetic=..., potential=...). "
            f'{type(getattr(term, "f", term)).__name__} is not. Use method="implicit_midpoint", which is symplectic '
            "for any Hamiltonian."
        )
    if missing and solver.needs == "parts":
        raise TypeError(
            f'"{solver.name}" is implicit in one part of the field and explicit in the other, and needs '
            f"Sum(stiff, nonstiff); {type(getattr(term, 'f', term)).__name__} is not one. "
            'Use method="kvaerno5" for a field in one piece.'
        )
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


def _controller(
    controller: Controller | None, solver: Solver, dt: Any, rtol: Any, atol: Any, t: Any, times: Times
) -> Controller:
    if getattr(solver, "whole", False):
        if controller is not None or dt is not None:
            raise ValueError(f'"{solver.name}" chooses its steps itself: leave out `dt` and `controller`.')
        return Whole()
    if not solver.adaptive or isinstance(controller, FixedStep | Grid):
        _refuse_tolerances(solver, rtol, atol)
    if controller is not None:
        return _checked_controller(controller, solver, dt)
    if solver.adaptive:
        if dt is not None:
            raise ValueError(
                f'`dt` is the step of a fixed-step method, and "{solver.name}" chooses its steps. Use '
                f"controller=PID(first_step={dt!r}), or controller=FixedStep({dt!r}) for equal steps."
            )
        return PID()
    if dt is not None:
        return FixedStep(dt)
    given = isinstance(t, Tensor) or (isinstance(t, list) and times.shown.dim() == 2)
    if not given and len(times.shown) == 2 and bool((times.shown[0] != times.shown[1]).any()):
        raise ValueError(f'"{solver.name}" takes fixed steps: set `dt`, or pass the grid as a tensor `t`.')
    return Grid()


def _refuse_tolerances(solver: Solver, rtol: Any, atol: Any) -> None:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None:
            raise ValueError(
                f'`{name}` was given, and the steps are fixed: "{solver.name}" has no use for it. Set `dt`, or '
                'choose an adaptive method such as "tsit5".'
            )


def _checked_controller(controller: Controller, solver: Solver, dt: Any) -> Controller:
    if dt is not None:
        raise ValueError("`dt` and `controller` were both given; FixedStep(dt) is a controller already. Keep one.")
    if isinstance(controller, type) or not callable(getattr(controller, "clock", None)):
        raise TypeError(f"`controller` is an object such as PID(), FixedStep(dt) or Grid(); it is {controller!r}.")
    if not solver.adaptive and isinstance(controller, PID):
        raise ValueError(f'"{solver.name}" has no error estimate for a PID controller. Use FixedStep(dt), or "tsit5".')
    return controller


def _check_moving(moving: Tensor | None, control: Controller, save: Save, term: Term, solver: Solver) -> None:
    if moving is None:
        return
    if not term.offers("rate") or solver.needs == "contract":
        raise ValueError(
            "`t` requires grad, and this term has no rate dy/dt to differentiate by time. Pass t.detach()."
        )
    if save.steps and not control.exact_times:
        raise ValueError("`t` requires grad, and Save(steps=True) keeps rows at other times. Pass t.detach().")


def _check_args(args: Any, y0: Tensor, per_sample: bool) -> None:
    if args is None or not per_sample:
        return
    for leaf in pytree.tree_leaves(args, is_leaf=lambda x: isinstance(x, PerSample)):
        for x in pytree.tree_leaves(leaf.value) if isinstance(leaf, PerSample) else ():
            if not isinstance(x, Tensor) or x.dim() == 0 or len(x) != len(y0):
                came = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(
                    f"`PerSample` holds tensors with one entry for each of the {len(y0)} samples; it holds {came}. "
                    "Pass what all samples share without PerSample."
                )


def _check_clock(solver: Solver, clock: str) -> None:
    if clock not in getattr(solver, "clocks", (clock,)):
        raise ValueError(
            f'"{solver.name}" knows one clock for all samples. Use clock="shared", or another method, such as "bdf".'
        )


def _check_gradient(solver: Solver, gradient: Any) -> None:
    known = getattr(solver, "gradients", tuple(GRADIENTS))
    offered = (*known, "backprop") if getattr(solver, "whole", False) else known  # it looks for a graph itself
    name = gradient if isinstance(gradient, str) else type(gradient).__name__.lower()
    if torch.is_grad_enabled() and name in GRADIENTS and name not in offered:
        raise ValueError(
            f'"{solver.name}" is differentiated by gradient={" or ".join(map(repr, known))} alone, not by '
            f"{name!r}. Choose that, solve under torch.no_grad(), or take another method."
        )


def _check_rows(problem: Problem, y0: Tensor, args: Any) -> None:
    """Raise ValueError if a change of one sample changes the slope of another."""
    if len(y0) < 2 or problem.solver.needs == "contract":
        return
    term, t = problem.term, problem.times[0]
    with torch.no_grad():
        before, number = term.rate(t, y0, args), torch.arange(len(y0), device=y0.device)
        bits = [((number >> k) & 1).bool() for k in range((len(y0) - 1).bit_length())]  # any two samples differ in one
        for moved in (x for bit in bits for x in (bit, ~bit)):
            after = term.rate(t, torch.where(spread_mask(moved, y0), y0 * 1.01 + 1e-2, y0), args)
            change = (after - before)[~moved].abs().amax() if y0[0].numel() else torch.zeros(())
            size = before.abs().amax().clamp_min(1e-30)
            if float(change / size) > 1e3 * torch.finfo(before.dtype).eps:
                raise ValueError(
                    "`f` mixes samples: moving some of them changed the slope of others. On the per-sample clock each "
                    'entry of the first dimension is solved by itself; use clock="shared".'
                )


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


def _with_progress(hooks: Hooks, progress: Callable[[float], None] | None, times: Any) -> Hooks:
    if progress is None:
        return hooks
    inner = hooks.on_accept
    whole = (
        float(abs(times[-1] - times[0])) if not isinstance(times, Tensor) else (times[-1] - times[0]).abs().sum().item()
    )
    done = 0.0

    def accepted(t0: Any, t1: Any, y0: Tensor, step: Any) -> None:
        nonlocal done
        inner(t0, t1, y0, step)
        done += abs(host(t1) - host(t0)) if not isinstance(times, Tensor) else (t1 - t0).abs().sum().item()
        progress(min(done / whole, 1.0))

    return Hooks(hooks.on_step, accepted, hooks.on_reject)
