"""Curves given by a polynomial between each two knots."""

from __future__ import annotations

import torch
from torch import Tensor


class PiecewisePolynomial:
    """``x(t) = sum_j c_kj theta^j`` with ``theta = (t - t_k) / (t_(k+1) - t_k)`` for t between knots k and k + 1.

    At a knot where the curve jumps, the value is that of the earlier piece (in the direction of the knots), or of the
    later one with ``after=True``.

    Args:
        knots: ``(pieces + 1,)``, strictly monotone, either direction.
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

    def __call__(self, t: Tensor | float, *, after: bool = False) -> Tensor:
        """The curve at ``t``: ``(*t.shape, *shape)``."""
        return self._evaluate(t, after, order=0)

    def derivative(self, t: Tensor | float, *, after: bool = False) -> Tensor:
        """Its derivative with respect to t, of the same shape."""
        return self._evaluate(t, after, order=1)

    def _evaluate(self, t: Tensor | float, after: bool, order: int) -> Tensor:
        knots = self.knots
        t = torch.as_tensor(t, dtype=knots.dtype if not isinstance(t, Tensor) else None, device=knots.device)
        flat = t.reshape(-1).to(knots.dtype)
        piece = self._piece(flat.detach(), after)
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
