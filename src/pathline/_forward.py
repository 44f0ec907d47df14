"""Whether derivatives are recorded: on autograd's tape, or as tangents that travel with their values."""

from __future__ import annotations

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor


def forward_mode() -> bool:
    """Whether tangents may be travelling: inside torch.func.jvp, jacfwd or hessian, or a dual level."""
    return forward_ad._current_level >= 0


def recording() -> bool:
    """Whether what is computed now may be differentiated; ``no_grad`` holds back no tangent."""
    return torch.is_grad_enabled() or forward_mode()


def moves(x: Tensor) -> bool:
    """Whether a derivative may hang on ``x``."""
    return x.requires_grad or forward_mode()


def carries(x: Tensor) -> bool:
    """Whether a derivative hangs on ``x``."""
    if not forward_mode():
        return x.requires_grad and torch.is_grad_enabled()
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)  # pyright: ignore[reportAttributeAccessIssue]
    return wrapped or x.requires_grad or forward_ad.unpack_dual(x).tangent is not None
