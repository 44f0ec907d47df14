"""A multilayer perceptron as a rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pathline.fields.context import check_none, checked_context
from pathline.fields.time import time_channel
from pathline.nets import MLP as Net
from pathline.nets.activations import Activation


class MLP(nn.Module):
    r"""A multilayer perceptron as a rate. *Maturing.*

    $$\dot y = \mathrm{MLP}(y), \qquad \text{or } \dot y = \mathrm{MLP}([y, t]) \text{ with } \texttt{time}$$

    With a ``context`` that is one more input, behind the time. Derivatives along tangents (``push``) and the exact
    divergence are closed forms; with one or two hidden layers the divergence costs about as much as one more
    evaluation, whatever the size.

    Args:
        size: Size of the last dimension of the state.
        hidden: Width of each hidden layer.
        activation: As in ``pathline.nets.MLP``; smooth ones keep adaptive solvers cheap.
        time: Whether the time is one more input.
        init: As in ``pathline.nets.MLP``.
        context: Size of a context that the field receives as ``args``, ``(batch, context)``; 0 for none.
        output_scale: Factor on the last layer's initial weights; small values start near the identity flow.
        dtype: Type of the parameters.
        device: Device of the parameters.

    Example:
        >>> import torch
        >>> from pathline import fields
        >>> field = fields.MLP(2, hidden=(32, 32), time=True)
        >>> field(torch.tensor(0.0), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        size: int,
        hidden: int | Sequence[int] = (64, 64),
        *,
        activation: Activation = "tanh",
        time: bool = False,
        context: int = 0,
        init: Literal["matched", "torch"] = "matched",
        output_scale: float = 1.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.time, self.context = time, context
        self.net = Net(
            size + time + context,
            size,
            hidden,
            activation=activation,
            init=init,
            output_scale=output_scale,
            dtype=dtype,
            device=device,
        )

    @property
    def size(self) -> int:
        """Size of the last dimension of the state."""
        return self.net.outputs

    @property
    def hidden(self) -> tuple[int, ...]:
        """Width of each hidden layer."""
        return self.net.hidden

    @property
    def activation(self) -> Activation:
        """The activation, as it was given."""
        return self.net.activation

    @property
    def init(self) -> str:
        """The initialisation."""
        return self.net.init

    @property
    def output_scale(self) -> float:
        """The initial factor on the last layer."""
        return self.net.output_scale

    def forward(self, t: Tensor, y: Tensor, args: Tensor | None = None) -> Tensor:
        """The rate, in the shape of ``y``, ``(..., size)``."""
        return self.net(self._inputs(t, y, args))

    def push(self, t: Tensor, y: Tensor, v: Tensor, args: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """The rate, and its derivatives along tangents ``v``, which broadcast to ``(k, *y.shape)``.

        None where the slope of an activation isn't known.
        """
        return self.net.push(self._inputs(t, y, args), v)

    def divergence(self, t: Tensor, y: Tensor, args: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """The rate and its divergence, ``(...)``; None where the slope of an activation isn't known."""
        return self.net.trace(self._inputs(t, y, args))

    def _inputs(self, t: Tensor, y: Tensor, context: Tensor | None) -> Tensor:
        parts = [y]
        if self.time:
            parts.append(time_channel(t, y))
        if self.context:
            parts.append(checked_context(context, y, self.context))
        else:
            check_none(context)
        return torch.cat(parts, -1) if len(parts) > 1 else y

    def extra_repr(self) -> str:
        return f"time={self.time}" + (f", context={self.context}" if self.context else "")
