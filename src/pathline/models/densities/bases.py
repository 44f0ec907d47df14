"""The base of a flow, in the dtype of the flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution


def in_dtype(base: Distribution, dtype: torch.dtype | None) -> Distribution:
    """The base itself where it has this dtype, or shows none; else one that casts draws and log-densities."""
    own = _dtype_of(base)
    return base if dtype is None or own is None or own == dtype else Cast(base, own, dtype)


class Cast(Distribution):
    """A distribution whose draws and log-densities are in another dtype than its parameters.

    Args:
        base: The distribution.
        own: Dtype of its parameters.
        dtype: Dtype of draws and log-densities.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, base: Distribution, own: torch.dtype, dtype: torch.dtype) -> None:
        self.base, self.own, self.dtype = base, own, dtype
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the distribution has it."""
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        """That of the distribution."""
        return self.base.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Cast:
        """The same for a larger batch shape."""
        return Cast(self.base.expand(batch_shape), self.own, self.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        return self.base.sample(torch.Size(sample_shape)).to(self.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that carry gradients."""
        return self.base.rsample(torch.Size(sample_shape)).to(self.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density."""
        return self.base.log_prob(value.to(self.own)).to(self.dtype)

    def __repr__(self) -> str:
        return repr(self.base)


def _dtype_of(base: Distribution) -> torch.dtype | None:
    """That of the parameters, found in the distribution or in those it is made of."""
    for part in vars(base).values():
        if isinstance(part, Tensor) and part.is_floating_point():
            return part.dtype
        found = _dtype_of(part) if isinstance(part, Distribution) else None
        if found is not None:
            return found
    return None
