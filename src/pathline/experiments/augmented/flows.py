"""Flows of equal size that classify without a layer before or behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pathline import fields
from pathline.models import NeuralODE


class Flow(nn.Module):
    """A flow whose end is read by fixed linear functionals: nothing but the flow can learn.

    Args:
        size: Dimension of the inputs.
        augment: Number of added zeros.
        readout: The functionals, ``(size + augment, outputs)``.
        hidden: Hidden layers of the field.
        activation: Their activation.
        **solver: Options of ``NeuralODE``.
    """

    readout: Tensor

    def __init__(
        self, size: int, augment: int, readout: Tensor, hidden: Sequence[int], activation: str, **solver: Any
    ) -> None:
        super().__init__()
        self.register_buffer("readout", readout)
        field = fields.MLP(size + augment, hidden, activation=activation)
        self.ode = NeuralODE(field, augment=augment, return_augmented=True, **solver)

    def forward(self, x: Tensor) -> Tensor:
        """The readings at the end of the flow, ``(batch, outputs)``."""
        return self.ode(x) @ self.readout


def parameters(size: int, hidden: Sequence[int]) -> int:
    """Parameters of a field of that size."""
    sizes = (size, *hidden, size)
    return sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def matched(size: int, larger: int, hidden: Sequence[int]) -> tuple[int, ...]:
    """Hidden layers that give a field of ``size`` at least the parameters of one of size ``larger``."""
    budget, wider = parameters(larger, hidden), tuple(hidden)
    while parameters(size, wider) < budget:
        wider = tuple(width + 1 for width in wider)
    return wider
