"""The continuous normalising flow: a density that moves with an ordinary differential equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from pathline.gradients import find_gradient
from pathline.models.densities.bases import in_dtype
from pathline.models.densities.checking import (
    check_dtype,
    check_not_overflown,
    check_precision,
    check_some,
    checked_base,
    checked_event_shape,
    checked_regularizers,
    checked_samples,
    checked_times,
    located,
    unpacked,
)
from pathline.models.densities.distribution import FlowDistribution
from pathline.models.densities.moving import COSTS, Moving, Shown
from pathline.operators import find_trace
from pathline.regularizers import EndTimeJitter
from pathline.solvers import find_solver
from pathline.solving import TOLERANCES, solve
from pathline.status import SolveError
from pathline.terms import ODE, PerSample


class Flowed(NamedTuple):
    """Where samples went.

    Attributes:
        end: The states, ``(batch, *event)``.
        log_det: Logarithm of the Jacobian determinant of the way they went, ``(batch,)``.
        costs: Of each sample by name, ``(batch,)``, counted positive in either direction.
    """

    end: Tensor
    log_det: Tensor
    costs: dict[str, Tensor]


class CNF(nn.Module):
    r"""A density that moves with a field, from a base at ``t[0]`` to the data at ``t[1]``. *Maturing.*

    $$\dot z = f(t, z), \qquad \frac{d}{dt} \log p(z(t)) = -\mathrm{tr}\,\frac{\partial f}{\partial z}$$

    Called with a context, or with nothing, it returns a ``torch.distributions.Distribution``; training minimises
    ``model.loss(batch)``. The log-density is under error control like the state. With a stochastic ``trace`` the noise
    is drawn once a solve, and ``model(trace="exact")`` is the density to report.

    Args:
        field: The rate, ``(t, y) -> dy``, or ``(t, y, context) -> dy`` for a density given a context; ``y`` is
            ``(batch, *event_shape)``, and samples don't mix.
        event_shape: Shape of one sample, or its size.
        base: A ``Distribution`` with this event shape, or a module that returns one when called (its parameters are
            trained too); by default a standard normal that follows the device of the data. Draws and
            log-densities are cast to the dtype of the model.
        t: Times of the base and of the data.
        trace: ``"exact"``, ``"hutchinson"``, or an object of ``pathline.operators``.
        method: A name in ``pathline.METHODS``, or a solver.
        rtol: Relative tolerance; of no effect where the steps are fixed.
        atol: Absolute tolerance, in units of the state and nats; of no effect where the steps are fixed.
        dt: Step of a fixed-step method.
        gradient: As in ``pathline.solve``.
        clock: As in ``pathline.solve``; with ``"per-sample"`` a log-density does not depend on the rest of the batch.
        regularizers: What is added to the loss, by name: the weights of ``"kinetic"``, $\int |f|^2$, and
            ``"jacobian"``, $\int |\partial f/\partial z|_F^2$ (with the trace's own products, at no further cost where
            it takes any), the half-width of ``"steer"``, by which the time of the data jitters in training; and under
            names of your own pairs ``(cost, weight)`` with a cost as in ``pathline.solve(integrals=...)``.
        learn_end: Whether the time of the data is a parameter.
        compile: As in ``pathline.solve``.
        max_steps: As in ``pathline.solve``.

    Raises:
        TypeError: An argument of another kind.
        ValueError: A value out of range, or a base of another event shape.

    Example:
        >>> import torch, pathline
        >>> from pathline import fields
        >>> model = pathline.CNF(fields.ConcatSquash(2), 2)
        >>> model.loss(torch.randn(64, 2)).backward()
        >>> density = model()
        >>> density.sample((5,)).shape, density.log_prob(torch.zeros(3, 2)).shape
        (torch.Size([5, 2]), torch.Size([3]))

    References:
        R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud (2018), Neural ordinary differential equations.
        W. Grathwohl, R. T. Q. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud (2019), FFJORD: free-form continuous
        dynamics for scalable reversible generative models. C. Finlay, J.-H. Jacobsen, L. Nurbekyan, A. Oberman (2020),
        How to train your neural ODE. A. Ghosh, H. S. Behl, E. Dupont, P. H. S. Torr, V. Namboodiri (2020), STEER.
    """

    stored_as = {"compile": "compile_steps"}  # `nn.Module.compile` is taken

    def __init__(
        self,
        field: nn.Module | Callable[..., Any],
        event_shape: int | Sequence[int],
        *,
        base: Any = None,
        t: tuple[float, float] = (0.0, 1.0),
        trace: Any = "exact",
        method: Any = "dopri5",
        rtol: float | None = 1e-5,
        atol: float | None = 1e-5,
        dt: float | None = None,
        gradient: Any = "backprop",
        clock: Literal["shared", "per-sample"] = "shared",
        regularizers: Mapping[str, Any] | None = None,
        learn_end: bool = False,
        compile: bool = False,
        max_steps: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(field):
            raise TypeError(
                "`field` is a module or a function (t, y) -> dy, "
                f"but an object of type {type(field).__name__} came. Try CNF(pathline.fields.ConcatSquash(2), 2)."
            )
        find_solver(method)
        find_gradient(gradient)
        find_trace(trace)
        self.field, self.event_shape = field, checked_event_shape(event_shape)
        self.base, self.t, self.trace = checked_base(base, self.event_shape), checked_times(t), trace
        self.method, self.rtol, self.atol, self.dt = method, rtol, atol, dt
        self.gradient, self.clock, self.compile_steps, self.max_steps = gradient, clock, compile, max_steps
        self.regularizers = checked_regularizers(regularizers, abs(self.t[1] - self.t[0]))
        self.learn_end = learn_end
        if learn_end:
            self.log_stretch = nn.Parameter(torch.zeros(()))
        self._jitter = EndTimeJitter(self.regularizers.get("steer", 0.0))
        self._stats: Any = None

    def forward(self, context: Tensor | None = None, *, trace: Any = None) -> Distribution:
        """The density, given a context.

        Args:
            context: ``(*batch, *context_shape)``; None for a field that takes none. Where ``field.context`` names its
                size, the last dimension is the context and the rest the batch, else the first one is the batch.
            trace: In place of the model's own, such as ``"exact"`` for a model that trains with another.
        """
        return FlowDistribution(self, context, trace=trace)

    def loss(self, batch: Any) -> Tensor:
        """The mean negative log-likelihood in nats an event, and the weighted regularisers.

        Args:
            batch: ``x``, ``(batch, *event)``; or ``(x, context)``; or a mapping with ``"x"`` and, where there is one,
                ``"context"``.
        """
        x, context = unpacked(batch)
        check_some(x)
        z, log_det, costs = self._flow(x, context, _reversed(self._jittered()), regularized=True)
        loss = -(self.base_log_prob(z) + log_det).mean()
        for name, cost in costs.items():
            setting = self.regularizers[name]
            loss = loss + (setting[1] if isinstance(setting, tuple) else setting) * cost.mean()
        return loss

    def solve_to_base(self, x: Tensor, context: Tensor | None = None, *, trace: Any = None) -> Flowed:
        """Follow data to the base; ``log p(x) = log base(end) + log_det``.

        Args:
            x: ``(batch, *event)``.
            context: One for each sample.
            trace: In place of the model's own.
        """
        return self._flow(x, context, _reversed(self.times()), trace)

    def solve_from_base(self, z: Tensor, context: Tensor | None = None, *, trace: Any = None) -> Flowed:
        """Follow draws of the base to the data; ``log p(end) = log base(z) - log_det``. Arguments as above."""
        return self._flow(z, context, self.times(), trace)

    def times(self) -> Any:
        """Times of the base and of the data; a tensor where the latter is learned."""
        if not self.learn_end:
            return self.t
        start, end = self.t
        last = start + (end - start) * self.log_stretch.double().exp()
        return torch.stack([torch.full_like(last, start), last])

    def base_distribution(self, like: Tensor | None = None) -> Distribution:
        """The base in the dtype of ``like``, or of the parameters; by default on their device too."""
        if self.base is not None:
            base = self.base if isinstance(self.base, Distribution) else checked_base(self.base(), self.event_shape)
            return in_dtype(base, self.dtype if like is None else like.dtype)
        like = self._like() if like is None else like
        zeros = torch.zeros(self.event_shape, dtype=like.dtype, device=like.device)
        return Independent(Normal(zeros, torch.ones_like(zeros), validate_args=False), len(self.event_shape))

    def base_log_prob(self, z: Tensor) -> Tensor:
        """The log-density of the base, ``(batch,)``; of a point within its support it is never infinite.

        Args:
            z: ``(batch, *event)``.

        Raises:
            ValueError: Points so far out that their log-density is beyond the numbers of the dtype.
        """
        base = self.base_distribution(z)
        log_p = base.log_prob(z)
        check_not_overflown(log_p, z, base)
        return log_p

    @property
    def evaluations(self) -> int:
        """Evaluations of the field in the last solve."""
        return 0 if self._stats is None else int(self._stats.evaluations)

    @property
    def backward_evaluations(self) -> int:
        """Evaluations of the field in the backward pass of the last solve, after ``backward()``."""
        return 0 if self._stats is None else int(self._stats.backward_evaluations)

    def _jittered(self) -> Any:
        """Times whose last one jitters while training."""
        times = self.times()
        if isinstance(times, Tensor) and self.training and self._jitter.b:
            span = float((times[1] - times[0]).detach().abs())
            if self._jitter.b >= span:
                raise ValueError(
                    f"`regularizers['steer']`, {self._jitter.b:g}, is smaller than the span of time, but `learn_end` "
                    f"has shortened that to {span:.3g}. Jitter by less, or leave `learn_end` out."
                )
        return self._jitter(times)

    @staticmethod
    def _forwards(times: Any) -> bool:
        start, end = times.tolist() if isinstance(times, Tensor) else times
        return end > start

    def _like(self) -> Tensor:
        own = self._first()
        return torch.empty(()) if own is None else own

    def _first(self) -> Tensor | None:
        """The first floating tensor of the field, or of a base that has some."""
        # A plain walk that ends there: every loss makes one, and `parameters` takes several times as long.
        ahead = [part for part in (self.base, self.field) if isinstance(part, nn.Module)]
        while ahead:
            part = ahead.pop()
            for store in (part._parameters, part._buffers):
                for x in store.values():
                    if x is not None and x.is_floating_point():
                        return x
            ahead += [child for child in reversed(part._modules.values()) if child is not None]
        return None

    @property
    def dtype(self) -> torch.dtype | None:
        """That of the parameters; None without any."""
        own = self._first()
        return None if own is None else own.dtype

    def _flow(
        self, x: Tensor, context: Tensor | None, times: Any, trace: Any = None, *, regularized: bool = False
    ) -> Flowed:
        settings = self.regularizers if regularized else {}
        costs = tuple(name for name in COSTS if name in settings)
        moving = Moving(self.field, self.event_shape, find_trace(self.trace if trace is None else trace), costs)
        others = {name: Shown(pair[0], moving) for name, pair in settings.items() if isinstance(pair, tuple)}
        x, context = checked_samples(x, context, self.event_shape, moving.term.takes)
        check_dtype(x, self.dtype)
        if not len(x):
            return Flowed(x, x.new_zeros(0), {name: x.new_zeros(0) for name in (*costs, *others)})
        solution = self._solved(moving, x, context, times, others)
        y1, forwards = solution.y1, self._forwards(times)
        found = dict(zip(costs, y1[:, moving.size + 1 :].unbind(1), strict=True)) | solution.integrals1
        found = {name: cost if forwards else -cost for name, cost in found.items()}
        return Flowed(moving.event(y1), y1[:, moving.size], found)

    def _solved(self, moving: Moving, x: Tensor, context: Tensor | None, times: Any, costs: Mapping[str, Any]) -> Any:
        rows = PerSample if self.clock == "per-sample" else lambda value: value
        noise = moving.trace.draw(x)
        args = tuple(None if value is None else rows(value) for value in (context, noise))
        options = self._options(moving, x)
        start = moving.start(x)
        try:
            solution = solve(ODE(moving), start, times, args=args, integrals=costs, **options)
        except SolveError as error:
            raise located(error, ODE(moving), start, times, (context, noise), options) from error
        self._stats = solution.stats
        return solution

    def _options(self, moving: Moving, x: Tensor) -> dict[str, Any]:
        options: dict[str, Any] = {
            "method": self.method,
            "dt": self.dt,
            "gradient": self.gradient,
            "clock": self.clock,
            "compile": self.compile_steps,
            "max_steps": self.max_steps,
        }
        if self.dt is None and find_solver(self.method).adaptive:
            defaults = TOLERANCES.get(x.dtype, TOLERANCES[torch.float32])
            rtol, atol = (b if a is None else a for a, b in zip((self.rtol, self.atol), defaults, strict=True))
            check_precision(x.dtype, rtol)
            options["rtol"], options["atol"] = moving.tolerances(rtol, atol, x)
        return options

    def extra_repr(self) -> str:
        parts = [f"event_shape={tuple(self.event_shape)}", f"t=({self.t[0]:g}, {self.t[1]:g})"]
        parts += [f"trace={self.trace!r}", f"method={self.method!r}"]
        return ", ".join(parts)


def _reversed(times: Any) -> Any:
    return times.flip(0) if isinstance(times, Tensor) else times[::-1]
