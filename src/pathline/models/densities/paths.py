r"""Paths from a base event to a data event, and their velocities: what flow matching regresses on.

The base is at $t = 0$ and the data at $t = 1$, as everywhere in pathline's densities.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["PATHS", "ConditionalOT", "Path", "Rectified", "SchroedingerBridge", "VariancePreserving", "find_path"]


class Path(ABC):
    r"""A curve from ``x0`` at $t = 0$ to ``x1`` at $t = 1$, and its velocity. *Maturing.*

    A path of one's own subclasses this; $u_t = \mathrm d x_t / \mathrm d t$ at fixed ``x0``, ``x1`` and ``noise``.
    """

    noisy: bool = False
    """Whether ``noise`` is used: standard normal numbers in the shape of ``x1``, drawn by the caller."""

    span: tuple[float, float] = (0.0, 1.0)
    """Where the velocity is defined, and times are drawn."""

    @abstractmethod
    def __call__(self, x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The point and its velocity.

        Args:
            x0: Events of the base, ``(batch, *event)``.
            x1: Events of the data, in the same shape.
            t: Times that broadcast against them: ``()`` or ``(batch, 1, ..., 1)``.
            noise: Standard normal numbers in the shape of ``x1``, where ``noisy``.

        Returns:
            ``(x_t, u_t)``, each in the shape of ``x1``.
        """

    def _drawn(self, noise: Tensor | None) -> Tensor:
        if noise is None:
            raise ValueError(f"`noise` is needed: {self!r} adds some to each point. Try noise=torch.randn_like(x1).")
        return noise


