"""What a field of images is given."""

from __future__ import annotations

import torch
from torch import Tensor


def check_images(y: Tensor, channels: int, dtype: torch.dtype, dims: tuple[int, ...] = (4,)) -> None:
    """Refuse a state that is no images with these channels, in the dtype of the parameters; autocast takes any.

    Raises:
        ValueError: Another shape.
        TypeError: Another dtype.
    """
    if y.dim() not in dims or y.shape[-3] != channels:
        raise ValueError(
            f"The state is images with {channels} channels, (batch, {channels}, height, width), but {tuple(y.shape)} "
            "came. Build the field for the channels of the images."
        )
    if y.dtype != dtype and not torch.is_autocast_enabled(y.device.type):
        raise TypeError(
            f"The images are in {y.dtype} and the parameters in {dtype}. Use y.to({dtype}), or model.to({y.dtype})."
        )
