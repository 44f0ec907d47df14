"""Steady states: where a field comes to rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline import roots
from pathline._forward import recording
from pathline._registry import look_up
from pathline._structure import Structure, real_dtype
from pathline.gradients.implicit import Implicit, Known, restarted
from pathline.gradients.inputs import find, transforming
from pathline.loop import finite
from pathline.mapped import Operation, Single, batched, look_for_hidden, vmapping
from pathline.roots import Root
from pathline.solvers.base import spread_mask
from pathline.solvers.jacobians import Systems, linearize, split
from pathline.solvers.linear import factor
from pathline.solvers.linear import solve as solve_linear
from pathline.solving import TOLERANCES, solve
from pathline.stats import Stats
from pathline.status import ERRORS, BatchError, Status, Statuses
from pathline.surroundings import check_layers
from pathline.terms import ODE, Bound, PerSample, Term
from pathline.tolerance import Tolerance

#: The relative residual of the linear systems of Newton's method without Jacobians.
INEXACT = 1e-4


@dataclass(frozen=True)
class SteadyState:
    """What `solve_steady_state` returns. *Maturing.*

    Attributes:
        y: the state at rest, in the structure of ``y0``.
        residual: the largest ``|f|`` there, a 0-d tensor; ``(batch,)`` where rows are systems of their own by request.
        iterations: of the root finder.
        stats: counts; ``evaluations`` of the field, those for derivatives included.
        status: SUCCESS, or why not; a `Statuses` with one for each row where rows were requested.
        message: why it failed; empty on success.
    """

    y: Any
    residual: Tensor
    iterations: int
    stats: Stats
    status: Status | Statuses
    message: str = ""

    @property
    def evaluations(self) -> int:
        """Evaluations of the field."""
        return self.stats.evaluations


@dataclass(frozen=True)
class System:
    """The equations ``f(t, y, args) = 0`` as root finders see them: ``(rows, size)`` unknowns."""

    term: Bound
    t: Any
    args: Any
    systems: Systems
    tolerance: Tolerance
    gradient: Implicit

    def g(self, z: Tensor) -> Tensor:
        """The rates."""
        return self.systems.flat(self.term.rate(self.t, self.systems.state(z), self.args))

    def scale(self, z: Tensor) -> Tensor:
        """What corrections are measured by."""
        y = self.systems.state(z)
        return self.systems.scale(self.tolerance.scale(y, y))

    def linear(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The rates, and solutions of linear equations with their Jacobian."""
        if not self.gradient.free(self.systems.size):
            value, jacobian = linearize(self.term, self.t, z, self.args, self.systems)
            factors = factor(jacobian, self.term.stats)
            return value, lambda r: solve_linear(factors, r)
        known = Known(self.term, self.t, z, self.args, self.systems)
        return self.g(z), lambda r: restarted(known.forth, r, INEXACT)


@dataclass(frozen=True)
class NewtonRoot:
    """Newton's method, damped: quadratic convergence, one Jacobian an iteration. *Maturing.*

    Args:
        iterations: at most so many.
    """

    iterations: int = 50

    def find(self, system: System, z: Tensor) -> Root:
        """From the start ``z`` ``(rows, size)``."""
        return roots.newton(system.g, system.linear, z, system.scale, most=self.iterations)


@dataclass(frozen=True)
class BroydenRoot:
    """Broyden's method: no Jacobian, one evaluation an iteration; good where ``f`` is near ``-y / mixing``. *Maturing.*

    Args:
        iterations: at most so many.
        memory: how many updates are kept.
        mixing: the first step is ``mixing * f``, in units of time.
    """

    iterations: int = 300
    memory: int = 20
    mixing: float = 1.0

    def find(self, system: System, z: Tensor) -> Root:
        """From the start ``z`` ``(rows, size)``."""
        options: Any = {"most": self.iterations, "memory": self.memory, "mixing": self.mixing}
        return roots.broyden(system.g, z, system.scale, **options)


@dataclass(frozen=True)
class AndersonRoot:
    """Anderson's acceleration of ``y <- y + mixing * f(y)``: one evaluation an iteration. *Maturing.*

    Args:
        iterations: at most so many.
        memory: how many iterations are combined.
        mixing: the step, in units of time.
    """

    iterations: int = 500
    memory: int = 5
    mixing: float = 1.0

    def find(self, system: System, z: Tensor) -> Root:
        """From the start ``z`` ``(rows, size)``."""
        options: Any = {"most": self.iterations, "memory": self.memory, "mixing": self.mixing}
        return roots.anderson(system.g, z, system.scale, **options)


