"""A convolutional network as a rate of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.fields.images import check_images
from pathline.nets.activations import Activation, check_activation
from pathline.nets.convolutional import check_sizes, functions, group_count, group_norm, named, pushed_norm, shared
from pathline.nets.slopes import slope_of


class ConvField(nn.Module):
    r"""Convolutions and group normalisation as a rate of images, the field of the ODE-Net. *Maturing.*

    $$\dot y = N_3\bigl(W_2 * [\phi(N_2(W_1 * [\phi(N_1(y)), t])), t]\bigr)$$

    The time is one more constant channel of each convolution. Group normalisation looks at one image at a time, so an
    image's rate does not depend on the rest of the batch. Derivatives along tangents (``push``) are a closed form.

    Args:
        channels: Channels of the state, ``(batch, channels, height, width)`` or ``(channels, height, width)``.
        hidden: Channels between the two convolutions; by default as many as the state has.
        groups: Groups of the normalisation, by default 32 or fewer with four channels or more in each; 0 leaves the
            normalisation out, so that the rate may have any size, as the field of a density needs it.
        activation: A name (``"relu"``, ``"softplus"``, ...), a function of a tensor, a module (shared by both places),
            or a module class (one object a place). Smooth ones keep adaptive solvers cheap.
        kernel: Size of the convolutions, an odd number.
        time: Whether the time is a channel.
        dtype: Type of the parameters.
        device: Device of the parameters.

    Raises:
        ValueError: A size is not positive, the kernel is even, the groups don't divide the channels, or no activation
            has this name; at a call, states that are no images with these channels.
        TypeError: At a call, images in another dtype than the parameters.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pathline import NeuralODE, fields
        >>> ode = NeuralODE(fields.ConvField(16), rtol=1e-3, atol=1e-3)
        >>> net = nn.Sequential(
        ...     nn.Conv2d(1, 16, 3), ode, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
        ... )
        >>> net(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])

    References:
        R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud (2018), Neural ordinary differential equations.
        Y. Wu, K. He (2018), Group normalization.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int | None = None,
        groups: int | None = None,
        activation: Activation = "relu",
        kernel: int = 3,
        time: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_activation(activation)
        self.channels, self.kernel, self.time, self.activation = channels, kernel, time, activation
        self.hidden = channels if hidden is None else hidden
        self.groups = group_count(channels, self.hidden) if groups is None else groups
        check_sizes(channels, self.hidden, kernel, self.groups)
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        self.norm1 = group_norm(self.groups, channels, **kind)
        self.conv1 = nn.Conv2d(channels + time, self.hidden, kernel, padding=kernel // 2, **kind)
        self.norm2 = group_norm(self.groups, self.hidden, **kind)
        self.conv2 = nn.Conv2d(self.hidden + time, channels, kernel, padding=kernel // 2, **kind)
        self.norm3 = group_norm(self.groups, channels, **kind)
        self.phi = nn.ModuleList(shared(activation, 2)).to(device, dtype)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The rate, in the shape of ``y``."""
        check_images(y, self.channels, self.conv1.weight.dtype, (3, 4))
        if y.dim() == 3:  # group normalisation would take the channels of a single image for a batch
            return self(t, y.unsqueeze(0)).squeeze(0)
        first, second = functions(self.activation, self.phi)
        h = self._convolved(self.conv1, t, first(self.norm1(y)))
        h = self._convolved(self.conv2, t, second(self.norm2(h)))
        return self.norm3(h)

    def push(self, t: Tensor, y: Tensor, v: Tensor, args: None = None) -> tuple[Tensor, Tensor] | None:
        """The rate, and its derivatives along tangents ``v``, which broadcast to ``(k, *y.shape)``.

        None where the slope of the activation isn't known.
        """
        check_images(y, self.channels, self.conv1.weight.dtype, (3, 4))
        if y.dim() == 3:
            found = self.push(t, y.unsqueeze(0), v.unsqueeze(1))
            return found and (found[0].squeeze(0), found[1].squeeze(1))
        for norm, conv, phi in zip((self.norm1, self.norm2), (self.conv1, self.conv2), self._slopes(), strict=True):
            if phi is None:
                return None
            y, v = pushed_norm(norm, y, v)
            y, slope = phi(y)
            y, v = self._convolved(conv, t, y), self._pushed(conv, v * slope)
        return pushed_norm(self.norm3, y, v)

    def _slopes(self) -> list[Any]:
        return [slope_of(phi) for phi in named(self.activation, self.phi)]

    def _pushed(self, conv: nn.Conv2d, v: Tensor) -> Tensor:
        """The convolution of tangents, of which the time has none."""
        weight = conv.weight[:, :-1] if self.time else conv.weight
        return F.conv2d(v.flatten(0, 1), weight, padding=conv.padding).unflatten(0, v.shape[:2])

    def _convolved(self, conv: nn.Conv2d, t: Tensor, y: Tensor) -> Tensor:
        """The convolution of ``[y, t]``."""
        if not self.time:
            return conv(y)
        # The time is the same at each pixel: its part is one picture, times t. Twice as fast as one more channel.
        of_y, of_t = conv.weight[:, :-1], conv.weight[:, -1:]
        picture = F.conv2d(y.new_ones(1, 1, *y.shape[2:]), of_t, padding=conv.padding)
        return F.conv2d(y, of_y, conv.bias, padding=conv.padding) + t.to(y.dtype) * picture

    def extra_repr(self) -> str:
        return f"{self.channels}, hidden={self.hidden}, groups={self.groups}, time={self.time}"
