"""torchdiffeq's front doors on this library's solvers.

Signatures, shapes, dtypes, options, warnings and the types of errors are those of torchdiffeq 0.2.5; what differs is
listed in the how-to "Coming from torchdiffeq".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from pathline.compat._adjoint import Wishes
from pathline.compat._calls import Call, monotone
from pathline.compat._events import until
from pathline.gradients.backprop import Backprop
from pathline.saving import Save

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
__version__ = "0.2.5"

State = Any
_BACKPROP = Backprop()


def odeint(
    func: Callable[[Tensor, State], State],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, State], Tensor] | None = None,
) -> Any:
    """Solve ``dy/dt = func(t, y)``, ``y(t[0]) = y0``, differentiable by autograd through the steps. *Stable.*

    Args:
        func: maps a 0-d time and the state to its rate.
        y0: a tensor, or a tuple of tensors.
        t: ``(n,)``, strictly increasing or decreasing.
        rtol: relative tolerance, a number or tensor; for a tuple state also a tuple of them.
        atol: absolute tolerance, alike.
        method: "dopri5" by default; any of the original's names.
        options: of the method.
        event_fn: ``event_fn(t, y)``; the solve ends where an element of it changes sign.

    Returns:
        ``(n, *y0.shape)``, a tuple of them for a tuple; with ``event_fn`` the pair (event time, ``(2, *y0.shape)``).

    Raises:
        ValueError, TypeError, AssertionError: as the original does.

    Example:
        >>> import torch
        >>> from pathline.compat.torchdiffeq import odeint
        >>> odeint(lambda t, y: -y, torch.ones(2), torch.linspace(0.0, 1.0, 3))[-1]
        tensor([0.3679, 0.3679])

    References:
        Chen (2018), torchdiffeq.
    """
    call = Call(func, y0, t, rtol, atol, method, options)
    if event_fn is not None:
        return until(call, _BACKPROP, event_fn)
    kept = call.run(_BACKPROP, call.problem(monotone(call.t)))
    return call.structure.unravel(kept.rows[0])


def odeint_adjoint(
    func: Callable[[Tensor, State], State],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, State], Tensor] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Any = None,
) -> Any:
    """`odeint` with the gradient of the continuous adjoint, in constant memory. *Stable.*

    Args:
        func: a module, or any function together with ``adjoint_params``.
        y0: as for `odeint`, like the next six.
        t: the times.
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: the method.
        options: its options.
        event_fn: what ends the solve.
        adjoint_rtol: of the backward solve; by default that of the forward one, like the next three.
        adjoint_atol: absolute tolerance.
        adjoint_method: the method.
        adjoint_options: alike, without the norm. ``{"norm": "seminorm"}`` leaves the parameters out of the error
            control; a function of ``(t, y, adj_y, *adj_params)`` replaces it.
        adjoint_params: the tensors that receive gradients; by default the module's parameters.

    Raises:
        ValueError: ``func`` is no module and ``adjoint_params`` is missing, or ``adjoint_options`` is needed.
    """
    wishes = Wishes(
        func=func,
        method=method,
        options=options,
        rtol=rtol,
        atol=atol,
        adjoint_rtol=adjoint_rtol,
        adjoint_atol=adjoint_atol,
        adjoint_method=adjoint_method,
        adjoint_options=adjoint_options,
        adjoint_params=adjoint_params,
    )
    call = Call(func, y0, t, rtol, atol, method, options)
    gradient = wishes.gradient(call)
    if event_fn is not None:
        return until(call, gradient, event_fn)
    rows = call.run(gradient, call.problem(monotone(call.t))).rows[0]
    if isinstance(rows.grad_fn, BackwardCFunction):  # a solve of one time has no node of its own
        rows.grad_fn.adjoint_options = gradient.options  # pyright: ignore[reportAttributeAccessIssue]
    return call.structure.unravel(rows)


def odeint_event(
    func: Callable[[Tensor, State], State],
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable[[Tensor, State], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, State]:
    """Solve from ``t0`` until an element of ``event_fn(t, y)`` changes sign. *Stable.*

    Time and state of the event carry gradients to the start, to the parameters of ``func`` and to those of
    ``event_fn``, by the implicit function theorem.

    Args:
        func: as for `odeint`.
        y0: the start.
        t0: its time, one element.
        event_fn: what ends the solve.
        reverse_time: solve backwards in time.
        odeint_interface: `odeint`, `odeint_adjoint`, or a partial of one of them.
        kwargs: handed on to it.

    Returns:
        The time of the event, and ``(2, *y0.shape)``: the states at the start and there.

    Raises:
        AssertionError: the event did not happen within ``max_num_steps``, 20000 by default.

    References:
        Chen, Amos, Nickel (2021), Learning Neural Event Functions for Ordinary Differential Equations.
    """
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    return odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)


def odeint_dense(
    func: Callable[[Tensor, State], State],
    y0: State,
    t0: Tensor | float,
    t1: Tensor | float,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[[Tensor], State]:
    """The solution between ``t0`` and ``t1`` as a function of time. *Stable.*

    Args:
        func: as for `odeint`, like ``y0`` and what follows ``t1``.
        y0: the start.
        t0: its time.
        t1: the end.
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: the method.
        options: its options.

    Returns:
        ``solution(t)``, ``(*t.shape, *y0.shape)``; differentiable.
    """
    like = t0 if isinstance(t0, Tensor) else torch.empty(0)
    t = torch.tensor([float(t0), float(t1)], dtype=like.dtype, device=like.device)
    call = Call(func, y0, t, rtol, atol, method, options)
    problem = call.problem(monotone(call.t), Save(dense=True))
    return call.solution(problem, call.run(_BACKPROP, problem))
