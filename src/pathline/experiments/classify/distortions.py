"""Images as another hand might have placed them: turned, scaled and moved a little."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def distorted(images: Tensor, generator: torch.Generator, *, rotation: float, zoom: float, shift: float) -> Tensor:
    """Each image turned, scaled and moved by draws of its own, bilinear in between; what comes in is paper.

    Args:
        images: ``(n, 1, height, width)``.
        generator: Of the draws, on the CPU: they are the same on every device.
        rotation: Largest angle, in radians.
        zoom: Largest relative change of size.
        shift: Largest move in either direction, in pixels.
    """
    n, size = len(images), images.new_tensor(images.shape[:1:-1])  # width, height
    draws = (2 * torch.rand(4, n, generator=generator) - 1).to(images)
    angle, scale, move = rotation * draws[0], 1 + zoom * draws[1], shift * draws[2:].T
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(n, 2, 2)
    # The grid measures the picture from -1 to 1.
    maps = torch.cat([scale.reshape(n, 1, 1) * turn, (2 * move / size).unsqueeze(2)], 2)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    paper = images.amin()
    return F.grid_sample(images - paper, grid, align_corners=False) + paper
