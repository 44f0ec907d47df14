"""The multilayer perceptron."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.nets.activations import ACTIVATIONS, Activation, check_activation, gain
from pathline.nets.layered import trace
from pathline.nets.slopes import slope_of


class MLP(nn.Module):
    r"""A multilayer perceptron over the last dimension. *Maturing.*

    $$x_{k+1} = \phi(W_k x_k + b_k), \qquad \mathrm{MLP}(x) = W_n x_n + b_n$$

    With ``init="matched"`` the weights keep the variance of the signal for whatever activation is used (He et al. for
    ReLU); the biases are those of ``nn.Linear``, so that the units of a network with one input differ in position too.

    Args:
        inputs: Size of the last dimension of ``x``.
        outputs: Size of the last dimension of the result.
        hidden: Width of each hidden layer; one number means one hidden layer, ``()`` none.
        activation: A name (``"tanh"``, ``"silu"``, ...), a function of a tensor, a module (shared by all layers), or a
            module class (one object a layer).
        bias: Whether the layers have biases.
        init: ``"matched"``, or ``"torch"`` for the initialisation of ``nn.Linear``.
        output_scale: Factor on the initial weights and bias of the last layer; with 0 the network starts as zero.
        dtype: Type of the parameters.
        device: Device of the parameters.

    Raises:
        ValueError: A size is not positive, or no activation or initialisation has this name.

    Example:
        >>> import torch
        >>> from pathline.nets import MLP
        >>> MLP(2, 1, hidden=(64, 64), activation="silu")(torch.zeros(7, 2)).shape
        torch.Size([7, 1])

    References:
        K. He, X. Zhang, S. Ren, J. Sun (2015), Delving deep into rectifiers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int | Sequence[int] = (64, 64),
        *,
        activation: Activation = "tanh",
        bias: bool = True,
        init: Literal["matched", "torch"] = "matched",
        output_scale: float = 1.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        self.bias, self.init, self.output_scale = bias, init, output_scale
        sizes = _checked_sizes(inputs, outputs, self.hidden)
        check_activation(activation)
        self.activation = activation
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=bias, dtype=dtype, device=device) for a, b in itertools.pairwise(sizes)
        )
        if isinstance(activation, type):
            self.activations = nn.ModuleList(activation().to(device, dtype) for _ in self.hidden)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        if self.init not in ("matched", "torch"):
            raise ValueError(f'`init` is "matched" or "torch", but {self.init!r} came.')
        gains = [1.0, *(gain(function) for function in self._functions())]
        for layer, factor in zip(self._linear(), gains, strict=True):
            layer.reset_parameters()
            if self.init == "matched":
                nn.init.normal_(layer.weight, std=factor / math.sqrt(layer.in_features))
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.mul_(self.output_scale)

    def _linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def _functions(self) -> list[Callable[[Tensor], Tensor]]:
        """The activation after each hidden layer."""
        if isinstance(self.activation, type):
            return list(self.activations)
        function: Any = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        return [function] * len(self.hidden)

    def _slopes(self) -> list[Any]:
        """Value and slope of each activation, or None."""
        named = isinstance(self.activation, str)
        return [
            slope_of(function) for function in ([self.activation] * len(self.hidden) if named else self._functions())
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., inputs)`` to ``(..., outputs)``."""
        *hidden, last = self.layers
        for layer, function in zip(hidden, self._functions(), strict=True):
            x = function(layer(x))
        return last(x)

    def push(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor] | None:
        """The network, and its derivatives along tangents of its first inputs, in plain tensor code.

        Args:
            x: ``(..., inputs)``.
            v: Tangents that broadcast to ``(k, ..., n)``, for the first ``n`` inputs.

        Returns:
            ``(..., outputs)`` and ``(k, ..., outputs)``; None where the slope of an activation isn't known.
        """
        *hidden, last = self._linear()
        first = v.shape[-1]
        for layer, function in zip(hidden, self._slopes(), strict=True):
            if function is None:
                return None
            x, slope = function(layer(x))
            v, first = F.linear(v, layer.weight[:, :first]) * slope, None
        return last(x), F.linear(v, last.weight[:, :first])

    def trace(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The network, and the trace of its derivative by as many of its first inputs as it has outputs.

        Returns:
            ``(..., outputs)`` and ``(...)``; None where the slope of an activation isn't known.
        """
        *hidden, last = layers = self._linear()
        lead, slopes = x.shape[:-1], []
        for layer, function in zip(hidden, self._slopes(), strict=True):
            if function is None:
                return None
            x, slope = function(layer(x))
            slopes.append(slope.reshape(-1, slope.shape[-1]))
        weights = [layer.weight for layer in layers]
        weights[0] = weights[0][:, : self.outputs]
        found = trace(weights, slopes)
        return last(x), found.reshape(lead) if slopes else found.expand(lead)

    def extra_repr(self) -> str:
        name = self.activation if isinstance(self.activation, str) else getattr(self.activation, "__name__", "module")
        return f"{self.inputs} -> {' -> '.join(map(str, (*self.hidden, self.outputs)))}, activation={name}"


def _checked_sizes(inputs: int, outputs: int, hidden: tuple[int, ...]) -> tuple[int, ...]:
    sizes = (inputs, *hidden, outputs)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"The sizes of an MLP are positive integers, but inputs={inputs!r}, hidden={hidden!r}, "
            f"outputs={outputs!r} came. For two inputs, one output and two hidden layers: MLP(2, 1, hidden=(64, 64))."
        )
    return sizes
