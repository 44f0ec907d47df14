"""scipy's solvers as a method, for cross-checks."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline._forward import moves, recording
from pathline._structure import host, real_dtype
from pathline.status import Status

if TYPE_CHECKING:
    from pathline.terms import Bound, Time

#: Tolerances (rtol, atol) of a solve with fixed steps, which states none.
_TIGHT = {torch.float64: (1e-10, 1e-12), torch.float32: (1e-6, 1e-7)}


class Scipy:
    """A method of `scipy.integrate.solve_ivp`: an independent answer to compare with.

    The whole solve is one call, in float64 on the CPU; rows come from scipy's own dense output. Nothing of it can be
    differentiated, so that ``gradient="adjoint"`` is the only one; the backward solve is scipy's too. *Maturing.*

    Args:
        method: "RK23", "RK45", "DOP853", "Radau", "BDF" or "LSODA".
        min_step: the shortest step, which "LSODA" alone knows.
        max_step: the longest step.

    Raises:
        ValueError: scipy has no such method, or its method no such option.
        ImportError: scipy isn't installed; at the first solve.

    Example:
        >>> import torch, pathline
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> method, gradient = pathline.Scipy("Radau"), "adjoint"
        >>> y1 = pathline.solve(lambda t, y: -y, y0, (0.0, 1.0), method=method, gradient=gradient).y1
        >>> bool((y1 - torch.tensor(-1.0).double().exp()).abs() < 1e-5)
        True

    References:
        Virtanen et al. (2020), SciPy 1.0. Hindmarsh (1983), ODEPACK; Petzold (1983), Automatic selection of methods for
        solving stiff and nonstiff systems of ordinary differential equations.
    """

    needs = "rate"
    adaptive = True
    whole = True
    variable_order = True
    carries_slope = False
    fsal = False
    stages = None
    gradients = ("adjoint",)
    clocks = ("shared",)

    def __init__(self, method: str = "LSODA", *, min_step: float | None = None, max_step: float | None = None) -> None:
        if method not in _ORDERS:
            raise ValueError(f"`method` is one of {', '.join(_ORDERS)}; it is {method!r}.")
        if min_step is not None and method != "LSODA":
            raise ValueError(f'`min_step` is an option of "LSODA" alone; the method is {method!r}. Leave it out.')
        self.method, self.min_step, self.max_step = method, min_step, max_step
        self.name = "scipy" if method == "LSODA" else f"scipy({method})"
        self.order, self.embedded_order = _ORDERS[method]
        self.implicit = method in ("Radau", "BDF", "LSODA")
        #: Of the quadrature over one of its steps; the curve itself is scipy's.
        self.dense_order = min(self.order + 1, 7)

    def __repr__(self) -> str:
        return f'Scipy("{self.method}")'

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> None:
        """Nothing is carried."""
        return

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: None) -> ScipyStep:
        """The whole solve."""
        if isinstance(t1, Tensor) and t1.dim():
            raise ValueError(
                f'"{self.name}" knows one clock. Solve each sample by itself, or use clock="shared" or another method, '
                'such as "bdf".'
            )
        start, end = float(host(t0)), float(host(t1))
        refuse_graph(self.name, term, start, y, args)
        rtol, atol = _TIGHT.get(real_dtype(y.dtype), _TIGHT[torch.float32])
        if term.tolerance is not None:
            rtol, atol = (_array(x, y) for x in (term.tolerance.rtol, term.tolerance.atol))

        limits = {"min_step": self.min_step, "max_step": self.max_step}
        options = {name: value for name, value in limits.items() if value is not None}
        watch = _Watch(term, y, args)
        with torch.no_grad():
            try:
                answer = _integrate().solve_ivp(
                    watch.rate,
                    (start, end),
                    _flat(y),
                    method=self.method,
                    dense_output=True,
                    rtol=rtol,
                    atol=atol,
                    **options,
                )
            except _Stopped as stop:
                return ScipyStep(None, y, start, str(stop), stop.status)
        term.stats.jacobians += int(answer.njev)
        term.stats.factorizations += int(answer.nlu)
        failed = None if answer.success else f"scipy stopped at t = {answer.t[-1]:g}: {answer.message.rstrip('.')}"
        return ScipyStep(answer, y, start, failed)


class _Stopped(Exception):
    """Thrown through scipy, which would go on for ever."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Watch:
    """The rate as scipy calls it; stops where it isn't finite, or where time no longer moves."""

    def __init__(self, term: Bound, y: Tensor, args: Any) -> None:
        self.term, self.y, self.args = term, y, args
        self.at, self.calls = math.nan, 0
        #: A Jacobian by differences takes a call an element, all at one time.
        self.patience = 1000 + 20 * y.numel()

    def rate(self, t: float, flat: Any) -> Any:
        t = float(t)
        self.calls = self.calls + 1 if abs(t - self.at) <= 8 * math.ulp(self.at) else 0
        if not self.calls:
            self.at = t
        if self.calls > self.patience:
            raise _Stopped(Status.STEP_UNDERFLOW, f"scipy's step size vanished at t = {t:g}")
        dy = _flat(self.term.rate(t, _state(flat, self.y), self.args))
        if not np.isfinite(dy).all():
            raise _Stopped(Status.NON_FINITE, f"the rate isn't finite at t = {t:g}")
        return dy


