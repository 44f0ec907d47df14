"""Curves given by a polynomial between each two knots."""

from __future__ import annotations

import torch
from torch import Tensor


class PiecewisePolynomial:
    """``x(t) = sum_j c_kj theta^j`` with ``theta = (t - t_k) / (t_(k+1) - t_k)`` for t between knots k and k + 1.

    At a knot where the curve or its derivative jumps, both are those of the later piece (in the direction of the
    knots), or of the earlier one with ``after=False``.

    Args:
        knots: ``(pieces + 1,)``, strictly monotone, either direction; a last piece of no length is what lies behind a
            jump at the end.
        coefficients: ``(pieces, degree + 1, *shape)``.

    Example:
        >>> import torch
        >>> curve = PiecewisePolynomial(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([[0.0, 1.0], [1.0, 4.0]]))
        >>> curve(torch.tensor([0.5, 2.0]))
        tensor([0.5000, 3.0000])
    """

    def __init__(self, knots: Tensor, coefficients: Tensor) -> None:
        self.knots, self.coefficients = knots, coefficients
        self.sign = 1.0 if float(knots[-1]) >= float(knots[0]) else -1.0

    def __call__(self, t: Tensor | float, *, after: bool = True) -> Tensor:
        """The curve at ``t``: ``(*t.shape, *shape)``."""
        return self._evaluate(t, after, order=0)

    def derivative(self, t: Tensor | float, *, after: bool = True) -> Tensor:
        """Its derivative with respect to t, of the same shape."""
        return self._evaluate(t, after, order=1)

    def _evaluate(self, t: Tensor | float, after: bool, order: int) -> Tensor:
        knots = self.knots
        t = torch.as_tensor(t, dtype=knots.dtype if not isinstance(t, Tensor) else None, device=knots.device)
        piece = self._piece(_ended(t.detach().reshape(-1), knots[-1].detach()), after)
        flat = t.reshape(-1).to(knots.dtype)
        left, width = knots[piece], knots[piece + 1] - knots[piece]
        width = torch.where(width == 0, torch.ones_like(width), width)  # a curve of one point
        theta = ((flat - left) / width).unsqueeze(-1)
        powers = torch.arange(self.coefficients.shape[1], device=knots.device, dtype=knots.dtype)
        if order == 0:
            weights = theta**powers
        else:
            weights = powers * theta ** (powers - 1).clamp_min(0) / width.unsqueeze(-1)
        picked = self.coefficients[piece]
        with torch.autocast(picked.device.type, enabled=False):
            values = torch.einsum("nd,nd...->n...", weights.to(picked.dtype), picked)
        return values.reshape(t.shape + self.coefficients.shape[2:])

    def _piece(self, t: Tensor, after: bool) -> Tensor:
        last = len(self.knots) - 2
        found = torch.searchsorted(self.sign * self.knots.detach(), self.sign * t, right=after) - 1
        ends = self.knots[[0, -1]].detach()
        slack = 2 * torch.finfo(torch.float32).eps * ends.abs().max()  # times often come rounded to float32
        ahead = self.sign * t
        outside = (ahead < self.sign * ends[0] - slack) | (ahead > self.sign * ends[1] + slack) | t.isnan()
        if bool(outside.any()):
            bad = float(t[outside][0])
            raise ValueError(
                f"The curve is known from t = {float(self.knots[0]):g} to {float(self.knots[-1]):g}; "
                f"it was asked for t = {bad:g}. Solve over a longer span."
            )
        return found.clamp(0, last)


