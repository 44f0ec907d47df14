"""A U-shaped network as a rate of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.fields.context import check_none, checked_size
from pathline.fields.images import check_images
from pathline.nets.activations import gain
from pathline.nets.unet import UNet as Net


class UNet(nn.Module):
    r"""A ``pathline.nets.UNet`` as a rate of images, told of the time and, where wanted, of a context. *Experimental.*

    $$\dot y = g(z)\, y + \mathrm{UNet}(y, z), \qquad z = W_2\,\phi(W_1 [\cos \omega t, \sin \omega t] + C c)$$

    with frequencies $\omega$ from 1 to 20 in geometric steps. The number $g$ spares the network the copying of noise:
    the best linear guess of a path's velocity is a multiple of the image that depends on the time alone. A context of
    zeros, such as a dropped class, leaves the time alone.

    Args:
        channels: Channels of the images.
        widths: Channels of each level.
        context: Size of the context, which comes as ``args``, ``(batch, context)``: 10 for ten classes, one-hot.
        blocks: Residual blocks of each level and way.
        patch: Side of the squares of pixels that become channels.
        groups: Groups of the normalisation.
        positions: As in ``pathline.nets.UNet``.
        embedding: Size of the vector ``z`` that modulates the blocks.

    Example:
        >>> import torch
        >>> field = UNet(1, (16, 32), context=10, patch=2)
        >>> field(torch.tensor(0.5), torch.zeros(5, 1, 28, 28), torch.eye(10)[:5]).shape
        torch.Size([5, 1, 28, 28])
    """

    frequencies: Tensor

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (32, 64),
        *,
        context: int = 0,
        blocks: int = 1,
        patch: int = 1,
        groups: int = 8,
        positions: int = 2,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        if not isinstance(embedding, int) or embedding < 2 or embedding % 2:
            raise ValueError(f"`embedding` is an even number, 2 or more, but {embedding!r} came.")
        self.context, self.embedding = checked_size(context), embedding
        self.net = Net(
            channels, widths, blocks=blocks, modulation=embedding, patch=patch, groups=groups, positions=positions
        )
        self.register_buffer("frequencies", torch.logspace(0.0, math.log10(20.0), embedding // 2), persistent=False)
        self.of_time = nn.Linear(embedding, embedding)
        self.of_context = nn.Linear(context, embedding, bias=False) if context else None
        self.mix = nn.Linear(embedding, embedding)
        self.gain = nn.Linear(embedding, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let time and context come with unit variance: by the defaults a network hears its class too faintly."""
        nn.init.normal_(self.of_time.weight, std=math.sqrt(2 / self.embedding))
        if self.of_context is not None:
            nn.init.normal_(self.of_context.weight, std=1.0)
        nn.init.normal_(self.mix.weight, std=gain(F.silu) / math.sqrt(self.embedding))

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.net.channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return self.net.widths

    @property
    def blocks(self) -> int:
        """Residual blocks of each level and way."""
        return self.net.blocks

    @property
    def patch(self) -> int:
        """Side of the squares of pixels that become channels."""
        return self.net.patch

    @property
    def groups(self) -> int:
        """Groups of the normalisation."""
        return self.net.groups

    @property
    def positions(self) -> int:
        """Frequencies that tell where a pixel is."""
        return self.net.positions

    def forward(self, t: Tensor, y: Tensor, args: Tensor | None = None) -> Tensor:
        """The rate, in the shape of ``y``, ``(batch, channels, height, width)``."""
        check_images(y, self.channels, self.mix.weight.dtype)
        z = self._told(t, y, args)
        return self.gain(z)[..., None, None] * y + self.net(y, z)

    def _told(self, t: Tensor, y: Tensor, args: Tensor | None) -> Tensor:
        phase = t.to(y.dtype).reshape(-1, 1) * self.frequencies
        z = self.of_time(torch.cat([phase.cos(), phase.sin()], 1)).expand(len(y), -1)
        if self.of_context is None:
            check_none(args)
        else:
            z = z + self.of_context(self._checked(args, y))
        return F.silu(self.mix(F.silu(z)))

    def _checked(self, args: Tensor | None, y: Tensor) -> Tensor:
        if not isinstance(args, Tensor) or args.shape != (len(y), self.context):
            came = tuple(args.shape) if isinstance(args, Tensor) else args
            raise ValueError(
                f"`args` is the context, ({len(y)}, {self.context}) for {len(y)} images, but {came!r} came."
            )
        return args.to(y.dtype)
