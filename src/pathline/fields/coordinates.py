"""The same rate in other coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LogCoordinates(nn.Module):
    r"""A field of a positive state ``y``, seen by $z = (\log y - m) / s$. *Maturing.*

    $$\dot z = \frac{f(t, y)}{s\,y}, \qquad y = e^{m + s z}$$

    Populations and concentrations stay positive at every stage of the solver, and one tolerance fits all of them.

    Args:
        field: The rate of ``y``.
        mean: ``m``, one number or one a component.
        scale: ``s``, positive, one number or one a component.

    Raises:
        ValueError: A scale that is not positive.

    Example:
        >>> from pathline import fields
        >>> field = fields.LogCoordinates(fields.LotkaVolterra())
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        field: nn.Module,
        mean: float | Sequence[float] | Tensor = 0.0,
        scale: float | Sequence[float] | Tensor = 1.0,
    ) -> None:
        super().__init__()
        self.field = field
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.get_default_dtype()).detach().clone())
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.get_default_dtype()).detach().clone())
        if not bool((self.scale > 0).all()):
            raise ValueError(f"`scale` is positive, but {scale!r} came.")

    def to_state(self, z: Tensor) -> Tensor:
        """The positive state ``y`` at the coordinates ``z``."""
        return (self.mean + self.scale * z).exp()

    def to_coordinates(self, y: Tensor) -> Tensor:
        """The coordinates ``z`` of a positive state ``y``."""
        return (y.log() - self.mean) / self.scale

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The rate of ``z``, in its shape."""
        y = self.to_state(z)
        return self.field(t, y) / (self.scale * y)
