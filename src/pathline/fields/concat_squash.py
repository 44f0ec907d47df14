"""Layers whose gain and shift follow the time, as in FFJORD."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.fields.context import check_none, checked_context, checked_size
from pathline.fields.time import time_channel
from pathline.nets.activations import Activation, check_activation, gain
from pathline.nets.layered import trace
from pathline.nets.slopes import slope_of, value


class ConcatSquash(nn.Module):
    r"""A multilayer perceptron whose layers are gated and shifted by the time. *Maturing.*

    $$h_{k+1} = \phi\bigl((W_k h_k + b_k)\,\sigma(G_k s + c_k) + D_k s\bigr), \qquad s = [t, \text{context}]$$

    The last layer has no activation. Derivatives along tangents (``push``) and the exact divergence (``divergence``)
    are closed forms; with one or two hidden layers the exact divergence costs about as much as one more evaluation,
    whatever the size.

    Args:
        size: Size of the last dimension of the state.
        hidden: Width of each hidden layer.
        activation: A name or a function, as in ``pathline.nets.MLP``; smooth ones keep adaptive solvers cheap.
        context: Size of a context that the field receives as ``args``, ``(batch, context)``; 0 for none.
        init: ``"matched"`` keeps the variance of the signal behind gates that are half open; ``"torch"`` is that of
            ``nn.Linear``, with which the field starts all but constant.
        dtype: Type of the parameters.
        device: Device of the parameters.

    Raises:
        TypeError: ``activation`` is a class.
        ValueError: A size that is not positive, or no such activation or initialisation.

    Example:
        >>> import torch
        >>> from pathline import fields
        >>> field = fields.ConcatSquash(2, hidden=(64, 64, 64))
        >>> field(torch.tensor(0.5), torch.zeros(7, 2)).shape
        torch.Size([7, 2])

    References:
        W. Grathwohl, R. T. Q. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud (2019), FFJORD: free-form continuous
        dynamics for scalable reversible generative models.
    """

    def __init__(
        self,
        size: int,
        hidden: int | Sequence[int] = (64, 64, 64),
        *,
        activation: Activation = "tanh",
        context: int = 0,
        init: Literal["matched", "torch"] = "matched",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.size, self.context, self.activation, self.init = size, checked_size(context), activation, init
        self.hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        if not all(isinstance(n, int) and n > 0 for n in (size, *self.hidden)):
            raise ValueError(f"`size` and `hidden` are positive integers, but {size!r} and {hidden!r} came.")
        check_activation(activation)
        if isinstance(activation, type):
            raise TypeError(
                f"`activation` is a name, a function or a module; the class came. Try {activation.__name__}()."
            )
        self.sizes = [*self.hidden, size]
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        self.layers = nn.ModuleList(nn.Linear(a, b, **kind) for a, b in itertools.pairwise([size, *self.sizes]))
        self.gate = nn.Linear(1 + context, sum(self.sizes), **kind)
        self.shift = nn.Linear(1 + context, sum(self.sizes), bias=False, **kind)

        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        if self.init not in ("matched", "torch"):
            raise ValueError(f'`init` is "matched" or "torch", but {self.init!r} came.')
        for layer in (*self.layers, self.gate, self.shift):
            layer.reset_parameters()  # pyright: ignore[reportCallIssue]
        if self.init == "matched":
            factor = gain(functools.partial(value, self.activation))
            for k, layer in enumerate(self.layers):
                # A gate starts half open.
                std = 2.0 * (factor if k else 1.0) / math.sqrt(layer.in_features)  # pyright: ignore[reportArgumentType]
                nn.init.normal_(layer.weight, std=std)  # pyright: ignore[reportArgumentType]

    def forward(self, t: Tensor, y: Tensor, args: Tensor | None = None) -> Tensor:
        """The rate, in the shape of ``y``, ``(..., size)``."""
        *hidden, last = self._layers(t, y, args)
        for layer in hidden:
            y = value(self.activation, layer(y))
        return last(y)

    def push(self, t: Tensor, y: Tensor, v: Tensor, args: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """The rate, and its derivatives along tangents ``v``, which broadcast to ``(k, *y.shape)``.

        None where the slope of the activation isn't known.
        """
        known = slope_of(self.activation)
        if known is None:
            return None
        *hidden, last = self._layers(t, y, args)
        for layer in hidden:
            y, slope = known(layer(y))
            v = layer.push(v) * slope
        return last(y), last.push(v)

    def divergence(self, t: Tensor, y: Tensor, args: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """The rate and its divergence, ``(...)``.

        None where samples have gates of their own, or where the slope of the activation isn't known.
        """
        known = slope_of(self.activation)
        if known is None or self.context or t.dim():
            return None
        *hidden, last = layers = self._layers(t, y, args)
        lead, slopes = y.shape[:-1], []
        for layer in hidden:
            y, slope = known(layer(y))
            slopes.append(slope.reshape(-1, slope.shape[-1]))
        div = trace([layer.weight for layer in layers], slopes)
        return last(y), div.reshape(lead) if slopes else div.expand(lead)

    def _layers(self, t: Tensor, y: Tensor, context: Tensor | None) -> list[_Layer]:
        """The layers at one time, given a context."""
        if self.context:
            s = torch.cat([time_channel(t, y), checked_context(context, y, self.context)], -1)
        else:
            check_none(context)
            s = t.to(y.dtype).reshape(1) if t.dim() == 0 else time_channel(t, y)
        gates, shifts = torch.sigmoid(self.gate(s)).split(self.sizes, -1), self.shift(s).split(self.sizes, -1)
        return [_Layer(layer, *parts) for layer, *parts in zip(self.layers, gates, shifts, strict=True)]

    def extra_repr(self) -> str:
        context = f", context={self.context}" if self.context else ""
        return f"{self.size}, hidden={self.hidden}, activation={self.activation}{context}"


class _Layer:
    """One layer at one time. A gate that all samples share is part of the weight: far fewer numbers to multiply."""

    def __init__(self, layer: Any, gate: Tensor, shift: Tensor) -> None:
        shared = gate.dim() == 1
        self.gate = None if shared else gate
        self.weight = layer.weight * gate.unsqueeze(1) if shared else layer.weight
        self.bias = layer.bias * gate + shift

    def __call__(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return F.linear(x, self.weight, self.bias)
        return torch.addcmul(self.bias, F.linear(x, self.weight), self.gate)

    def push(self, v: Tensor) -> Tensor:
        v = F.linear(v, self.weight)
        return v if self.gate is None else v * self.gate
