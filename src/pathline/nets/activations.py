"""Activations by name, module or function, and the gain that keeps a network's signal at unit variance."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = str | nn.Module | type[nn.Module] | Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "identity": lambda x: x,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sin": torch.sin,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}


def check_activation(activation: Activation) -> None:
    """Refuse what is neither a known name nor callable.

    Raises:
        ValueError: No activation has this name.
        TypeError: The argument is neither a name, nor a module, nor a function.
    """
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            close = difflib.get_close_matches(activation, ACTIVATIONS, n=1)
            hint = f' Did you mean "{close[0]}"?' if close else ""
            raise ValueError(f'No activation is called "{activation}".{hint} The names: {", ".join(ACTIVATIONS)}.')
    elif not callable(activation):
        raise TypeError(
            "`activation` is a name, an `nn.Module` (object or class) or a function of a tensor, "
            f"but {activation!r} came. The names: {', '.join(ACTIVATIONS)}."
        )


def gain(activation: Callable[[Tensor], Tensor]) -> float:
    r"""The factor ``g`` with ``E[(g phi(z))^2] = 1`` for a standard normal ``z``.

    It is ``sqrt(2)`` for ReLU, which gives the initialisation of He et al., and is found by Gauss-Hermite quadrature
    for any other elementwise activation.

    References:
        K. He, X. Zhang, S. Ren, J. Sun (2015), Delving deep into rectifiers.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    own = next(activation.parameters(), None) if isinstance(activation, nn.Module) else None
    z = torch.as_tensor(nodes).to(torch.empty(0) if own is None else own)
    with torch.no_grad():
        square = activation(z).double().cpu().square()
    second_moment = float((square * torch.as_tensor(weights)).sum()) / math.sqrt(2 * math.pi)
    return 1.0 / math.sqrt(second_moment) if second_moment > 0 else 1.0
