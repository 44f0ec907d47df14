"""Levels of differentiation: whether derivatives are recorded, on a tape or as tangents, and what lies outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

Made = TypeVar("Made")


def forward_mode() -> bool:
    """Whether tangents may be travelling: inside torch.func.jvp, jacfwd or hessian, or a dual level."""
    return forward_ad._current_level >= 0


def recording() -> bool:
    """Whether what is computed now may be differentiated; ``no_grad`` holds back no tangent."""
    return torch.is_grad_enabled() or forward_mode()


def moves(x: Tensor) -> bool:
    """Whether a derivative may hang on ``x``."""
    return forward_mode() or watched(x)


def watched(x: Tensor) -> bool:
    """Whether ``x`` requires grad, at any level of torch.func: the inner ones do not know of the outer."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while not x.requires_grad:
        if not functorch.is_functorch_wrapped_tensor(x):
            return False
        x = functorch.get_unwrapped(x)
    return True


def carries(x: Tensor) -> bool:
    """Whether a derivative hangs on ``x``."""
    if not forward_mode():
        return torch.is_grad_enabled() and watched(x)
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)  # pyright: ignore[reportAttributeAccessIssue]
    return wrapped or x.requires_grad or forward_ad.unpack_dual(x).tangent is not None


def constant(make: Callable[[], Made]) -> Made:
    """What ``make`` returns, made outside of all transforms: a tensor that is kept must not outlive its level."""
    if torch._C._functorch.peek_interpreter_stack() is None and not torch.is_inference_mode_enabled():  # pyright: ignore[reportAttributeAccessIssue]
        return make()
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False):
        return make()
