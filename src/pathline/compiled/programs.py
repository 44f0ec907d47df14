"""What is compiled: a step with everything the loop asks of it, and the start of a solve, as functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline.compiled.capture import Reading
from pathline.solvers.base import combine, sparse
from pathline.solvers.runge_kutta import RungeKutta, RungeKuttaStep
from pathline.terms import Bound


class Field:
    """A captured field as a function of time, flat state and the tensors that it reads."""

    def __init__(self, reading: Reading, term: Bound) -> None:
        self.module, self.structure = reading.graph.module, term.structure
        self.time_place, self.leaf_places, self.sizes = reading.time, reading.leaves, reading.sizes
        self.count = len(reading.tensors)
        self.lead, self.dtype, self.device = term.lead, term.dtype, term.device

    def reads(self, inputs: Sequence[Tensor], low: Tensor | None, high: Tensor | None) -> FieldNow:
        """The field with these tensors, between these times; None where they are not bounded."""
        return FieldNow(self, inputs, low, high)


class FieldNow:
    """What a solver calls."""

    def __init__(self, field: Field, inputs: Sequence[Tensor], low: Tensor | None, high: Tensor | None) -> None:
        self.field, self.low, self.high = field, low, high
        taken = {field.time_place, *field.leaf_places, *field.sizes}
        free = iter(inputs)
        self.tensors: list[Any] = [None if i in taken else next(free) for i in range(field.count)]

    def rate(self, t: Tensor, y: Tensor, args: Any) -> Tensor:
        """dy/dt of the flat state."""
        field, tensors = self.field, list(self.tensors)
        if field.time_place is not None:
            tensors[field.time_place] = self._time(t)
        for place, leaf in zip(field.leaf_places, pytree.tree_leaves(field.structure.unravel(y)), strict=True):
            if place is not None:
                tensors[place] = leaf
        for place in field.sizes:
            tensors[place] = y.shape[0]
        with torch.enable_grad():  # a field that differentiates inside does so wherever it stands
            (dy,) = field.module(*tensors)
        return dy.to(y.dtype)

    def _time(self, t: Tensor) -> Tensor:
        inside = t if self.low is None else t + (t.clamp(self.low, self.high) - t).detach()
        return inside.to(device=self.field.device, dtype=self.field.dtype).view(self.field.lead if t.dim() else ())


class StepProgram:
    """One step: the state at its end, then the slope there, the error and rows of dense output, as far as wanted.

    Args:
        base: the method.
        field: the captured field.
        error: "ratio" against the tolerance, the "estimate" itself, or "" for none.
        rows: whether rows of dense output are computed.
        sloped: whether the slope at the start is given.
    """

    def __init__(self, base: RungeKutta, field: Field, error: str, rows: bool, sloped: bool) -> None:
        self.base, self.field, self.error, self.rows, self.sloped = base, field, error, rows, sloped
        self.norm: Callable[[Tensor], Tensor] = _norm

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Takes y, the slope at the start (where steps hand it on), times, tolerances and row weights, and inputs.

        ``times`` holds start and end of the step and the bounds of what the field may see, ``(4,)`` or ``(4, rows)``.
        Row weights are ``(n, stages + 1)``: of the slopes, and of ``y``.
        """
        base, rest = self.base, iter(tensors)
        y = next(rest)
        k0 = next(rest) if self.sloped else None
        t0, t1, low, high = next(rest).unbind()
        rtol, atol = (next(rest), next(rest)) if self.error == "ratio" else (None, None)
        weights = next(rest) if self.rows else None
        now = self.field.reads(list(rest), low, high)
        h = _spread(t1 - t0, y)
        y1, ks = self._stages(now, t0, t1, y, h, k0)
        step = RungeKuttaStep(base, now, t0, t1, y, y1, ks, None, None)  # pyright: ignore[reportArgumentType]
        stages = list(ks)
        if weights is not None:
            step._end_slope()
            step._extra_stages(step.ks)
        outputs = [y1]
        if step.carry is not None:
            outputs.append(step.carry)
        if self.error:
            with torch.no_grad():
                outputs += self._errors(y, y1, h, stages, rtol, atol)
        if weights is not None:
            outputs.append(_rows(weights, [*step.ks, y], y))
        return tuple(outputs)

    def _stages(
        self, now: FieldNow, t0: Tensor, t1: Tensor, y: Tensor, h: Tensor, k0: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The state at the end, and the slopes."""
        base, dt = self.base, t1 - t0
        ks = [now.rate(t0, y, None) if k0 is None else k0]
        y_i = y
        for c, row in zip(base._fractions, base._stage_weights, strict=True):
            y_i = combine(y, h, row, ks)
            ks.append(now.rate(t1 if c == 1.0 else t0 + c * dt, y_i, None))
        return (y_i if base.fsal else combine(y, h, base._weights, ks)), ks

    def _errors(self, y: Tensor, y1: Tensor, h: Tensor, ks: list[Tensor], rtol: Any, atol: Any) -> list[Tensor]:
        estimates = [_sum(weights, ks) * h for weights in self.base._errors]
        if self.error == "estimate":
            return estimates
        scale = _scale(y, y1, rtol, atol)
        norms = [self.norm(e / scale) for e in estimates]
        if len(norms) == 1:
            return norms
        fine, coarse = norms  # estimates of orders 5 and 3 combine to one that falls like h^8
        combined = fine * fine / torch.sqrt(fine * fine + 0.01 * coarse * coarse)
        return [torch.where(fine == 0.0, fine, combined)]


class RowProgram(StepProgram):
    """One step of every sample by its own clock; beside it the curves, or the slopes that they are made of.

    Args:
        base, field, error, sloped: as in `StepProgram`.
        bounded: whether the times that the field may see are bounded.
        dense: "curve", "slopes", or "" for neither.
    """

    def __init__(self, base: RungeKutta, field: Field, error: str, sloped: bool, bounded: bool, dense: str) -> None:
        super().__init__(base, field, error, False, sloped)
        self.bounded, self.dense = bounded, dense
        self.norm = _row_norms

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Takes y, the slope at the start (where it is given), start, end, bounds, tolerances, and inputs.

        Returns the state at the end, the slope there (where steps hand it on), the curve ``(degree + 1, rows, *state)``
        or the slopes, and the error.
        """
        base, rest = self.base, iter(tensors)
        y = next(rest)
        k0 = next(rest) if self.sloped else None
        t0, t1 = next(rest), next(rest)
        low, high = (next(rest), next(rest)) if self.bounded else (None, None)
        rtol, atol = (next(rest), next(rest)) if self.error == "ratio" else (None, None)
        now = self.field.reads(list(rest), low, high)
        h = _spread(t1 - t0, y)
        y1, ks = self._stages(now, t0, t1, y, h, k0)
        outputs = [y1, *ks[-1:]] if base.fsal else [y1]
        if self.dense == "slopes":
            outputs += ks
        elif self.dense:
            rows = [_sum(sparse(weights), ks) * h for weights in base.tableau.dense_weights.T]
            outputs.append(torch.stack([y, *rows]))
        if self.error:
            with torch.no_grad():
                outputs += self._errors(y, y1, h, ks, rtol, atol)
        return tuple(outputs)


class RowSlope:
    """The slopes of all samples.

    Args:
        base, field, bounded: as in `RowProgram`.
    """

    def __init__(self, base: RungeKutta, field: Field, bounded: bool) -> None:
        self.base, self.field, self.bounded = base, field, bounded

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Takes y, times, bounds, and inputs."""
        y, t, *rest = tensors
        low, high = rest[:2] if self.bounded else (None, None)
        return (self.field.reads(rest[2:] if self.bounded else rest, low, high).rate(t, y, None),)


class StartProgram:
    """The first slope and, where ``chosen``, the length of the first step.

    References:
        Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, II.4.
    """

    def __init__(self, base: RungeKutta, field: Field, chosen: bool) -> None:
        self.base, self.field, self.chosen = base, field, chosen

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Takes y, times (start, end and bounds), tolerances where a length is chosen, and inputs."""
        y, times, *rest = tensors
        t0, t1, low, high = times.unbind()
        now = self.field.reads(rest[2:] if self.chosen else rest, low, high)
        f0 = now.rate(t0, y, None)
        if not self.chosen:
            return (f0,)
        rtol, atol = rest[:2]
        with torch.no_grad():
            return f0, self._length(now, t0, t1, y, f0, _scale(y, y, rtol, atol))

    def _length(self, now: FieldNow, t0: Tensor, t1: Tensor, y: Tensor, f0: Tensor, scale: Tensor) -> Tensor:
        span, sign = (t1 - t0).abs(), torch.sign(t1 - t0)
        d0, d1 = _norm(y / scale).double(), _norm(f0 / scale).double()
        small = (d0 < 1e-5) | (d1 < 1e-5)
        h0 = torch.where(small, 1e-6, 0.01 * d0 / torch.where(small, 1.0, d1))
        h0 = torch.minimum(h0, span)
        f1 = now.rate(t0 + sign * h0, torch.addcmul(y, f0, _spread(sign * h0, y)), None)
        steepest = torch.maximum(d1, _norm((f1 - f0) / scale).double() / h0)
        exponent = 1.0 / ((self.base.embedded_order or 0) + 1)
        flat = steepest <= 1e-15
        h1 = (0.01 / torch.where(flat, 1.0, steepest)) ** exponent
        h1 = torch.where(flat, torch.clamp_min(h0 * 1e-3, 1e-6), h1)
        return torch.minimum(torch.minimum(100 * h0, h1), span)


def _spread(dt: Tensor, y: Tensor) -> Tensor:
    """``dt`` in the dtype of ``y``, with as many dimensions."""
    dtype = y.real.dtype if y.is_complex() else y.dtype
    return dt.to(device=y.device, dtype=dtype).reshape(-1, *(1,) * (y.dim() - 1)) if y.dim() else dt.to(y.device, dtype)


def _sum(weights: Sequence[tuple[int, float]], ks: Sequence[Tensor]) -> Tensor:
    (first, scale), *rest = weights
    total = ks[first] * scale
    for i, w in rest:
        total = torch.add(total, ks[i], alpha=w)
    return total


def _scale(y0: Tensor, y1: Tensor, rtol: Tensor, atol: Tensor) -> Tensor:
    size = torch.maximum(y0.abs(), y1.abs())
    return torch.clamp_min(size * rtol.to(size.dtype) + atol.to(size.dtype), torch.finfo(size.dtype).tiny)


def _norm(scaled: Tensor) -> Tensor:
    """The root mean square."""
    size = scaled.abs()
    return (size * size).mean().sqrt()


def _row_norms(scaled: Tensor) -> Tensor:
    """The root mean square of every row."""
    size = scaled.abs()
    total = (size * size).flatten(1).sum(1) if size.dim() > 1 else size * size
    return (total / max(math.prod(scaled.shape[1:]), 1)).sqrt()


def _rows(weights: Tensor, slopes: Sequence[Tensor], y: Tensor) -> Tensor:
    """``(n, *state)``."""
    weights = weights.to(device=y.device, dtype=y.real.dtype if y.is_complex() else y.dtype)
    lead = (-1, *(1,) * y.dim())
    columns = [weights[:, i].reshape(lead) for i in range(weights.shape[1])]
    total = columns[0] * slopes[0]
    for column, slope in zip(columns[1:], slopes[1:], strict=True):
        total = total + column * slope
    return total
