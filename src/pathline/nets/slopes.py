"""Activations together with their slopes, in plain tensor code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.nets.activations import ACTIVATIONS


def _elu(x: Tensor) -> tuple[Tensor, Tensor]:
    value = F.elu(x)
    return value, torch.where(x > 0, torch.ones_like(x), value + 1)


def _gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    share = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return x * share, share + x * torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _identity(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.ones_like(x)


def _leaky_relu(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.leaky_relu(x), torch.where(x > 0, torch.ones_like(x), torch.full_like(x, 0.01))


def _mish(x: Tensor) -> tuple[Tensor, Tensor]:
    share = torch.tanh(F.softplus(x))
    return x * share, share + x * torch.sigmoid(x) * (1 - share.square())


def _relu(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.relu(x), (x > 0).to(x.dtype)


def _sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.sigmoid(x)
    return value, value * (1 - value)


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    share = torch.sigmoid(x)
    return x * share, share * (1 + x * (1 - share))


def _sin(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sin(x), torch.cos(x)


def _softplus(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.softplus(x), torch.sigmoid(x)


def _tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(x)
    return value, 1 - value.square()


#: Value and slope of the activations that have names.
SLOPES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "elu": _elu,
    "gelu": _gelu,
    "identity": _identity,
    "leaky_relu": _leaky_relu,
    "mish": _mish,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "sin": _sin,
    "softplus": _softplus,
    "tanh": _tanh,
}

#: The same functions under the names that ``torch.nn`` gives their modules, where these have no settings of their own.
MODULES: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.Mish: "mish",
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
}


def slope_of(function: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    """Value and slope as one function; None where the activation, a name, function or module, is not a known one."""
    return SLOPES.get(function if isinstance(function, str) else MODULES.get(type(function), ""))


def value(function: Any, x: Tensor) -> Tensor:
    """An activation, by its name or as it is."""
    return ACTIVATIONS[function](x) if isinstance(function, str) else function(x)


def pushed(function: Any, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """An activation, and its derivatives along tangents ``v``, which broadcast to ``(k, *x.shape)``."""
    known = slope_of(function)
    if known is not None:
        y, slope = known(x)
        return y, v * slope
    along = torch.func.vmap(lambda e: torch.func.jvp(function, (x,), (e,))[1])(v.expand(len(v), *x.shape))
    return function(x), along  # pyright: ignore[reportReturnType]