@dataclass(frozen=True)
class PseudoTime:
    """Follow the flow until Newton's method, with whole corrections, converges: the robust start. *Maturing.*

    It comes to rest where the flow does, at a stable state of the basin that the start lies in, which Newton's method
    alone need not find.

    Args:
        method: a stiff method of `solve`.
        span: the first stretch of time; each further one is ``growth`` times as long.
        growth: see there.
        stretches: at most so many.
        steps: at most so many in a stretch.
        rtol: of the way there.
    """

    method: str = "kvaerno3"
    span: float = 1.0
    growth: float = 4.0
    stretches: int = 12
    steps: int = 1000
    rtol: float = 1e-3

    def find(self, system: System, z: Tensor) -> Root:
        """From the start ``z`` ``(rows, size)``."""
        found, span = Root.at(z), self.span
        for _ in range(self.stretches):
            moved, arrived = self._flow(system, found.z, ~found.done & found.finite, span)
            near = roots.newton(system.g, system.linear, moved, system.scale, most=8, least=1.0)
            found.iterations += near.iterations
            found.z = torch.where((near.done & ~found.done).unsqueeze(1), near.z, moved)
            found.done |= near.done
            found.finite &= found.done | arrived
            if bool((found.done | ~found.finite).all()):
                break
            span *= self.growth
        return found

    def _flow(self, system: System, z: Tensor, live: Tensor, span: float) -> tuple[Tensor, Tensor]:
        """The state after a stretch, and which rows came to its end; rows that do not live stay where they are."""
        term, y = system.term, system.systems.state(z)
        options: Any = {"method": self.method, "rtol": self.rtol, "max_steps": self.steps, "on_failure": "return"}
        if term.per_sample:  # rows that have arrived drop out: the rest need to know who they are
            some = lambda t, y, index: _held(term.select(index).rate(system.t[index], y, system.args), live[index])  # noqa: E731
            options |= {"clock": "per-sample", "args": PerSample(torch.arange(len(y), device=y.device))}
            flow = solve(some, y, (0.0, span), **options)
            arrived = torch.tensor([bool(s) for s in flow.status], device=y.device)  # pyright: ignore[reportGeneralTypeIssues]
        else:
            all_ = lambda t, y: _held(term.rate(system.t, y, system.args), live)  # noqa: E731
            flow = solve(all_, y, (0.0, span), **options)
            arrived = torch.full_like(live, bool(flow.status))
        moved = system.systems.flat(flow.y1)
        return torch.where(torch.isfinite(moved).all(1, keepdim=True), moved, z), arrived | ~live


def _held(rate: Tensor, live: Tensor) -> Tensor:
    """The rate, zero in rows that stay where they are; one number stands for all of them."""
    return torch.where(spread_mask(live, rate) if len(live) > 1 else live.reshape(()), rate, 0.0)


#: Every root finder by its name.
ROOTS: dict[str, Any] = {
    "newton": NewtonRoot(),
    "broyden": BroydenRoot(),
    "anderson": AndersonRoot(),
    "pseudo-time": PseudoTime(),
}


