"""The adjoint alone with one clock a sample, along states that the forward solve left or that are solved again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pathline.controls.piecewise import RowPiecewise
from pathline.gradients.base import gather
from pathline.gradients.interpolated import Interpolated, Source, Trail, reading, repeated
from pathline.gradients.row_augmented import RowBackward
from pathline.row_clocks import CODES
from pathline.row_loop import integrate_rows
from pathline.solvers.base import horner, spread
from pathline.status import ERRORS
from pathline.terms import Bound


class RowCurve:
    """The curves of all samples, asked for some of them at times of their own.

    Args:
        pieces: the steps.
        coefficients: ``(pieces, degree + 1, *state)``.
        batch: the number of samples.
    """

    def __init__(self, pieces: Sequence[Any], coefficients: Tensor, batch: int) -> None:
        samples, start, end = (
            torch.cat([getattr(piece, name) for piece in pieces]).detach() for name in ("index", "t0", "end")
        )
        self.curve = RowPiecewise(samples, start, end, coefficients, batch)
        self.keys = (self.curve.sign * self.curve.knots).contiguous()

    def __call__(self, t: Tensor, samples: Tensor) -> Tensor:
        curve = self.curve
        ahead = curve.sign[samples] * t.detach().to(self.keys).unsqueeze(1)
        found = torch.searchsorted(self.keys[samples], ahead, right=True)[:, 0] - 1
        last = (curve.counts[samples] - 1).clamp_min(0)
        # Samples whose span has no length have no piece, and no use for the value.
        piece = (curve.offset[samples] + torch.minimum(found.clamp_min(0), last)).clamp_max(len(curve.start) - 1)
        left, right = curve.start[piece], curve.end[piece]
        theta = ((t.detach().to(left) - left) / (right - left)).clamp(0.0, 1.0)
        if t.requires_grad:
            theta = theta + (t - t.detach()).to(theta) / (right - left)
        coefficients = curve.coefficients[piece].movedim(1, 0)
        return horner(coefficients, spread(theta, coefficients[0]))


class RowStored:
    """The dense output of the forward solve."""

    def __init__(self, trail: Trail, batch: int) -> None:
        self.curve = RowCurve(trail.ends, trail.left[0], batch) if trail.left else None

    def stretches(self, t1: Tensor, t0: Tensor, before: Tensor) -> Iterator[tuple[Tensor, Any]]:
        """One curve for all."""
        yield t0, self.curve


class RowRepeated:
    """From each stored row the solution is solved forward again, differentiably where a graph is wanted."""

    def __init__(self, backward: RowInterpolated) -> None:
        self.backward = backward

    def stretches(self, t1: Tensor, t0: Tensor, before: Tensor) -> Iterator[tuple[Tensor, RowCurve]]:
        """One curve for each interval."""
        problem = repeated(self.backward, torch.stack([t0, t1]))
        with reading(self.backward) as args:
            result = integrate_rows(problem, before, args)
        if bool(result.code.any()):
            sample = int(result.code.nonzero()[0])
            status = CODES[int(result.code[sample])]
            raise ERRORS[status](
                f"The forward solve of sample {sample}, repeated from t = {float(t0[sample]):g} for the adjoint, did "
                f'not reach t = {float(t1[sample]):g} ({status.value}). Use Adjoint(state="dense"), which keeps the '
                'solution, or gradient="checkpointed".',
                None,
                status,
            )
        kept = gather(problem, result)
        assert kept.curve is not None
        yield t0, RowCurve(result.pieces, kept.curve, len(before))


class RowInterpolated(Interpolated, RowBackward):
    """The adjoint of each sample, ``(batch, *state)``, integrated from its time to its time."""

    def reads(self, trail: Trail) -> Source:
        """Stored rows are the checkpoints."""
        if self.create_graph or self.config.state == "checkpoints":
            return RowRepeated(self)
        return RowStored(trail, self.problem.times.shape[1])

    def pair(self, t: Any, state: Tensor, samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``y``, read, and the scaled ``a``, of some samples."""
        return self.path(t, samples), self.turned(state)

    def rates(self, t: Tensor, state: Tensor, samples: Tensor | None = None, field: Bound | None = None) -> Tensor:
        """``da/dt = -a^T df/dy`` of some samples."""
        assert samples is not None
        y, a = self.pair(t.reshape(-1), state, samples)
        _, (da,) = self._pull_rows(samples, t.reshape(-1), y, a, parameters=False, field=field)
        return torch.zeros_like(a) if da is None else self.turned(-da)

    def _at(self, t: Tensor, samples: Tensor | None) -> Tensor:
        return self.path(t.reshape(-1), samples)

    def interval(
        self, t1: Any, t0: Any, y: Tensor, before: Tensor, adjoint: Tensor, keep: Callable[..., None] | None
    ) -> Tensor:
        """The adjoints carried from ``t1`` back to ``t0``, ``(batch,)`` each."""
        if bool((t0 == t1).all()) or not bool(adjoint.any()):
            return adjoint
        for low, curve in self.source.stretches(t1, t0, before):
            self.path = curve
            _, adjoint = self.carried(t1, low, y, adjoint, keep)
        return adjoint
