"""What becomes of a hidden state between two observations: nothing, a decay, or the flow of a field."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pathline.gradients import find_gradient
from pathline.models.recurrent.gaps import Gaps
from pathline.models.sizes import check_sizes
from pathline.solvers import RungeKutta, find_solver
from pathline.solving import solve
from pathline.terms import ODE, PerSample


class Hold(nn.Module):
    """The state stays as it is. *Maturing.*

    Example:
        >>> import torch
        >>> h = torch.ones(2, 3)
        >>> Hold()(h) is h
        True
    """

    def prepare(self, gaps: Gaps, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def forward(self, h: Tensor) -> Tensor:
        """``h`` itself."""
        return h


class Decay(nn.Module):
    r"""The state fades towards zero, at rates that are learned. *Maturing.*

    $$h \mapsto e^{-\max(0,\, W \delta + b)} \odot h$$

    with $\delta$ the time since each channel was last observed.

    Args:
        channels: Number of channels.
        hidden: Size of the state.

    References:
        Z. Che, S. Purushotham, K. Cho, D. Sontag, Y. Liu (2018), Recurrent neural networks for multivariate time series
        with missing values.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        check_sizes(channels=channels, hidden=hidden)
        self.channels, self.hidden = channels, hidden
        self.rate = nn.Linear(channels, hidden)

    def prepare(self, gaps: Gaps, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The factor before each row, ``(N, hidden)``."""
        factor = self.rate(gaps.silence.to(dtype)).relu().neg().exp()
        # The bias fades a state even over a gap of no length: where no time passes, nothing happens.
        return (torch.where(gaps.length[:, None] == 0, 1.0, factor),)

    def forward(self, h: Tensor, factor: Tensor) -> Tensor:
        """The state at the end of the gap."""
        return h * factor


class Flow(nn.Module):
    r"""The state follows a field, each series over its own gap. *Maturing.*

    $$\frac{dh}{ds} = \Delta\, f(t_0 + s \Delta,\, h), \qquad s \in [0, 1]$$

    Time is rescaled to [0, 1] a gap, so that series with different gaps are advanced together. $\Delta$ is negative
    where a series is gone through backward.

    Args:
        field: The rate, ``(t, h) -> dh`` or a module of ``h`` alone; ``t`` is the time of each series, ``(n, 1)``.
        method: A name in ``pathline.METHODS``, or a solver.
        steps: Steps of a fixed-step method in each gap.
        dt: Longest step of a fixed-step method; each gap is cut into equal steps, in place of ``steps``.
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance of an adaptive method.
        gradient: As in ``pathline.solve``.
        clock: Of an adaptive method. ``"shared"`` is the faster one, as the gaps of a batch are all of length one when
            they are solved; with ``"per-sample"`` a state does not depend on the rest of the batch at all.

    Raises:
        TypeError: ``field`` is not callable.
        ValueError: No such method or gradient, ``steps`` is no count, ``dt`` is not positive, or
            options of adaptive methods came with a fixed one.

    Example:
        >>> import torch
        >>> from pathline import fields
        >>> flow = Flow(fields.MLP(8), method="rk4", steps=2)

    References:
        Y. Rubanova, R. T. Q. Chen, D. Duvenaud (2019), Latent ordinary differential equations for irregularly-sampled
        time series.
    """

    def __init__(
        self,
        field: nn.Module | Callable[..., Tensor],
        *,
        method: Any = "euler",
        steps: int = 1,
        dt: float | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        gradient: Any = "backprop",
        clock: Literal["shared", "per-sample"] = "shared",
    ) -> None:
        super().__init__()
        if not callable(field):
            raise TypeError(
                "`field` is a module or a function (t, h) -> dh, "
                f"but an object of type {type(field).__name__} came. Try Flow(pathline.fields.MLP(hidden))."
            )
        solver = find_solver(method)
        find_gradient(gradient)
        check_sizes(steps=steps)
        if dt is not None and not 0 < dt < math.inf:
            raise ValueError(f"`dt` is the longest step, a positive number in the unit of the times; {dt!r} came.")
        if dt is not None and solver.adaptive:
            raise ValueError(f'`dt` is for fixed steps, and "{solver.name}" chooses its own. Set `rtol` and `atol`.')
        if not solver.adaptive and not (rtol is None and atol is None):
            raise ValueError(
                f'`rtol` and `atol` are for adaptive methods, and "{solver.name}" makes fixed steps. Leave them out, '
                'or set method="dopri5".'
            )
        if clock not in ("shared", "per-sample"):
            raise ValueError(f'`clock` is "shared" or "per-sample", but {clock!r} came.')
        self.field, self.method, self.steps, self.dt = field, method, steps, dt
        self.rtol, self.atol, self.gradient, self.clock = rtol, atol, gradient, clock
        self._evaluations = self._backward = 0
        self._stats: list[Any] = []

    @property
    def evaluations(self) -> int:
        """Evaluations of the field, each for a whole batch, since the last ``restart``."""
        return self._evaluations + sum(int(stats.evaluations) for stats in self._stats)

    @property
    def backward_evaluations(self) -> int:
        """Those of the backward pass, where the gradient solves again."""
        return sum(int(stats.backward_evaluations) for stats in self._stats)

    def restart(self) -> None:
        """Count evaluations from zero."""
        self._evaluations, self._stats = 0, []

    def prepare(self, gaps: Gaps, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Where each gap begins and how long it is, ``(N, 1)``; with ``dt`` its number of steps too."""
        start, length = gaps.start[:, None], gaps.length[:, None]
        parts = (start.to(dtype), length.to(dtype))
        if self.dt is None:
            return parts
        # A hair is taken off, so that a gap of three steps by rounding isn't cut into four.
        return (*parts, (length.abs() / self.dt * (1 - 1e-12)).ceil().clamp_min(1).to(dtype))

    def forward(self, h: Tensor, start: Tensor, length: Tensor, counts: Tensor | None = None) -> Tensor:
        """The state at the end of the gap.

        Args:
            h: ``(m, hidden)``.
            start: ``(m, 1)``, where each gap begins.
            length: ``(m, 1)``, how long it is.
            counts: ``(m, 1)``, its number of steps, in place of ``steps``.
        """
        if not len(h):
            return h
        solver = find_solver(self.method)
        if not isinstance(solver, RungeKutta) or solver.adaptive or self.gradient != "backprop":
            return self._solved(h, start, length, counts)
        term = _Rescaled(self.field, start, length)
        if counts is None:
            for k in range(self.steps):
                h = solver.step(term, k / self.steps, (k + 1) / self.steps, h, None, None).y1  # pyright: ignore[reportArgumentType]
        else:
            for k in range(int(counts.max())):
                # A series that has made its steps makes them of length zero from then on.
                active = (counts > k).to(h.dtype)
                term.start, term.length = start + k / counts * length, active * length / counts
                h = solver.step(term, 0.0, 1.0, h, None, None).y1  # pyright: ignore[reportArgumentType]
        self._evaluations += term.evaluations
        return h

    def _solved(self, h: Tensor, start: Tensor, length: Tensor, counts: Tensor | None) -> Tensor:
        """By ``pathline.solve``, for methods that adapt or are implicit and for gradients that recompute."""
        adaptive = find_solver(self.method).adaptive
        steps = self.steps if counts is None else int(counts.max())
        own = PerSample((start, length)) if self.clock == "per-sample" else (start, length)
        solution = solve(
            _rescaled(self.field),
            h,
            (0.0, 1.0),
            method=self.method,
            rtol=self.rtol,
            atol=self.atol,
            dt=None if adaptive else 1 / steps,
            args=own,
            clock=self.clock,
            gradient=self.gradient,
        )
        self._stats.append(solution.stats)
        return solution.y1

    def extra_repr(self) -> str:
        shown = {"method": "euler", "steps": 1, "dt": None, "rtol": None, "atol": None, "gradient": "backprop"}
        return ", ".join(f"{key}={getattr(self, key)!r}" for key, usual in shown.items() if getattr(self, key) != usual)


class _Rescaled:
    """The field over one gap a row, as a term for single steps of a solver."""

    def __init__(self, field: Callable[..., Any], start: Tensor, length: Tensor) -> None:
        self.ode, self.start, self.length = ODE(field), start, length
        self.evaluations = 0

    def rate(self, s: float, h: Tensor, args: None) -> Tensor:
        """``dh/ds``."""
        self.evaluations += 1
        t = torch.add(self.start, self.length, alpha=s) if s else self.start
        return _checked(self.ode.rate(t, h, None), h) * self.length


def _rescaled(field: Callable[..., Any]) -> Callable[..., Tensor]:
    """The same for ``solve``: a function of the gaps as ``args``, which gradients and clocks know how to handle."""
    ode = ODE(field)

    def rate(s: Tensor, h: Tensor, args: tuple[Tensor, Tensor]) -> Tensor:
        start, length = args
        return _checked(ode.rate(start + s * length, h, None), h) * length

    return rate


def _checked(rate: Tensor, h: Tensor) -> Tensor:
    """Stretched to the state, a rate of another shape would be another field."""
    if rate.shape != h.shape:
        raise ValueError(
            f"`field` gives the rate of each component of the state, {tuple(h.shape)}, but {tuple(rate.shape)} came. "
            "Build it of the size `hidden`."
        )
    return rate