def solve_steady_state(
    f: Callable[..., Any] | Term,
    y0: Any,
    *,
    args: Any = None,
    t: float = 0.0,
    method: str | Any = "newton",
    rtol: float | None = None,
    atol: float | None = None,
    rows: bool | None = None,
    gradient: Implicit | None = None,
    on_failure: str = "raise",
) -> SteadyState:
    r"""Find a state at rest, $f(t, y, \theta) = 0$, and differentiate it by the implicit function theorem.

    The derivatives reach ``args`` and every tensor that the field reads, to second order, under torch.autograd and
    torch.func alike, in the memory of two evaluations whatever the number of iterations. ``y0`` only says where to
    begin: its gradient is zero. *Maturing.*

    Args:
        f: as for `solve`. It is evaluated at the one time ``t``.
        y0: the start, a tensor or a structure of tensors.
        args: handed to the field; its tensors receive gradients.
        t: the time that the field sees.
        method: a name from `ROOTS` or an object: "newton" (damped, one Jacobian an iteration), "broyden" and
            "anderson" (no Jacobian, for fields near a contraction), "pseudo-time" (follows the flow by a stiff method,
            then Newton: to the stable state in whose basin ``y0`` lies).
        rtol: the last correction is within ``atol + rtol |y|`` in the root mean square; by default 1e-6 in float64,
            1e-4 in float32.
        atol: 1e-9 and 1e-6.
        rows: whether each entry of the first dimension is a system of its own, with its own convergence and status; the
            field then receives times ``(rows, 1, ..., 1)`` as on the per-sample clock. By default a look at the
            derivatives tells whether rows mix; linear algebra uses that, and the status stays one for all.
        gradient: `Implicit`, which also says up to how many unknowns Jacobians are made.
        on_failure: "raise" a `SolveError` that carries the result, or "return" it.

    Returns:
        A `SteadyState`.

    Raises:
        TypeError, ValueError: an argument is wrong.
        NewtonError: the iteration did not converge.
        NonFiniteError: the field returned numbers that are not finite.
        RuntimeError: the Jacobian at the root is singular and a derivative is wanted.

    Example:
        >>> import torch, pathline
        >>> logistic = lambda t, y, k: y * (1 - y / k)
        >>> capacity = torch.tensor([2.0, 3.0], requires_grad=True)
        >>> rest = pathline.solve_steady_state(logistic, torch.ones(2), args=capacity, method="pseudo-time")
        >>> rest.y.detach()
        tensor([2., 3.])
        >>> rest.y.sum().backward()
        >>> capacity.grad
        tensor([1., 1.])

    References:
        Deuflhard (2004), Newton Methods for Nonlinear Problems. Kelley and Keyes (1998), Convergence analysis of
        pseudo-transient continuation. Bai, Kolter, Koltun (2019), Deep equilibrium models.
    """
    finder, gradient = _finder(method), Implicit() if gradient is None else gradient
    if not isinstance(gradient, Implicit):
        raise TypeError(f"`gradient` of a steady state is pathline.Implicit(...); it is {gradient!r}. Leave it out.")
    if on_failure not in ("raise", "return"):
        raise ValueError(f'`on_failure` is "raise" or "return"; it is {on_failure!r}.')
    options = {"root": finder, "rtol": rtol, "atol": atol, "gradient": gradient}
    if vmapping():
        mapped = _mapped(f, y0, t, args, rows, on_failure, options)
        if mapped is not None:
            return mapped
    structure = Structure(y0, rows=bool(rows))
    flat = y0.clone() if structure.plain else structure.ravel(y0)
    if not transforming() and not finite(flat):
        raise ValueError("`y0` is finite; it holds NaN or infinite values.")
    term = f if isinstance(f, Term) else ODE(f)
    if not term.offers("rate"):
        raise TypeError(f"A steady state needs a term with a rate dy/dt; {type(term).__name__} has none.")
    check_layers(f, args)
    system = _system(term, structure, flat, t, args, rows, rtol, atol, gradient)
    root = _found(finder, system, flat)
    return _result(system, root, structure, flat, on_failure)


def _finder(method: Any) -> Any:
    if isinstance(method, str):
        return look_up("method", method, ROOTS)
    if not callable(getattr(method, "find", None)) or isinstance(method, type):
        raise TypeError(f"`method` is a name from ROOTS or an object such as PseudoTime(span=10.0); it is {method!r}.")
    return method