@dataclass(frozen=True)
class ConditionalOT(Path):
    r"""The straight line that shrinks the base to width ``sigma_min`` around the event. *Maturing.*

    $$x_t = (1 - (1 - \sigma_{\min}) t)\, x_0 + t\, x_1, \qquad u_t = x_1 - (1 - \sigma_{\min})\, x_0$$

    Args:
        sigma_min: Width at the end. With 0 the path ends in the event itself.

    Example:
        >>> import torch
        >>> x_t, u_t = ConditionalOT()(torch.zeros(5, 2), torch.ones(5, 2), torch.rand(5, 1))

    References:
        Y. Lipman, R. T. Q. Chen, H. Ben-Hamu, M. Nickel, M. Le (2023), Flow matching for generative modeling.
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        _check("sigma_min", self.sigma_min, below=1.0)

    def __call__(self, x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_shapes(x0, x1, t)
        u = torch.sub(x1, x0, alpha=1.0 - self.sigma_min)  # x1 - (1 - sigma_min) x0
        return torch.addcmul(x0, t, u), u  # x0 + t u


@dataclass(frozen=True)
class Rectified(Path):
    r"""The straight line between the two events, with noise of constant width around it. *Maturing.*

    $$x_t = (1 - t)\, x_0 + t\, x_1 + \sigma \varepsilon, \qquad u_t = x_1 - x_0$$

    Args:
        sigma: Width of the noise. With 0 this is the rectified flow of Liu et al.

    References:
        X. Liu, C. Gong, Q. Liu (2023), Flow straight and fast: learning to generate and transfer data with rectified
        flow.
        A. Tong, K. Fatras, N. Malkin, G. Huguet, Y. Zhang, J. Rector-Brooks, G. Wolf, Y. Bengio (2024), Improving and
        generalizing flow-based generative models with minibatch optimal transport.
    """

    sigma: float = 0.0

    def __post_init__(self) -> None:
        _check("sigma", self.sigma)

    @property
    def noisy(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether ``sigma`` is positive."""
        return self.sigma > 0.0

    def __call__(self, x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_shapes(x0, x1, t, noise)
        u = x1 - x0
        x = x0 + t * u
        return (x + self.sigma * self._drawn(noise) if self.noisy else x), u


@dataclass(frozen=True)
class VariancePreserving(Path):
    r"""A quarter of a circle: the variance stays one where base and data both have it. *Maturing.*

    $$x_t = \cos(\tfrac{\pi}{2} t)\, x_0 + \sin(\tfrac{\pi}{2} t)\, x_1, \qquad
    u_t = \tfrac{\pi}{2} \bigl(\cos(\tfrac{\pi}{2} t)\, x_1 - \sin(\tfrac{\pi}{2} t)\, x_0\bigr)$$

    These are the marginals of a diffusion with the cosine schedule, travelled by an ODE.

    References:
        M. S. Albergo, E. Vanden-Eijnden (2023), Building normalizing flows with stochastic interpolants.
    """

    def __call__(self, x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_shapes(x0, x1, t)
        cos, sin = torch.cos(0.5 * math.pi * t), torch.sin(0.5 * math.pi * t)
        return cos * x0 + sin * x1, 0.5 * math.pi * (cos * x1 - sin * x0)


@dataclass(frozen=True)
class SchroedingerBridge(Path):
    r"""A Brownian bridge between the two events, by its marginals. *Maturing.*

    $$x_t = (1 - t)\, x_0 + t\, x_1 + \sigma \sqrt{t (1 - t)}\, \varepsilon, \qquad
    u_t = x_1 - x_0 + \frac{\sigma (1 - 2t)}{2 \sqrt{t (1 - t)}}\, \varepsilon$$

    With pairs from ``Sinkhorn(2 * sigma**2)`` the marginals are those of the Schroedinger bridge between base and data.
    The mean square of the velocity grows as $1/t$ towards the ends, so that times stay ``margin`` away from them.

    Args:
        sigma: Width of the Brownian motion.
        margin: Times are drawn from ``[margin, 1 - margin]``.

    References:
        A. Tong, K. Fatras, N. Malkin, G. Huguet, Y. Zhang, J. Rector-Brooks, G. Wolf, Y. Bengio (2024), Improving and
        generalizing flow-based generative models with minibatch optimal transport.
    """

    sigma: float = 1.0
    margin: float = 1e-3

    noisy = True

    def __post_init__(self) -> None:
        _check("sigma", self.sigma, positive=True)
        _check("margin", self.margin, below=0.5, positive=True)

    @property
    def span(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """``(margin, 1 - margin)``."""
        return self.margin, 1.0 - self.margin

    def __call__(self, x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_shapes(x0, x1, t, noise)
        noise, u = self._drawn(noise), x1 - x0
        root = torch.sqrt(t * (1.0 - t))
        return x0 + t * u + self.sigma * root * noise, u + self.sigma * (0.5 - t) / root * noise


PATHS: dict[str, type[Path]] = {
    "conditional-ot": ConditionalOT,
    "rectified": Rectified,
    "schroedinger-bridge": SchroedingerBridge,
    "variance-preserving": VariancePreserving,
}
"""Paths by name, each with its default numbers."""


def find_path(path: Any) -> Path:
    """The path of that name, or the object itself.

    Raises:
        ValueError: No path has this name.
        TypeError: Neither a name nor a path.
    """
    if isinstance(path, Path):
        return path
    if isinstance(path, str):
        if path in PATHS:
            return PATHS[path]()
        close = difflib.get_close_matches(path, PATHS, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        raise ValueError(f'No path is called "{path}".{hint} The names: {", ".join(PATHS)}.')
    raise TypeError(f"`path` is a name ({', '.join(PATHS)}) or a path such as ConditionalOT(1e-3), but {path!r} came.")


def check_shapes(x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor | None = None) -> None:
    """Refuse what would broadcast to pairs that nobody meant; for the first lines of a path of one's own.

    Raises:
        ValueError: ``x0`` or ``noise`` in another shape than ``x1``, or times in another than ``()`` or
            ``(batch, 1, ..., 1)``.
    """
    if x0.shape != x1.shape:
        raise ValueError(
            "`x0` and `x1` are events in equal number and shape, (batch, *event), "
            f"but {tuple(x0.shape)} and {tuple(x1.shape)} came."
        )
    if noise is not None and noise.shape != x1.shape:
        raise ValueError(f"`noise` is in the shape of `x1`, {tuple(x1.shape)}, but {tuple(noise.shape)} came.")
    if t.dim() and (t.dim() != x1.dim() or any(n not in (1, m) for n, m in zip(t.shape, x1.shape, strict=True))):
        ones = (1,) * (x1.dim() - 1)
        raise ValueError(
            f"`t` is one time, of shape (), or one an event, of shape {(*x1.shape[:1], *ones)}, but {tuple(t.shape)} "
            f"came. Try t.reshape{(-1, *ones)}."
        )


def _check(name: str, value: float, below: float = math.inf, positive: bool = False) -> None:
    if not (value > 0.0 if positive else value >= 0.0) or not value < below:
        least = "above 0" if positive else "0 or more"
        most = "finite" if below == math.inf else f"less than {below:g}"
        raise ValueError(f"`{name}` is {least} and {most}, but {value!r} came.")
