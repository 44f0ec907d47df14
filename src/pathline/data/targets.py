"""Densities in the plane that are known exactly: samples, ``log_prob``, and the entropy that no model can beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

PART = 4096
"""Points at which a log-density is computed at once."""


class Target:
    r"""A density in the plane: the base of all targets. *Maturing.*

    A model's mean negative log-likelihood on samples of ``p`` is at least the entropy

    $$H(p) = -\int p(x) \log p(x)\, dx,$$

    and the difference is the Kullback-Leibler divergence between the two. So the number says how far from perfect a
    model is, which the likelihood of an unknown density never does.

    A target of your own has ``sample``, ``log_prob``, and ``limits`` and ``spacing`` for the integrals.

    References:
        T. M. Cover, J. A. Thomas (2006), Elements of information theory, chapter 2.
    """

    limits: tuple[float, float] = (-4.5, 4.5)
    """The square that holds all but a negligible part of the mass."""
    spacing: float = 0.03
    """Distance of the points at which the integrals are taken."""

    def sample(self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """``n`` independent points, ``(n, 2)``."""
        raise NotImplementedError  # each target has its own

    def log_prob(self, x: Tensor) -> Tensor:
        """The logarithm of the density at ``x``, ``(..., 2) -> (...)``, in nats.

        Whole numbers are taken as floating ones, and a point with a NaN has the log-density NaN.

        Args:
            x: Points, ``(..., 2)``. Many are taken some thousands at a time, so that a large grid needs little memory.

        Raises:
            ValueError: Points that don't have two coordinates.
            TypeError: No tensor, or a complex one.
        """
        raise NotImplementedError  # each target has its own

    @property
    def entropy(self) -> float:
        """The entropy in nats, by the midpoint rule, which converges exponentially for smooth densities."""
        _, log_p, weights = self._integral
        # Where the density is zero, its logarithm counts for nothing.
        return float(-(weights * log_p.masked_fill(weights == 0, 0.0)).sum())

    @property
    def mass(self) -> float:
        """The integral of the density over ``limits`` by the same rule; its distance from 1 is the rule's error."""
        return float(self._integral[2].sum())

    @property
    def gaussian_cross_entropy(self) -> float:
        r"""What the best single Gaussian reaches, $\tfrac12 \log\det(2\pi e\,\Sigma)$ with the target's covariance."""
        points, _, weights = self._integral
        centred = points - weights @ points
        covariance = (weights.unsqueeze(1) * centred).T @ centred
        return float(0.5 * torch.logdet(2 * math.pi * math.e * covariance))

    @cached_property
    def _integral(self) -> tuple[Tensor, Tensor, Tensor]:
        """Points of a grid, the log-density there, and the mass of each cell."""
        low, high = self.limits
        count = round((high - low) / self.spacing)
        spacing = (high - low) / count
        # Middles of cells: no point falls on an edge of a density that jumps.
        line = low + spacing * (torch.arange(count, dtype=torch.float64) + 0.5)
        points = torch.cartesian_prod(line, line)
        log_p = torch.cat([self.log_prob(part) for part in points.split(PART)])
        return points, log_p, log_p.exp() * spacing**2

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class EightGaussians(Target):
    r"""Eight Gaussians on a circle. *Maturing.*

    $$p(x) = \tfrac18 \sum_k \mathcal N\bigl(x;\ r\,(\cos\tfrac{k\pi}4, \sin\tfrac{k\pi}4),\ \sigma^2 I\bigr)$$

    With the usual radius $4/\sqrt2$ and standard deviation $0.5/\sqrt2$ the entropy is 2.832 nats, 0.006 less than if
    they did not overlap at all, $\log(8 \cdot 2\pi e \sigma^2)$; the best single Gaussian reaches 4.255.

    Args:
        radius: Distance of the centres from the origin.
        sd: Standard deviation of each, in both directions.

    Example:
        >>> from pathline.data import targets
        >>> target = targets.EightGaussians()
        >>> round(target.entropy, 3), round(target.gaussian_cross_entropy, 3)
        (2.832, 4.255)
        >>> target.sample(5).shape
        torch.Size([5, 2])

    References:
        W. Grathwohl, R. T. Q. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud (2019), FFJORD.
    """

    def __init__(self, radius: float = 4 / math.sqrt(2), sd: float = 0.5 / math.sqrt(2)) -> None:
        self.radius, self.sd = radius, sd
        reach = radius + 7 * sd
        self.limits, self.spacing = (-reach, reach), sd / 4

    @property
    def centres(self) -> Tensor:
        """The eight means, ``(8, 2)``, in double precision."""
        return self.radius * _directions(torch.arange(8, dtype=torch.float64) * math.pi / 4)

    def sample(self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """``n`` independent points, ``(n, 2)``."""
        which = torch.randint(8, (n,), generator=generator)
        return self.centres.to(dtype)[which] + self.sd * torch.randn(n, 2, generator=generator, dtype=dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """The logarithm of the density at ``x``, ``(..., 2) -> (...)``, in nats."""
        weights = torch.full((8,), 1 / 8, dtype=torch.float64)
        return _by_parts(lambda part: _log_mixture(part, self.centres, weights, self.sd), x)


class NoisyCurves(Target):
    r"""Points on curves, with Gaussian noise: the base of moons, spirals and rings. *Maturing.*

    $$x = c_k(v) + \sigma\varepsilon, \qquad
      p(x) = \frac1K \sum_k \int_0^1 \mathcal N(x;\ c_k(v), \sigma^2 I)\, \rho(v)\, dv$$

    The integral is a Gauss-Legendre rule, exact to rounding for curves that are long against the noise only if it has
    enough nodes: a few for each standard deviation along the curve.

    Args:
        sd: Standard deviation of the noise.
        nodes: Points of the rule on each curve.
    """

    def __init__(self, sd: float, nodes: int = 160) -> None:
        self.sd, self.nodes, self.spacing = sd, nodes, sd / 3

    def curves(self, v: Tensor) -> Tensor:
        """The curves at the places ``v`` in [0, 1], ``(n,) -> (curves, n, 2)``."""
        raise NotImplementedError  # each set of curves has its own

    def place(self, u: Tensor) -> Tensor:
        """Uniform numbers to places on a curve: the inverse of the distribution function of ``v``."""
        return u

    def weight(self, v: Tensor) -> Tensor:
        """The density of the places."""
        return torch.ones_like(v)

    def sample(self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """``n`` independent points, ``(n, 2)``."""
        v = self.place(torch.rand(n, generator=generator, dtype=dtype))
        points = self.curves(v)
        which = torch.randint(len(points), (n,), generator=generator)
        return points[which, torch.arange(n)] + self.sd * torch.randn(n, 2, generator=generator, dtype=dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """The logarithm of the density at ``x``, ``(..., 2) -> (...)``, in nats."""
        return _by_parts(lambda part: _log_mixture(part, *self._mixture, self.sd), x)

    @cached_property
    def _mixture(self) -> tuple[Tensor, Tensor]:
        nodes, weights = np.polynomial.legendre.leggauss(self.nodes)
        v = torch.from_numpy((nodes + 1) / 2)
        points = self.curves(v)
        weights = torch.from_numpy(weights / 2) * self.weight(v)
        return points.reshape(-1, 2), weights.repeat(len(points)) / len(points)


class Moons(NoisyCurves):
    """Two interleaved half circles. *Maturing.*

    Those of ``data.two_moons``, twice as large and around the origin.

    Args:
        sd: Standard deviation of the noise.
        scale: Radius of the half circles.
    """

    limits = (-5.0, 5.0)

    def __init__(self, sd: float = 0.2, scale: float = 2.0) -> None:
        super().__init__(sd)
        self.scale = scale

    def curves(self, v: Tensor) -> Tensor:
        """The curves at the places ``v`` in [0, 1], ``(n,) -> (curves, n, 2)``."""
        upper = _directions(math.pi * v)
        shift = torch.tensor([0.5, 0.25], dtype=v.dtype)
        return self.scale * torch.stack([upper - shift, torch.tensor([0.5, 0.25], dtype=v.dtype) - upper])


class Spirals(NoisyCurves):
    r"""Two spirals of Archimedes, of one and a half turns each. *Maturing.*

    $$c(v) = \pm\,\tfrac{1}{3}\,a\,(-\cos a, \sin a), \qquad a = 3\pi v, \qquad \rho(v) = 2v,$$

    so that the points lie about evenly along the curve.

    Args:
        sd: Standard deviation of the noise.
    """

    def __init__(self, sd: float = 0.15) -> None:
        super().__init__(sd, nodes=240)

    def curves(self, v: Tensor) -> Tensor:
        """The curves at the places ``v`` in [0, 1], ``(n,) -> (curves, n, 2)``."""
        angle = 3 * math.pi * v
        arm = angle.unsqueeze(-1) / 3 * torch.stack([-angle.cos(), angle.sin()], -1)
        return torch.stack([arm, -arm])

    def place(self, u: Tensor) -> Tensor:
        """Uniform numbers to places on a curve: the inverse of the distribution function of ``v``."""
        return u.sqrt()

    def weight(self, v: Tensor) -> Tensor:
        """The density of the places."""
        return 2 * v


class Rings(NoisyCurves):
    """Four circles around the origin, equally likely. *Maturing.*

    Args:
        sd: Standard deviation of the noise.
        radii: Their radii.
    """

    def __init__(self, sd: float = 0.15, radii: tuple[float, ...] = (0.75, 1.5, 2.25, 3.0)) -> None:
        super().__init__(sd)
        self.radii = radii

    def curves(self, v: Tensor) -> Tensor:
        """The curves at the places ``v`` in [0, 1], ``(n,) -> (curves, n, 2)``."""
        return torch.tensor(self.radii, dtype=v.dtype).view(-1, 1, 1) * _directions(2 * math.pi * v)


class Checkerboard(Target):
    """Every second square of a board of four by four, uniformly. *Maturing.*

    Its entropy is the logarithm of the area, log 32, and it jumps at the edges: no flow with finite derivatives
    reaches it.
    """

    limits = (-4.0, 4.0)
    spacing = 0.05

    def sample(self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """``n`` independent points, ``(n, 2)``."""
        column = torch.randint(4, (n,), generator=generator)
        row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
        corner = torch.stack([column, row], 1).to(dtype)
        return 2 * (corner + torch.rand(n, 2, generator=generator, dtype=dtype)) - 4

    def log_prob(self, x: Tensor) -> Tensor:
        """The logarithm of the density at ``x``, ``(..., 2) -> (...)``, in nats; -inf on the other squares."""
        return _by_parts(self._log_density, x)

    def _log_density(self, x: Tensor) -> Tensor:
        cell = ((x + 4) / 2).floor()
        inside = (cell.sum(-1) % 2 == 0) & ((cell >= 0) & (cell < 4)).all(-1)
        return torch.where(inside, x.new_tensor(-math.log(32)), -math.inf)


class Pinwheel(Target):
    r"""Five Gaussian arms, twisted. *Maturing.*

    $$x = 2\, R\bigl(\tfrac{2\pi k}5 + \tfrac14 e^{r}\bigr) \begin{pmatrix} r \\ s \end{pmatrix}, \qquad
      r \sim \mathcal N(1, 0.3^2),\quad s \sim \mathcal N(0, 0.1^2)$$

    The determinant of the twist is $1 - \tfrac14 e^{r} s$. The density at ``x`` sums over the arms and over all
    solutions ``r`` of $r = \langle R^{\mathsf T}(r)\, x/2,\ e_1\rangle$, which are looked for between -0.8 and 2.8, six
    standard deviations each way. So where an arm of more than that passes, outside of ``limits``, the density is
    given too low.

    Args:
        radial: Standard deviation along an arm.
        tangential: Standard deviation across it.
        rate: Factor of the twist.

    References:
        M. J. Johnson, D. Duvenaud, A. Wiltschko, S. Datta, R. Adams (2016), Composing graphical models with neural
        networks for structured representations and fast inference.
    """

    limits = (-5.2, 5.2)
    spacing = 0.06

    def __init__(self, radial: float = 0.3, tangential: float = 0.1, rate: float = 0.25) -> None:
        self.radial, self.tangential, self.rate = radial, tangential, rate

    def sample(self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """``n`` independent points, ``(n, 2)``."""
        arm = torch.randint(5, (n,), generator=generator)
        noise = torch.randn(n, 2, generator=generator, dtype=dtype)
        r, s = 1 + self.radial * noise[:, 0], self.tangential * noise[:, 1]
        along = _directions(arm * (2 * math.pi / 5) + self.rate * r.exp())
        return 2 * (r.unsqueeze(1) * along + s.unsqueeze(1) * _turned(along))

    def log_prob(self, x: Tensor) -> Tensor:
        """The logarithm of the density at ``x``, ``(..., 2) -> (...)``, in nats."""
        return _by_parts(self._log_density, x)

    def _log_density(self, x: Tensor) -> Tensor:
        points = x.double().reshape(-1, 1, 1, 2) / 2
        arms = torch.arange(5, dtype=torch.float64).view(5, 1) * (2 * math.pi / 5)
        edges = torch.linspace(1 - 6 * self.radial, 1 + 6 * self.radial, 73, dtype=torch.float64)
        signs = self._miss(points, arms, edges)[0] > 0
        # An interval whose ends differ in sign holds a solution; the twist turns too slowly for two in one.
        row, arm, interval = (signs[..., :-1] != signs[..., 1:]).nonzero(as_tuple=True)
        r = self._solved(points[row, 0, 0], arms[arm, 0], edges[interval], edges[interval + 1])
        _, s = self._miss(points[row, 0, 0], arms[arm, 0], r)
        determinant = 4 * (1 - self.rate * r.exp() * s).abs()
        log_p = -0.5 * (((r - 1) / self.radial) ** 2 + (s / self.tangential) ** 2)
        log_p = log_p - (2 * math.pi * self.radial * self.tangential * 5 * determinant).log()
        return _logsumexp_by_row(log_p, row, len(points)).to(x.dtype)

    def _miss(self, x: Tensor, arm: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """How far the point is from having the coordinate ``r`` on an arm, and its coordinate ``s`` there."""
        along = _directions(arm + self.rate * r.exp())
        return (x * along).sum(-1) - r, (x * _turned(along)).sum(-1)

    def _solved(self, x: Tensor, arm: Tensor, low: Tensor, high: Tensor) -> Tensor:
        rising = self._miss(x, arm, low)[0] <= 0
        for _ in range(45):
            middle = (low + high) / 2
            below = (self._miss(x, arm, middle)[0] <= 0) == rising
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


TARGETS: dict[str, Callable[[], Target]] = {
    "8gaussians": EightGaussians,
    "pinwheel": Pinwheel,
    "moons": Moons,
    "spirals": Spirals,
    "checkerboard": Checkerboard,
    "rings": Rings,
}
"""The targets by name, each with its usual numbers."""


def _directions(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def _turned(x: Tensor) -> Tensor:
    """A quarter turn to the left."""
    return torch.stack([-x[..., 1], x[..., 0]], -1)


def _log_mixture(x: Tensor, centres: Tensor, weights: Tensor, sd: float) -> Tensor:
    """The log-density of Gaussians of one standard deviation."""
    centres, weights = centres.to(x), weights.to(x)
    squares = (x.unsqueeze(-2) - centres).square().sum(-1)
    log_p = weights.log() - squares / (2 * sd**2)
    return log_p.logsumexp(-1) - math.log(2 * math.pi * sd**2)


def _logsumexp_by_row(log_p: Tensor, row: Tensor, rows: int) -> Tensor:
    """The logarithm of the sum of the terms of each row; -inf for a row without any."""
    peak = torch.full((rows,), -math.inf, dtype=log_p.dtype).scatter_reduce(0, row, log_p.detach(), "amax")
    total = torch.zeros_like(peak).index_add(0, row, (log_p - peak[row]).exp())
    return total.log() + peak.masked_fill(peak.isinf(), 0.0)


def _by_parts(log_density: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A log-density of ``(n, 2)`` at points ``(..., 2)``, few at a time; NaN for a NaN, and -inf at infinity."""
    x = _checked(x)
    points = x.reshape(-1, 2)
    log_p = torch.cat([log_density(part) for part in points.split(PART)])
    log_p = log_p.masked_fill(points.isinf().any(-1), -math.inf).masked_fill(points.isnan().any(-1), math.nan)
    return log_p.reshape(x.shape[:-1])


def _checked(x: Tensor) -> Tensor:
    """Points in a floating dtype."""
    if not isinstance(x, Tensor) or x.is_complex():
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"`x` is a tensor of real points, but {came} came. Try torch.as_tensor(x, dtype=torch.float32)."
        )
    if x.dim() == 0 or x.shape[-1] != 2:
        raise ValueError(
            f"`x` holds points in the plane, (..., 2), but the shape {tuple(x.shape)} came. "
            "Put the two coordinates on the last axis."
        )
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())
