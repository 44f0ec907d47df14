"""The residual part of a convolutional network, before it is added to its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pathline.nets.activations import ACTIVATIONS, Activation, check_activation


class ConvBlock(nn.Module):
    r"""What a pre-activation residual block adds to its input, with group normalisation. *Maturing.*

    $$\mathrm{ConvBlock}(x) = W_2 * \phi(N_2(W_1 * \phi(N_1(x))))$$

    The sibling of ``pathline.fields.ConvField``: ``ResNet([ConvBlock(32) for _ in range(6)])`` is the residual network
    whose limit is ``NeuralODE(ConvField(32))``.

    Args:
        channels: Channels of the image, ``(batch, channels, height, width)``.
        hidden: Channels between the two convolutions; by default ``channels``.
        groups: Groups of the normalisation; by default as many as ``group_count`` finds, 0 for none.
        activation: As in ``pathline.nets.MLP``.
        kernel: Size of the convolutions, an odd number.
        dtype: Type of the parameters.
        device: Device of the parameters.

    Raises:
        ValueError: A size is not positive, the kernel is even, the groups don't divide the channels, or no activation
            has this name.

    Example:
        >>> import torch
        >>> from pathline.models import ResNet
        >>> from pathline.nets import ConvBlock
        >>> ResNet([ConvBlock(16) for _ in range(6)])(torch.zeros(5, 16, 4, 4)).shape
        torch.Size([5, 16, 4, 4])

    References:
        K. He, X. Zhang, S. Ren, J. Sun (2016), Identity mappings in deep residual networks.
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
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_activation(activation)
        self.channels, self.kernel, self.activation = channels, kernel, activation
        self.hidden = channels if hidden is None else hidden
        self.groups = group_count(channels, self.hidden) if groups is None else groups
        check_sizes(channels, self.hidden, kernel, self.groups)
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        self.norm1 = group_norm(self.groups, channels, **kind)
        self.conv1 = nn.Conv2d(channels, self.hidden, kernel, padding=kernel // 2, **kind)
        self.norm2 = group_norm(self.groups, self.hidden, **kind)
        self.conv2 = nn.Conv2d(self.hidden, channels, kernel, padding=kernel // 2, **kind)
        self.phi = nn.ModuleList(shared(activation, 2)).to(device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to ``x``, in its shape."""
        first, second = functions(self.activation, self.phi)
        return self.conv2(second(self.norm2(self.conv1(first(self.norm1(x))))))

    def extra_repr(self) -> str:
        return f"{self.channels}, hidden={self.hidden}, groups={self.groups}"


def group_count(*channels: int) -> int:
    """The largest number of groups, at most 32, that divides all channels and leaves four or more in a group.

    Where none does, one group.
    """
    fits = [n for n in range(1, 33) if all(isinstance(c, int) and c % n == 0 and c >= 4 * n for c in channels)]
    return max(fits, default=1)


def group_norm(groups: int, channels: int, **kind: Any) -> nn.Module:
    """Group normalisation, or with 0 groups nothing."""
    return nn.GroupNorm(groups, channels, **kind) if groups else nn.Identity()


def pushed_norm(norm: nn.Module, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    r"""A group normalisation, and its derivatives along tangents ``v``, which broadcast to ``(k, *x.shape)``.

    $$n = (x - \bar x) / \sigma, \qquad dn = \bigl(dv - \overline{dv} - n\,\overline{n\,dv}\bigr) / \sigma$$
    """
    if not isinstance(norm, nn.GroupNorm):
        return norm(x), v
    groups = (norm.num_groups, -1)
    centred = x.reshape(len(x), *groups)
    centred = centred - centred.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    n = centred * scale
    dv = v.reshape(*v.shape[:2], *groups)
    dv = dv - dv.mean(-1, keepdim=True)
    dn = scale * (dv - n * (n * dv).mean(-1, keepdim=True))
    weight = norm.weight.reshape(-1, 1, 1)
    return n.reshape(x.shape) * weight + norm.bias.reshape(-1, 1, 1), dn.reshape(len(v), *x.shape) * weight


def shared(activation: Activation, count: int) -> list[nn.Module]:
    """The objects of an activation that came as a class, one a place; none for the other kinds."""
    return [activation() for _ in range(count)] if isinstance(activation, type) else []


def named(activation: Activation, objects: nn.ModuleList) -> list[Any]:
    """The activation at each of two places, by its name where it has one."""
    return list(objects) if isinstance(activation, type) else [activation, activation]


def functions(activation: Activation, objects: nn.ModuleList) -> list[Callable[[Tensor], Tensor]]:
    """The activation at each of two places, to be called."""
    return [ACTIVATIONS[phi] if isinstance(phi, str) else phi for phi in named(activation, objects)]


def check_sizes(channels: int, hidden: int, kernel: int, groups: int) -> None:
    """Refuse sizes of which no convolution can be made.

    Raises:
        ValueError: See ``ConvBlock``.
    """
    if not all(isinstance(size, int) and size > 0 for size in (channels, hidden)):
        raise ValueError(f"`channels` and `hidden` are positive integers, but {channels!r} and {hidden!r} came.")
    if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"`kernel` is an odd number, so that the image keeps its size, but {kernel!r} came. Use 3.")
    if not isinstance(groups, int) or groups < 0 or (groups and (channels % groups or hidden % groups)):
        raise ValueError(
            f"`groups` divides the channels, {channels} and {hidden}, but {groups!r} came. "
            f"Leave it out for {group_count(channels, hidden)}, or use 0 for no normalisation."
        )
