"""The cubic smoothing spline: a curve through noisy observations whose slopes can be trusted."""

from __future__ import annotations

import torch
from torch import Tensor


class SmoothingSpline:
    r"""The natural cubic spline ``g`` that minimises the misfit and the bending. *Maturing.*

    $$\sum_i |y_i - g(t_i)|^2 + \lambda \int |g''(t)|^2\,dt$$

    Args:
        t: Increasing times, shape ``(n,)``, at least three.
        y: Observations, shape ``(n, ...)``; all components share one ``lambda``.
        smoothing: ``lambda``; 0 interpolates, and without it generalised cross-validation chooses.

    Raises:
        ValueError: Times that do not increase, fewer than three, or shapes that disagree.

    Example:
        >>> import torch
        >>> t = torch.linspace(0, 6, 13, dtype=torch.float64)
        >>> spline = SmoothingSpline(t, t.sin(), smoothing=0.0)
        >>> bool((spline.derivative(t[3:-3]) - t[3:-3].cos()).abs().max() < 0.02)
        True

    References:
        C. H. Reinsch (1967), Smoothing by spline functions.
        P. J. Green, B. W. Silverman (1994), Nonparametric Regression and Generalized Linear Models, chapter 2.
    """

    def __init__(self, t: Tensor, y: Tensor, smoothing: float | None = None) -> None:
        t, y = t.detach(), y.detach()
        if t.dim() != 1 or len(t) < 3 or not bool((t.diff() > 0).all()) or y.shape[:1] != t.shape:
            raise ValueError(
                "A smoothing spline takes three or more increasing times (n,) and observations (n, ...), "
                f"but `t` of shape {tuple(t.shape)} and `y` of shape {tuple(y.shape)} came; sort by time first."
            )
        # Small systems, solved once: double precision whatever the data's type.
        self.t, self.dtype, self.shape = t.double(), y.dtype, y.shape[1:]
        values = y.double().reshape(len(t), -1)
        second, tridiagonal = _matrices(self.t)
        bending = second @ torch.linalg.solve(tridiagonal, second.T)
        self.smoothing = _cross_validated(bending, values) if smoothing is None else float(smoothing)
        eye = torch.eye(len(t), dtype=torch.float64, device=t.device)
        self.values = torch.linalg.solve(eye + self.smoothing * bending, values)
        inner = torch.linalg.solve(tridiagonal, second.T @ self.values)
        self.curvatures = torch.nn.functional.pad(inner, (0, 0, 1, 1))

    def __call__(self, t: Tensor) -> Tensor:
        """The curve at the times ``t``, shape ``(m,)``, as ``(m, ...)``."""
        left, h, u = self._locate(t)
        a, b = self._ends(self.values, left)
        p, q = self._ends(self.curvatures, left)
        v = 1.0 - u
        y = v * a + u * b + h.square() / 6 * ((v**3 - v) * p + (u**3 - u) * q)
        return y.reshape(len(t), *self.shape).to(self.dtype)

    def derivative(self, t: Tensor) -> Tensor:
        """The slope at the times ``t``, shape ``(m,)``, as ``(m, ...)``."""
        left, h, u = self._locate(t)
        a, b = self._ends(self.values, left)
        p, q = self._ends(self.curvatures, left)
        v = 1.0 - u
        dy = (b - a) / h + h / 6 * ((1 - 3 * v**2) * p + (3 * u**2 - 1) * q)
        return dy.reshape(len(t), *self.shape).to(self.dtype)

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The knot to the left, the length of the interval, and the fraction of it that has passed."""
        t = t.detach().double()
        left = (torch.searchsorted(self.t, t, right=True) - 1).clamp(0, len(self.t) - 2)
        h = self.t[left + 1] - self.t[left]
        return left, h.unsqueeze(1), ((t - self.t[left]) / h).unsqueeze(1)

    def _ends(self, table: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        return table[left], table[left + 1]


def _matrices(t: Tensor) -> tuple[Tensor, Tensor]:
    """Green and Silverman's ``Q`` (second divided differences) and ``R`` (overlaps of hat functions)."""
    h, n = t.diff(), len(t)
    inner = torch.arange(n - 2, device=t.device)
    second = t.new_zeros(n, n - 2)
    second[inner, inner] = 1 / h[:-1]
    second[inner + 1, inner] = -1 / h[:-1] - 1 / h[1:]
    second[inner + 2, inner] = 1 / h[1:]
    off = h[1:-1] / 6
    return second, torch.diag((h[:-1] + h[1:]) / 3) + torch.diag(off, 1) + torch.diag(off, -1)


def _cross_validated(bending: Tensor, values: Tensor) -> float:
    """The ``lambda`` with the least generalised cross-validation score."""
    eigenvalues, vectors = torch.linalg.eigh(bending)
    energy = (vectors.T @ values).square().sum(1)
    candidates = torch.logspace(-8, 8, 321, dtype=torch.float64, device=bending.device) / eigenvalues[-1]
    kept = 1 / (1 + candidates[:, None] * eigenvalues.clamp_min(0.0))
    score = ((1 - kept).square() * energy).sum(1) / (1 - kept.mean(1)).square()
    return float(candidates[score.argmin()])
