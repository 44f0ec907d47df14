"""Time as one more channel of a network's input."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def time_channel(t: Tensor, y: Tensor, dim: int = -1) -> Tensor:
    """The time as a channel that can be concatenated to ``y`` along ``dim``. *Maturing.*

    Args:
        t: One time for all, shape ``()``, or one a sample, shape ``(batch, 1, ..., 1)`` with the dimensions of ``y``.
        y: State, at least one-dimensional.
        dim: The channel dimension of ``y``.

    Returns:
        The time in the shape of ``y`` with size 1 along ``dim``, in the dtype of ``y``.

    Example:
        >>> import torch
        >>> time_channel(torch.tensor(0.5), torch.zeros(7, 3)).shape
        torch.Size([7, 1])
    """
    shape = list(y.shape)
    shape[dim] = 1
    return t.to(y.dtype).expand(shape)


class WithTime(nn.Module):
    r"""A network that receives the time as its last input channel: $\dot y = \mathrm{net}([y, t])$. *Maturing.*

    Args:
        net: Any module that maps one channel more than the state has to the state's channels.
        dim: The channel dimension: -1 for vectors, 1 for images.

    Raises:
        TypeError: ``net`` is no module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> field = WithTime(nn.Linear(3, 2))
        >>> field(torch.tensor(0.5), torch.zeros(7, 2)).shape
        torch.Size([7, 2])
    """

    def __init__(self, net: nn.Module, dim: int = -1) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"`net` is a module, but {type(net).__name__} came. Try with_time(torch.nn.Linear(3, 2)).")
        self.net = net
        self.dim = dim

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The rate, in the shape of ``y``."""
        return self.net(torch.cat([y, time_channel(t, y, self.dim)], self.dim))

    def extra_repr(self) -> str:
        return "" if self.dim == -1 else f"dim={self.dim}"


def with_time(net: nn.Module, dim: int = -1) -> WithTime:
    """Make a field ``(t, y) -> dy`` from a plain network of ``[y, t]``; see ``WithTime``. *Maturing.*

    Example:
        >>> from pathline.nets import MLP
        >>> field = with_time(MLP(inputs=3, outputs=2))
    """
    return WithTime(net, dim)
