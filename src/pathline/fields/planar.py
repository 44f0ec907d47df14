"""A sum of gated planar units whose parameters move with the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pathline.fields.context import check_none, checked_context, checked_size
from pathline.fields.time import time_channel
from pathline.nets import MLP as Net


class Planar(nn.Module):
    r"""A sum of planar units, each with a gate; a network of the time gives their parameters. *Maturing.*

    $$\dot z = \sum_{n=1}^{M} \frac{\sigma(g_n)}{\sqrt M}\, u_n \tanh(w_n^\top z + b_n), \qquad
    (w, b, u, g) = \mathrm{net}(t, \text{context})$$

    Its divergence, $\sum_n M^{-1/2}\, \sigma(g_n)\, u_n^\top w_n \tanh'(w_n^\top z + b_n)$, is exact, and takes $O(M)$
    numbers a sample whatever the size. With a context each sample has units of its own, and a flow between the same
    base and another density for each context.

    Args:
        size: Size of the last dimension of the state.
        units: ``M``.
        hidden: Width of the two hidden layers of the network of the time.
        time_dependent: False holds the parameters still: the network then sees the time 0 alone.
        context: Size of a context that the field receives as ``args``, ``(batch, context)``; 0 for none.
        dtype: Type of the parameters.
        device: Device of the parameters.

    Raises:
        ValueError: A size that is not positive, or a context of another size.
        TypeError: A context that was not announced, or none where one was.

    Example:
        >>> import torch
        >>> from pathline import fields, operators
        >>> field = fields.Planar(2, units=8)
        >>> value, div = operators.divergence(operators.at(field, torch.tensor(0.5)), torch.zeros(7, 2))
        >>> value.shape, div.shape
        (torch.Size([7, 2]), torch.Size([7]))

    References:
        R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud (2018), Neural ordinary differential equations.
    """

    def __init__(
        self,
        size: int,
        units: int = 32,
        hidden: int = 64,
        time_dependent: bool = True,
        *,
        context: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not all(isinstance(n, int) and n > 0 for n in (size, units, hidden)):
            raise ValueError(
                f"`size`, `units` and `hidden` are positive integers, but {size!r}, {units!r} and {hidden!r} came."
            )
        self.size, self.units, self.hidden, self.time_dependent = size, units, hidden, time_dependent
        self.context = checked_size(context)
        self.net = Net(1 + context, units * (2 * size + 2), (hidden, hidden), dtype=dtype, device=device)

    def forward(self, t: Tensor, y: Tensor, args: Tensor | None = None) -> Tensor:
        """The rate, in the shape of ``y``, ``(..., size)``."""
        w, b, u = self._units(t, y, args)
        return _from_units(torch.tanh(_to_units(y, w) + b), u)

    def push(self, t: Tensor, y: Tensor, v: Tensor, args: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rate, and its derivatives along tangents ``v``, which broadcast to ``(k, *y.shape)``."""
        w, b, u = self._units(t, y, args)
        h = torch.tanh(_to_units(y, w) + b)
        return _from_units(h, u), _from_units(_to_units(v, w) * (1 - h.square()), u)

    def divergence(self, t: Tensor, y: Tensor, args: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rate and its divergence, ``(...)``."""
        w, b, u = self._units(t, y, args)
        h = torch.tanh(_to_units(y, w) + b)
        return _from_units(h, u), ((1 - h.square()) * (u * w).sum(-1)).sum(-1)

    def _units(self, t: Tensor, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """``w``, ``b`` and the gated ``u``: ``(units, size)``, ``(units,)``, ``(units, size)``; or of each row."""
        m, n = self.units, self.size
        t = t.to(y.dtype) if self.time_dependent else torch.zeros_like(t, dtype=y.dtype)
        s = t.reshape(*t.shape[:-1], 1)
        if self.context:
            s = torch.cat([time_channel(t, y), checked_context(context, y, self.context)], -1)
        else:
            check_none(context)
        w, u, b, gate = self.net(s).split([m * n, m * n, m, m], -1)
        w, u = (x.reshape(*x.shape[:-1], m, n) for x in (w, u))
        return w, b, u * (torch.sigmoid(gate) / math.sqrt(m)).unsqueeze(-1)

    def extra_repr(self) -> str:
        context = f", context={self.context}" if self.context else ""
        return f"{self.size}, units={self.units}, time_dependent={self.time_dependent}{context}"


def _to_units(y: Tensor, w: Tensor) -> Tensor:
    """``w_n . y``: with units of its own for each row where ``w`` has more than two dimensions."""
    return y @ w.T if w.dim() == 2 else torch.einsum("...mn,...n->...m", w, y)


def _from_units(h: Tensor, u: Tensor) -> Tensor:
    """The sum of ``u_n h_n``."""
    return h @ u if u.dim() == 2 else torch.einsum("...mn,...m->...n", u, h)
