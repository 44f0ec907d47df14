"""Flow matching: a flow between base and data, learned by regression instead of by likelihood."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules.batchnorm import _BatchNorm

from pathline.models.densities.checking import (
    check_dtype,
    check_precision,
    check_some,
    checked_events,
    checked_sample_shape,
    checked_samples,
    located,
    unpacked,
)
from pathline.models.densities.cnf import CNF
from pathline.models.densities.couplings import Coupling, Independent, find_coupling
from pathline.models.densities.paths import Path, find_path
from pathline.solvers import find_solver
from pathline.solving import solve
from pathline.status import SolveError
from pathline.terms import ODE, PerSample

__all__ = ["FlowMatching", "Guided"]


class FlowMatching(nn.Module):
    r"""A continuous normalizing flow that is trained without solving it. *Maturing.*

    $$L = \mathbb E_{t,\, (x_0, x_1),\, \varepsilon}\ \frac1d \bigl\lVert f(t, x_t, c) - u_t \bigr\rVert^2$$

    where $(x_t, u_t)$ are a point and a velocity on a path from an event of the base to one of the data. What minimises
    it is the velocity that carries the base into the data. As in ``CNF``, **the base is at t = 0 and the data at
    t = 1** (diffusion models often count the other way round). The loss never reaches zero: many paths pass through
    one point.

    Called with a context the model is a ``torch.distributions.Distribution`` with the exact likelihood of the flow,
    by the ``CNF`` in ``flow``, which shares the field.

    Pairs that a coupling chooses are chosen among events of equal context: pairs across contexts would tie the base to
    the context, and samples would start from a base that the model never saw with it.

    Args:
        field: The velocity, ``(t, x) -> dx`` or, with a context, ``(t, x, args) -> dx``. While training it gets one
            time an event, ``(batch, 1, ..., 1)``.
        event_shape: Shape of one event, a number or a tuple.
        path: ``"conditional-ot"``, ``"rectified"``, ``"variance-preserving"``, ``"schroedinger-bridge"``, or a path.
        coupling: ``"independent"``, ``"ot"``, ``"sinkhorn"``, or a coupling.
        base: As in ``CNF``; by default a standard normal.
        drop_context: Share of the events whose context is replaced by ``null`` while training, so that samples can be
            guided; a tenth or two are usual.
        null: The context that stands for none, a number or a tensor of a context's shape; by default zeros. It has to
            differ from every real one, as zeros do from one-hot classes; for whole numbers it has to be named.
        trace: As in ``CNF``, for the likelihood.
        method: A name in ``pathline.METHODS``, or a solver.
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance of an adaptive method.
        dt: Step of a fixed-step method.
        gradient: As in ``CNF``.
        clock: As in ``CNF``.
        compile: As in ``pathline.solve``.
        max_steps: As in ``pathline.solve``.

    Raises:
        ValueError: No such path, coupling or method exists, or ``drop_context`` is no share, or one of a context that
            the field does not take.

    Warns:
        UserWarning: The field holds a batch normalisation.

    Example:
        >>> import torch
        >>> from pathline import FlowMatching, fields
        >>> model = FlowMatching(fields.MLP(2, hidden=32, time=True), 2, coupling="ot")
        >>> model.loss(torch.randn(64, 2)).backward()
        >>> model.sample(5, method="euler", dt=0.1).shape, model().log_prob(torch.zeros(3, 2)).shape
        (torch.Size([5, 2]), torch.Size([3]))

    References:
        Y. Lipman, R. T. Q. Chen, H. Ben-Hamu, M. Nickel, M. Le (2023), Flow matching for generative modeling.
        J. Ho, T. Salimans (2022), Classifier-free diffusion guidance.
    """

    stored_as = {"compile": "compile_steps"}  # `nn.Module.compile` is taken

    def __init__(
        self,
        field: nn.Module | Callable[..., Any],
        event_shape: int | Sequence[int],
        *,
        path: str | Path = "conditional-ot",
        coupling: str | Coupling = "independent",
        base: Any = None,
        drop_context: float = 0.0,
        null: float | Tensor | None = None,
        trace: Any = "exact",
        method: Any = "dopri5",
        rtol: Any = 1e-5,
        atol: Any = 1e-5,
        dt: float | None = None,
        gradient: Any = "backprop",
        clock: Literal["shared", "per-sample"] = "shared",
        compile: bool = False,
        max_steps: int | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_context < 1.0:
            raise ValueError(f"`drop_context` is a share, 0 or more and less than 1, but {drop_context!r} came.")
        if drop_context and callable(field) and ODE(field).takes != 3:
            raise ValueError(
                f"`drop_context` is {drop_context!r}, but the field takes no context to drop: its signature is not "
                "f(t, x, args). Leave it out, or give the field a context."
            )
        _warn_of_batch_norm(field)
        self.path, self.coupling = path, coupling
        self.drop_context, self.null = drop_context, null
        self.trace, self.method, self.rtol, self.atol, self.dt = trace, method, rtol, atol, dt
        self.gradient, self.clock, self.compile_steps, self.max_steps = gradient, clock, compile, max_steps
        self._path, self._coupling = find_path(path), find_coupling(coupling)
        self.flow = CNF(
            field,
            event_shape,
            base=base,
            trace=trace,
            method=method,
            rtol=rtol,
            atol=atol,
            dt=dt,
            gradient=gradient,
            clock=clock,
            compile=compile,
            max_steps=max_steps,
        )
        self._stats: Any = None

    @property
    def field(self) -> Any:
        """The velocity."""
        return self.flow.field

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one event."""
        return self.flow.event_shape

    @property
    def base(self) -> Any:
        """The base, or None for a standard normal."""
        return self.flow.base

    def forward(self, context: Tensor | None = None, *, trace: Any = None) -> Distribution:
        """The distribution that the flow makes of the base; see ``CNF``.

        Args:
            context: ``(batch, *context_shape)``; the distribution then has that batch shape.
            trace: Another trace than the model's own.
        """
        return self.flow(context, trace=trace)

    def loss(self, batch: Any) -> Tensor:
        """The mean square distance between the field and the velocity of a path, over events and their components.

        Args:
            batch: ``x``, ``(batch, *event)``; ``(x, context)``; or a mapping with ``"x"``, perhaps ``"context"``, and
                perhaps ``"x0"``: events to start from instead of draws from the base, as for a flow between two data
                sets, or for the pairs of a reflow.

        Raises:
            TypeError: Another dtype than that of the parameters, or a context that the field does not take.
            ValueError: No events; events or a context of another shape, or with values that are not finite; an
                unknown key; ``drop_context`` and no context.
        """
        term = ODE(self.field)
        x1, x0, context = self._checked(batch, term)
        t, x, u = self.draw(x1, x0, context)
        v = term.rate(t, x, self._dropped(context))
        if v.shape != x.shape:
            raise ValueError(f"The field returned shape {tuple(v.shape)} for events of shape {tuple(x.shape)}.")
        return (v - u).square().mean()

    def draw(
        self, x1: Tensor, x0: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Times, points and velocities to regress on, one for each event of the data.

        Args:
            x1: Events of the data, ``(batch, *event)``.
            x0: Events of the base; without them they are drawn.
            context: ``(batch, *context_shape)``: pairs are chosen among equal ones.

        Returns:
            ``t``, ``(batch, 1, ..., 1)``; ``x_t`` and ``u_t`` in the shape of ``x1``.
        """
        if x0 is None:
            x0 = torch.randn_like(x1) if self.base is None else self.flow.base_distribution(x1).sample((len(x1),))
        x0 = self._paired(x0, x1, context)
        start, end = self._path.span
        t = torch.rand((len(x1), *(1,) * (x1.dim() - 1)), dtype=x1.dtype, device=x1.device)
        t = t if (start, end) == (0.0, 1.0) else start + (end - start) * t
        x, u = self._path(x0, x1, t, torch.randn_like(x1) if self._path.noisy else None)
        return t, x, u

    @torch.no_grad()
    def sample(
        self,
        shape: int | Sequence[int] = (),
        context: Tensor | None = None,
        *,
        guidance: float = 1.0,
        method: Any = None,
        dt: float | None = None,
        **options: Any,
    ) -> Tensor:
        r"""Draw events, without gradients: base events that follow the flow from t = 0 to t = 1.

        $$f_w(t, x, c) = f(t, x, \varnothing) + w\, \bigl(f(t, x, c) - f(t, x, \varnothing)\bigr)$$

        Args:
            shape: How many draws, a number or a tuple.
            context: ``(batch, *context_shape)``: a draw for each of them.
            guidance: The weight $w$: 1 for the model's conditional density, 0 for that without context; more
                sharpens, towards fewer and more typical events. Every other value than 1 evaluates the field twice.
            method: Another method than the model's own.
            dt: Step of a fixed-step method.
            **options: Other options of ``pathline.solve``.

        Returns:
            Events, ``(*shape, *event)``, or ``(*shape, batch, *event)`` with a context.

        Raises:
            ValueError: ``guidance`` without a context.
            SolveError: The flow of some draws failed; the message says which.

        Warns:
            UserWarning: ``guidance`` of a model that never saw a context dropped.
        """
        shape = checked_sample_shape(shape)
        if guidance != 1.0:
            self._check_guidable(guidance, context)
        batch = shape if context is None else torch.Size((*shape, len(context)))
        z = self.flow.base_distribution().sample(batch)
        if not z.numel():
            return z
        field = self.field if guidance == 1.0 else Guided(self.field, guidance, self.null)
        rows = None if context is None else context.expand(*shape, *context.shape).reshape(-1, *context.shape[1:])
        return self._followed(field, z.reshape(-1, *self.event_shape), rows, method, dt, options).reshape(z.shape)

    @property
    def evaluations(self) -> int:
        """Evaluations of the field by the last ``sample``; ``flow.evaluations`` has those of a likelihood."""
        return 0 if self._stats is None else int(self._stats.evaluations)

    def extra_repr(self) -> str:
        return f"path={self._path!r}, coupling={self._coupling!r}"

    # --- pieces --------------------------------------------------------------------------------------------------

    def _paired(self, x0: Tensor, x1: Tensor, context: Tensor | None) -> Tensor:
        if context is None or isinstance(self._coupling, Independent):
            return self._coupling(x0, x1)[0]
        _, group, sizes = torch.unique(context, dim=0, return_inverse=True, return_counts=True)
        paired = x0.clone()
        for number in (sizes > 1).nonzero().flatten().tolist():
            rows = (group == number).nonzero().flatten()
            paired[rows] = self._coupling(x0[rows], x1[rows])[0]
        return paired

    def _dropped(self, context: Tensor | None) -> Tensor | None:
        if context is None or not self.drop_context or not self.training:
            return context
        drop = torch.rand(len(context), device=context.device) < self.drop_context
        return torch.where(drop.reshape(-1, *(1,) * (context.dim() - 1)), untold_like(context, self.null), context)

    def _options(self, method: Any, dt: float | None) -> dict[str, Any]:
        if method is None:
            method, dt = self.method, self.dt if dt is None else dt
        fixed = dt is not None or not find_solver(method).adaptive
        tolerances = {} if fixed else {"rtol": self.rtol, "atol": self.atol}
        others = {"clock": self.clock, "max_steps": self.max_steps, "compile": self.compile_steps}
        return {"method": method, "dt": dt, **tolerances, **others}

    def _check_guidable(self, guidance: float, context: Tensor | None) -> None:
        if context is None:
            raise ValueError("`guidance` weighs a context against none, but no `context` came.")
        if not self.drop_context:
            warnings.warn(
                f"`guidance` = {guidance:g} asks the field for its answer without a context, which it has not learned: "
                "the model was built with `drop_context` = 0. Train it with drop_context=0.1.",
                UserWarning,
                stacklevel=4,  # past `torch.no_grad`
            )

    def _followed(
        self, field: Any, z: Tensor, context: Tensor | None, method: Any, dt: float | None, others: Mapping[str, Any]
    ) -> Tensor:
        """Where the flow takes draws of the base, each with its context."""
        options, times = {**self._options(method, dt), **others}, (0.0, 1.0)
        if options.get("dt") is None:
            check_precision(z.dtype, options.get("rtol"))
        args = PerSample(context) if context is not None and options["clock"] == "per-sample" else context
        try:
            solution = solve(field, z, times, args=args, **options)
        except SolveError as error:
            raise located(error, ODE(field), z, times, context, options) from error
        self._stats = solution.stats
        return solution.y1

    def _checked(self, batch: Any, term: ODE) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Events of the data and of the base, and the context."""
        x, context = unpacked(batch, ("x", "context", "x0"))
        check_some(x)
        x, context = checked_samples(x, context, self.event_shape, term.takes)
        if context is None and self.drop_context:
            raise ValueError(
                f"`drop_context` is {self.drop_context!r}, but the batch has no context to drop. Pass (x, context)."
            )
        check_dtype(x, self.flow.dtype)
        x0 = batch.get("x0") if isinstance(batch, Mapping) else None
        if x0 is None:
            return x, None, context
        checked_events("x0", x0, self.event_shape)
        if len(x0) != len(x) or x0.dtype != x.dtype:
            raise ValueError(
                f"`x0` has a row for each of the {len(x)} samples and their dtype, {x.dtype}, but "
                f"{tuple(x0.shape)} in {x0.dtype} came."
            )
        return x, x0, context


def _warn_of_batch_norm(field: Any) -> None:
    layers = field.modules() if isinstance(field, nn.Module) else ()
    found = next((layer for layer in layers if isinstance(layer, _BatchNorm)), None)
    if found is not None:
        warnings.warn(
            f"The field holds {type(found).__name__}: in training it averages over events at all times, and a draw or "
            "a likelihood, which is at one time, finds other averages. Use torch.nn.GroupNorm or LayerNorm.",
            UserWarning,
            stacklevel=3,
        )


class Guided(nn.Module):
    r"""A field between its answer to a context and its answer to none. *Maturing.*

    $$f_w(t, x, c) = f(t, x, \varnothing) + w\, \bigl(f(t, x, c) - f(t, x, \varnothing)\bigr)$$

    Args:
        field: ``(t, x, args) -> dx``.
        guidance: The weight $w$.
        null: The context that stands for none, as in ``FlowMatching``.

    References:
        J. Ho, T. Salimans (2022), Classifier-free diffusion guidance.
    """

    def __init__(
        self, field: nn.Module | Callable[..., Any], guidance: float, null: float | Tensor | None = None
    ) -> None:
        super().__init__()
        if not math.isfinite(guidance):
            raise ValueError(f"`guidance` is a finite number, but {guidance!r} came.")
        self.field, self.guidance, self.null = field, guidance, null

    def forward(self, t: Tensor, y: Tensor, args: Tensor) -> Tensor:
        """The rate, in the shape of ``y``: one evaluation of the field on twice the batch."""
        null = untold_like(args, self.null)
        times = torch.cat([t, t]) if t.dim() else t
        told, untold = self.field(times, torch.cat([y, y]), torch.cat([args, null])).chunk(2)
        return untold + self.guidance * (told - untold)


def untold_like(context: Tensor, null: float | Tensor | None) -> Tensor:
    """The context that stands for none, in the shape and type of ``context``.

    Raises:
        ValueError: The context holds whole numbers, of which zero is one, and ``null`` is None.
    """
    if null is None and not context.is_floating_point():
        raise ValueError(
            f"A context of whole numbers ({context.dtype}) came, and zero is one of them. Say which number stands for "
            "none: `null=10` for ten classes and an embedding of eleven."
        )
    value = torch.as_tensor(0.0 if null is None else null, dtype=context.dtype, device=context.device)
    return value.expand_as(context)