class RowPiecewise:
    """One piecewise polynomial for each sample of a batch, with knots of its own.

    Args:
        samples: ``(pieces,)``, whose piece it is; the pieces of one sample in the order of its times.
        start, end: ``(pieces,)``, where they begin and end.
        coefficients: ``(pieces, degree + 1, *shape)``, in powers of ``(t - start) / (end - start)``.
        batch: the number of samples; each has a piece.

    Example:
        >>> import torch
        >>> curve = RowPiecewise(
        ...     torch.tensor([0, 1]),
        ...     torch.zeros(2),
        ...     torch.tensor([1.0, 2.0]),
        ...     torch.tensor([[0.0, 1.0], [0.0, 4.0]]),
        ...     2,
        ... )
        >>> curve(torch.tensor([0.5, 1.0]))
        tensor([0.5000, 2.0000])
    """

    def __init__(self, samples: Tensor, start: Tensor, end: Tensor, coefficients: Tensor, batch: int) -> None:
        order = torch.argsort(samples, stable=True)
        self.start, self.end, self.coefficients = start[order], end[order], coefficients[order]
        self.counts = torch.bincount(samples, minlength=batch)
        self.offset = self.counts.cumsum(0) - self.counts
        most = int(self.counts.max()) if batch else 1
        place = self.offset[:, None] + torch.arange(most, device=samples.device).clamp(max=(self.counts - 1)[:, None])
        self.knots = torch.cat([self.start[place][:, :1], self.end[place]], dim=1)  # (batch, most + 1)
        self.sign = torch.where(self.knots[:, -1:] >= self.knots[:, :1], 1.0, -1.0).to(self.knots)

    def __call__(self, t: Tensor | float, *, after: bool = True) -> Tensor:
        """The curves at ``t``, a number or ``(..., batch)``: ``(..., batch, *shape)``."""
        return self._evaluate(t, after, order=0)

    def derivative(self, t: Tensor | float, *, after: bool = True) -> Tensor:
        """Their derivatives with respect to t, of the same shape."""
        return self._evaluate(t, after, order=1)

    def _evaluate(self, t: Tensor | float, after: bool, order: int) -> Tensor:
        batch = len(self.counts)
        t = torch.as_tensor(t, dtype=None if isinstance(t, Tensor) else self.knots.dtype, device=self.knots.device)
        if t.dim() and t.shape[-1] not in (1, batch):
            raise ValueError(
                f"Times for {batch} samples are a number or (..., {batch}), the samples last; they have shape "
                f"{tuple(t.shape)}. For the same times everywhere pass t.unsqueeze(-1)."
            )
        t = t.expand(*t.shape[:-1], batch) if t.dim() else t.expand(batch)
        flat = t.reshape(t.shape[:-1].numel(), batch).T  # (batch, n)
        piece = self._piece(_ended(flat.detach(), self.knots[:, -1:].detach()).contiguous(), after)
        flat = flat.to(self.knots.dtype)
        left, width = self.start[piece], self.end[piece] - self.start[piece]
        width = torch.where(width == 0, torch.ones_like(width), width)
        theta = ((flat - left) / width).unsqueeze(-1)
        powers = torch.arange(self.coefficients.shape[1], device=theta.device, dtype=theta.dtype)
        if order == 0:
            weights = theta**powers
        else:
            weights = powers * theta ** (powers - 1).clamp_min(0) / width.unsqueeze(-1)
        picked = self.coefficients[piece]  # (batch, n, degree + 1, *shape)
        with torch.autocast(picked.device.type, enabled=False):
            values = torch.einsum("bnd,bnd...->nb...", weights.to(picked.dtype), picked)
        return values.reshape(t.shape + self.coefficients.shape[2:])

    def _piece(self, t: Tensor, after: bool) -> Tensor:
        keys = (self.sign * self.knots.detach()).contiguous()
        ahead = (self.sign * t).contiguous()
        slack = 2 * torch.finfo(torch.float32).eps * self.knots.abs().amax(1, keepdim=True)
        outside = (ahead < keys[:, :1] - slack) | (ahead > keys[:, -1:] + slack) | t.isnan()
        if bool(outside.any()):
            sample, i = outside.nonzero()[0].tolist()
            raise ValueError(
                f"The curve of sample {sample} is known from t = {self.knots[sample, 0].item():g} to "
                f"{self.knots[sample, -1].item():g}; it was asked for t = {t[sample, i].item():g}."
            )
        found = torch.searchsorted(keys, ahead, right=after) - 1
        return self.offset[:, None] + torch.minimum(found.clamp(min=0), (self.counts - 1)[:, None])


def _ended(t: Tensor, end: Tensor) -> Tensor:
    """Times in the precision of the knots, where a last time that came rounded is the last time."""
    exact = t.to(end.dtype)
    return torch.where(t == end.to(t.dtype), end, exact) if t.is_floating_point() else exact