class ScipyStep:
    """scipy's answer.

    Attributes:
        knots: the ends of scipy's own steps.
        status: the kind of failure, where there was one.
    """

    error = None
    carry = None

    def __init__(
        self, answer: Any, y0: Tensor, t0: float, failed: str | None, status: Status = Status.STEP_UNDERFLOW
    ) -> None:
        self.answer, self.y0, self.failed, self.status = answer, y0, failed, status
        self.knots: list[float] = [t0] if answer is None else answer.t.tolist()
        self.y1 = y0 if answer is None else _state(answer.y[:, -1], y0)

    def rows(self, times: Sequence[float] | Tensor) -> Tensor:
        """``(len(times), *state)``: dense output at times inside the step."""
        when = times.tolist() if isinstance(times, Tensor) else list(times)
        return torch.stack([_state(row, self.y0) for row in self.answer.sol(np.array(when)).T])

    def coefficients(self, rows: Tensor | None = None) -> Tensor:
        """There is no one polynomial for scipy's many steps.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "Save(dense=True) keeps one polynomial a step, and a scipy solve is many steps in one. Ask for the times "
            'in `t`, or use another method, such as "bdf".'
        )


def refuse_graph(name: str, term: Bound, t0: float, y: Tensor, args: Any) -> None:
    """Raise where autograd would want a graph that scipy doesn't leave."""
    if recording() and (moves(y) or term.rate(t0, y, args).requires_grad):
        raise ValueError(
            f'"{name}" leaves no graph to differentiate. Use gradient="adjoint", torch.no_grad(), or another method, '
            'such as "bdf".'
        )


_ORDERS = {"RK23": (3, 2), "RK45": (5, 4), "DOP853": (8, 7), "Radau": (5, 3), "BDF": (5, 5), "LSODA": (12, 12)}


def _integrate() -> Any:
    try:
        return importlib.import_module("scipy.integrate")
    except ImportError:
        raise ImportError('The methods of scipy need scipy: pip install "scipy>=1.13".') from None


def _flat(y: Tensor) -> Any:
    """A float64 vector; complex numbers as pairs."""
    y = y.detach().cpu().resolve_conj()
    return (torch.view_as_real(y) if y.is_complex() else y).reshape(-1).double().numpy()


def _state(flat: Any, like: Tensor) -> Tensor:
    """The state in its own shape, dtype and place."""
    x = torch.tensor(flat, dtype=torch.float64)
    shape = like.shape
    x = torch.view_as_complex(x.reshape(*shape, 2)) if like.is_complex() else x.reshape(shape)
    return x.to(device=like.device, dtype=like.dtype)


def _array(tolerance: float | Tensor, like: Tensor) -> Any:
    """A number, or one for each element of the flat state."""
    if not isinstance(tolerance, Tensor):
        return tolerance
    spread = tolerance.detach().expand(like.shape)
    return _flat(torch.complex(spread, spread) if like.is_complex() else spread)
