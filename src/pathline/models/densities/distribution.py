"""A flow as a ``torch.distributions.Distribution``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pathline.models.densities.captured import Captured
from pathline.models.densities.checking import checked_sample_shape, checked_value
from pathline.operators import find_trace

if TYPE_CHECKING:
    from pathline.models.densities.cnf import CNF


class FlowDistribution(Distribution):
    """The density of a flow, given a context; what ``model(context)`` returns. *Maturing.*

    It follows the model as that trains. One that was made inside ``torch.func.functional_call`` keeps the parameters of
    that call, so that ``functional_call(model, parameters, ()).log_prob(x)`` is a function of them.

    Args:
        flow: The model.
        context: ``(*batch, *context_shape)``, or None.
        batch_shape: By default that of the context.
        trace: In place of the flow's own.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = True

    def __init__(
        self, flow: CNF, context: Tensor | None = None, batch_shape: torch.Size | None = None, *, trace: Any = None
    ) -> None:
        if batch_shape is None:
            batch_shape = _batch_shape(flow.field, context)
        self.flow, self.context, self.trace = flow, context, None if trace is None else find_trace(trace)
        self._captured = Captured(flow)
        super().__init__(batch_shape, flow.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """All events."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """The same density for a larger batch shape."""
        batch_shape, context = torch.Size(batch_shape), self.context
        if context is not None:
            context = context.expand(*batch_shape, *context.shape[len(self.batch_shape) :])
        expanded = FlowDistribution(self.flow, context, batch_shape, trace=self.trace)
        expanded._captured = self._captured
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density in nats.

        Args:
            value: ``(*sample, *batch, *event)``; its leading dimensions broadcast with the batch of the context.

        Returns:
            ``(*sample, *batch)``.

        Raises:
            ValueError: Another shape, or values that are not finite.
            SolveError: The flow of some rows failed; the message says which.
        """
        x, context, lead = self._rows(value)
        if not len(x):
            return x.new_zeros(lead)
        return self._captured(_log_prob, x, context, self.trace).reshape(lead)

    def rsample(self, sample_shape: int | Sequence[int] = ()) -> Tensor:
        """Draws that carry gradients, ``(*sample_shape, *batch, *event)``; a number of draws, or their shape."""
        return self._captured(self._drawn, "rsample", sample_shape)

    def sample(self, sample_shape: int | Sequence[int] = ()) -> Tensor:
        """Draws, ``(*sample_shape, *batch, *event)``; a number of draws, or their shape."""
        with torch.no_grad():
            return self._captured(self._drawn, "sample", sample_shape)

    def _drawn(self, flow: CNF, how: str, sample_shape: Any) -> Tensor:
        shape, base = checked_sample_shape(sample_shape) + self.batch_shape, flow.base_distribution()
        if how == "rsample" and not base.has_rsample:
            raise NotImplementedError(f"The base, {type(base).__name__}, has no `rsample`. Use `sample`.")
        z = getattr(base, how)(torch.Size((shape.numel(),)))
        _, context, _ = self._rows(z.reshape(*shape, *self.event_shape))
        return flow.solve_from_base(z, context, trace=self.trace).end.reshape(*shape, *self.event_shape)

    def _rows(self, value: Tensor) -> tuple[Tensor, Tensor | None, torch.Size]:
        """One row a sample, with its context."""
        own = checked_value(value, self.event_shape)
        try:
            lead = torch.broadcast_shapes(own, self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"The samples have the leading shape {tuple(own)}, which does not broadcast with the batch of the "
                f"context, {tuple(self.batch_shape)}. Pass as many contexts as samples, or one."
            ) from None
        x = value.expand(*lead, *self.event_shape).reshape(-1, *self.event_shape)
        if self.context is None:
            return x, None, lead
        rest = self.context.shape[len(self.batch_shape) :]
        return x, self.context.expand(*lead, *rest).reshape(-1, *rest), lead

    def __repr__(self) -> str:
        shapes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        return f"FlowDistribution({type(self.flow.field).__name__}, {shapes})"


def _log_prob(flow: CNF, x: Tensor, context: Tensor | None, trace: Any) -> Tensor:
    z, log_det, _ = flow.solve_to_base(x, context, trace=trace)
    return flow.base_log_prob(z) + log_det


def _batch_shape(field: Any, context: Tensor | None) -> torch.Size:
    """The dimensions of a context before one of its own: the last one where the field names its size."""
    if context is None:
        return torch.Size()
    size = getattr(field, "context", None)
    own = 1 if isinstance(size, int) and size > 0 else max(context.dim() - 1, 0)
    return context.shape[: context.dim() - own]
