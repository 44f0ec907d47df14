"""A small U-shaped network for images, modulated by a vector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    r"""Images to images through coarser and coarser grids, with shortcuts between equal ones. *Experimental.*

    Each level has ``blocks`` residual blocks on the way down and as many on the way up (group normalisation, SiLU, two
    3x3 convolutions); between levels the grid is halved. ``patch`` folds squares of pixels into channels before the
    first level and unfolds them after the last, which makes a network on a CPU that much cheaper. A vector ``z`` shifts
    and scales the channels in every block. No normalisation looks at more than one image.

    $$h \leftarrow h + W_2\,\phi\bigl((1 + a(z)) \odot \mathrm{GN}(W_1\,\phi(\mathrm{GN}(h))) + b(z)\bigr)$$

    The last layer starts at zero.

    Args:
        channels: Channels of the images.
        widths: Channels of each level, multiples of ``groups``.
        blocks: Residual blocks of each level and way.
        modulation: Size of ``z``; 0 for none.
        patch: Side of the squares that become channels.
        groups: Groups of the normalisation.
        positions: Frequencies of the waves along height and width that tell the first layer where a pixel is; with 0
            it is told nothing, and only the borders differ.
        outputs: Channels of the result, by default those of the images.

    Raises:
        ValueError: A size is not positive, or a width no multiple of ``groups``.

    Example:
        >>> import torch
        >>> net = UNet(1, (16, 32), modulation=8, patch=2)
        >>> net(torch.zeros(5, 1, 28, 28), torch.zeros(5, 8)).shape
        torch.Size([5, 1, 28, 28])

    References:
        O. Ronneberger, P. Fischer, T. Brox (2015), U-Net: convolutional networks for biomedical image segmentation.
        P. Dhariwal, A. Nichol (2021), Diffusion models beat GANs on image synthesis.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (32, 64),
        *,
        blocks: int = 1,
        modulation: int = 0,
        patch: int = 1,
        groups: int = 8,
        positions: int = 0,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(widths, Sequence):
            raise TypeError(f"`widths` has the channels of each level, such as (32, 64), but {widths!r} came.")
        self.channels, self.widths, self.blocks = channels, tuple(widths), blocks
        self.modulation, self.patch, self.groups, self.positions = modulation, patch, groups, positions
        self.outputs = channels if outputs is None else outputs
        _check_sizes(channels, self.widths, blocks, patch, groups, self.outputs, modulation, positions)

        def block(inputs: int, width: int) -> Residual:
            return Residual(inputs, width, modulation=modulation, groups=groups)

        first, last = self.widths[0], self.widths[-1]
        steps = list(itertools.pairwise(self.widths))
        self.enter = nn.Conv2d(channels * patch**2 + 4 * positions, first, 3, padding=1)
        self.down = nn.ModuleList(nn.ModuleList(block(w, w) for _ in range(blocks)) for w in self.widths)
        self.coarser = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)
        self.middle = block(last, last)
        self.up = nn.ModuleList(nn.ModuleList(block(2 * w, w) for _ in range(blocks)) for w in self.widths)
        self.finer = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in steps)
        self.leave = nn.Sequential(
            nn.GroupNorm(groups, first), nn.SiLU(), nn.Conv2d(first, self.outputs * patch**2, 3, padding=1)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with a last layer of zeros."""
        for parameter in self.leave[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Map ``(batch, channels, height, width)``, with ``z`` of shape ``(batch, modulation)``, to an image."""
        self._check_input(x)
        h = F.pixel_unshuffle(x, self.patch)
        h = self.enter(torch.cat([h, waves(h, self.positions)], 1) if self.positions else h)
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            h = h if level == 0 else self.coarser[level - 1](h)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, z)
                kept.append(h)
        h = self.middle(h, z)
        for level in reversed(range(len(self.widths))):
            for block in self.up[level]:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(torch.cat([h, kept.pop()], 1), z)
            if level:
                h = F.interpolate(self.finer[level - 1](h), size=kept[-1].shape[-2:], mode="nearest")
        return F.pixel_shuffle(self.leave(h), self.patch)

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.channels or x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise ValueError(
                f"`x` is a batch of images, (batch, {self.channels}, height, width)"
                + (f" with sides that {self.patch} divides" if self.patch > 1 else "")
                + f", but {tuple(x.shape)} came."
            )

    def extra_repr(self) -> str:
        return f"{self.channels} -> {self.widths} -> {self.outputs}, patch={self.patch}"


class Residual(nn.Module):
    """A residual block of a ``UNet``: normalise, activate and convolve, twice, with the vector in between."""

    def __init__(self, inputs: int, width: int, *, modulation: int = 0, groups: int = 8) -> None:
        super().__init__()
        self.inputs, self.width, self.modulation, self.groups = inputs, width, modulation, groups
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shift = nn.Linear(modulation, 2 * width) if modulation else None
        self.shortcut = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()

    def forward(self, h: Tensor, z: Tensor | None = None) -> Tensor:
        g = self.norm2(self.conv1(F.silu(self.norm1(h))))
        if self.shift is not None:
            if z is None:
                raise ValueError(f"`z` is needed: the network is modulated by {self.modulation} numbers an image.")
            a, b = self.shift(z)[..., None, None].chunk(2, 1)
            g = g * (1 + a) + b
        return self.shortcut(h) + self.conv2(F.silu(g))


def waves(x: Tensor, count: int) -> Tensor:
    r"""$\sin \pi k s$ and $\cos \pi k s$ for $k = 1, ..., n$ and $s$ from -1/2 to 1/2 along height and width.

    Args:
        x: Images, ``(batch, channels, height, width)``.
        count: The number of frequencies $n$.

    Returns:
        ``(batch, 4 * count, height, width)``.
    """
    batch, _, height, width = x.shape
    pi_k = torch.pi * torch.arange(1, count + 1, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
    rows = torch.linspace(-0.5, 0.5, height, dtype=x.dtype, device=x.device).unsqueeze(1).expand(height, width)
    columns = torch.linspace(-0.5, 0.5, width, dtype=x.dtype, device=x.device).expand(height, width)
    angles = torch.cat([pi_k * rows, pi_k * columns])
    return torch.cat([angles.sin(), angles.cos()]).expand(batch, -1, -1, -1)


def _check_sizes(
    channels: int,
    widths: tuple[int, ...],
    blocks: int,
    patch: int,
    groups: int,
    outputs: int,
    modulation: int,
    positions: int,
) -> None:
    sizes = {"channels": channels, "blocks": blocks, "patch": patch, "groups": groups, "outputs": outputs}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"`{name}` is a positive integer, but {size!r} came.")
    for name, size in {"modulation": modulation, "positions": positions}.items():
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"`{name}` is 0 or a positive integer, but {size!r} came.")
    if not widths or any(not isinstance(width, int) or width < 1 or width % groups for width in widths):
        raise ValueError(
            f"`widths` are positive multiples of groups = {groups}, one a level, but {widths!r} came. "
            f"Try widths=({4 * groups}, {8 * groups})."
        )