def _system(
    term: Term,
    structure: Structure,
    flat: Tensor,
    t: float,
    args: Any,
    rows: bool | None,
    rtol: float | None,
    atol: float | None,
    gradient: Implicit,
) -> System:
    defaults = TOLERANCES[real_dtype(flat.dtype)]
    given = [default if x is None else x for x, default in zip((rtol, atol), defaults, strict=True)]
    for name, value in zip(("rtol", "atol"), given, strict=True):
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` is a finite number >= 0; it is {value!r}.")
    tolerance = Tolerance(float(given[0]), float(given[1]), bool(rows))
    bound = Bound(term, structure, flat, Stats())
    when: Any = float(t)
    if rows:
        when = torch.full((len(flat),), when, dtype=torch.float64, device=flat.device)
    whole = Systems(False, flat.shape, flat.is_complex())
    systems = whole if rows is False else split(bound, when, flat, args)
    return System(bound, when, args, systems, tolerance, gradient)


def _found(finder: Any, system: System, flat: Tensor) -> Root:
    """The root, without gradient."""
    with torch.no_grad():
        z = system.systems.flat(flat.detach())
        return finder.find(system, z) if z.numel() else _nothing(z)


def _nothing(z: Tensor) -> Root:
    """The root of no equations."""
    rested = torch.ones(len(z), dtype=torch.bool, device=z.device)
    return Root(z, rested, rested)


def _result(system: System, root: Root, structure: Structure, flat: Tensor, on_failure: str) -> SteadyState:
    z, systems = root.z.detach(), system.systems
    with torch.no_grad():
        value = system.g(z)
        size = value.abs().amax(1) if value.numel() else value.new_zeros(len(value))
    rested = bool(root.done.all())
    if rested and recording() and z.numel():
        z = system.gradient.attach(system.term, system.t, z, system.args, systems)
    y = systems.state(z)
    if recording():  # the start has no part in where it ends, and a gradient of zero says so
        y = torch.where(torch.zeros_like(y, dtype=torch.bool), flat, y)
    alone = system.term.per_sample
    kinds = [_status(done, number) for done, number in zip(root.done.tolist(), size.tolist(), strict=True)]
    status = Statuses(kinds) if alone else next((kind for kind in kinds if not kind), Status.SUCCESS)
    residual = size.detach() if alone else size.detach().max() if len(size) else size.sum()
    found = SteadyState(structure.unravel(y), residual, root.iterations, system.term.stats, status)
    if status:
        return found
    found = replace(found, message=_message(kinds, size, root, alone))
    if on_failure == "return":
        return found
    failed = {kind for kind in kinds if not kind}
    error = ERRORS[next(iter(failed))] if len(failed) == 1 else BatchError
    raise error(found.message, found, next(iter(failed)))


def _status(done: bool, residual: float) -> Status:
    if done:
        return Status.SUCCESS
    return Status.NEWTON if residual < float("inf") else Status.NON_FINITE


def _message(kinds: Sequence[Status], size: Tensor, root: Root, alone: bool) -> str:
    failed = [i for i, kind in enumerate(kinds) if not kind]
    where = f" in {len(failed)} of {len(kinds)} rows, the first of them {failed[0]}" if alone or len(kinds) > 1 else ""
    return (
        f"No steady state was found{where}: after {root.iterations} iterations the largest rate is "
        f'{float(size[failed[0]]):.3g}. Begin nearer, try method="pseudo-time", which follows the flow, or '
        "PseudoTime(span=...) with a longer time; a field that never comes to rest has no steady state to find."
    )


# --- under torch.func.vmap -----------------------------------------------------------------------------------------


def _mapped(
    f: Any, y0: Any, t: float, args: Any, rows: bool | None, on_failure: str, options: dict[str, Any]
) -> SteadyState | None:
    """Under vmap every entry is a row with a system of its own; None where nothing is batched."""
    inputs = find(f, args)
    leaves, spec = pytree.tree_flatten(y0)
    term = f if isinstance(f, Term) else ODE(f)
    if not inputs.complete:
        look_for_hidden(term, inputs, leaves, spec, torch.tensor([float(t)]))
    operands = [*leaves, *inputs.tensors]
    if not any(isinstance(x, Tensor) and batched(x) for x in operands):
        return None
    if rows or on_failure != "raise":
        name = "rows=True" if rows else 'on_failure="return"'
        raise ValueError(
            f"`{name}` under torch.func.vmap is not available: every entry is a system of its own there already, and "
            "has no status. Leave it out, or pass the batch as the first dimension of `y0` with rows=True."
        )
    check_layers(f, args)
    single = Single(_as_solution, term, spec, float(t), inputs, options)
    *outputs, residual, _ = Operation.apply(single, *operands)  # pyright: ignore[reportGeneralTypeIssues]
    y = pytree.tree_map(lambda x: x[0], pytree.tree_unflatten(outputs, spec))
    return SteadyState(y, residual, single.stats.steps, single.stats, Status.SUCCESS)


def _as_solution(term: Term, y0: Any, t: float, *, args: Any, clock: str = "shared", root: Any, **options: Any) -> Any:
    """A steady state as a solve of one time, which is what vmap's rule knows."""
    alone = clock == "per-sample"
    found = solve_steady_state(term, y0, args=args, t=t, method=root, rows=alone or None, **options)
    ys = pytree.tree_map(lambda x: x.unsqueeze(0), found.y)
    valid = torch.ones(1, *(found.residual.shape if alone else ()), dtype=torch.bool, device=found.residual.device)
    stats = replace(found.stats, steps=found.iterations)
    return SimpleNamespace(ys=ys, y1=found.residual, valid=valid, stats=stats)
