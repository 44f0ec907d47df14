"""Films of a pendulum, of which the eye sees everything but the length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class PendulumFilms(NamedTuple):
    """Films and what made them; a model is given ``frames`` and ``times`` alone."""

    frames: Tensor
    """``(n, T, pixels, pixels)``, from 0 (dark) to 1."""
    times: Tensor
    """``(T,)``, float64, seconds."""
    lengths: Tensor
    """``(n,)``, metres."""
    states: Tensor
    """``(n, T, 2)``: angle from the lowest point in radians, and its rate."""


@dataclass(frozen=True)
class PendulumDraws:
    """From where films are drawn, evenly: lengths in metres, sizes of first angles to either side, first rates."""

    lengths: tuple[float, float] = (1.0, 2.0)
    angles: tuple[float, float] = (0.5, 1.2)
    speed: float = 1.0


def pendulum_frames(
    count: int = 300,
    steps: int = 100,
    *,
    pixels: int = 16,
    dt: float = 0.05,
    gravity: float = 10.0,
    friction: float = 0.0,
    draws: PendulumDraws = PendulumDraws(),
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> PendulumFilms:
    r"""Films of pendulums of different lengths, each drawn equally long. *Maturing.*

    $$\ddot\varphi = -\frac{g}{\ell} \sin\varphi - k \dot\varphi$$

    Only the motion tells one length from another: every rod is drawn with the same length, from the middle of the
    picture. The motion is integrated in float64 by the classical Runge-Kutta method, with ten steps a frame.

    Args:
        count: Number of films.
        steps: Frames of a film.
        pixels: Height and width of a frame.
        dt: Seconds between two frames.
        gravity: g in metres a second squared.
        friction: k, a second.
        draws: The ranges of lengths, first angles and first rates of the angle.
        generator: Source of lengths and first states.
        dtype: Type of the frames.

    Returns:
        Frames ``(count, steps, pixels, pixels)``, times, lengths and states.

    Raises:
        ValueError: A count, a size, a length or a step that is not positive.

    Example:
        >>> films = pendulum_frames(3, 20)
        >>> films.frames.shape, films.lengths.shape
        (torch.Size([3, 20, 16, 16]), torch.Size([3]))

    References:
        O. Linial, N. Ravid, D. Eytan, U. Shalit (2021), Generative ODE modeling with known unknowns.
    """
    if min(count, steps, pixels) < 1 or min(dt, gravity, draws.lengths[0]) <= 0:
        raise ValueError(
            "`count`, `steps` and `pixels` are 1 or more, `dt`, `gravity` and lengths positive, but "
            f"{count}, {steps}, {pixels}, {dt}, {gravity} and {draws.lengths} came."
        )
    uniform = torch.rand(4, count, generator=generator, dtype=torch.float64)
    lengths = _between(draws.lengths, uniform[0])
    angle = _between(draws.angles, uniform[1]) * torch.where(uniform[2] < 0.5, -1.0, 1.0)
    start = torch.stack([angle, _between((-draws.speed, draws.speed), uniform[3])], -1)
    states = _motion(start, gravity / lengths, friction, dt, steps)
    times = dt * torch.arange(steps, dtype=torch.float64)
    return PendulumFilms(drawn(states[..., 0], pixels).to(dtype), times, lengths, states)


def drawn(angle: Tensor, pixels: int = 16) -> Tensor:
    """Pictures of a rod and its bob, without jagged edges.

    A pixel's brightness is the share of it that is covered, judged by the distance of its middle from the edge.

    Args:
        angle: ``(...)``, from the lowest point, growing counter-clockwise.
        pixels: Height and width.

    Returns:
        ``(..., pixels, pixels)``, between 0 and 1, the first row at the top.
    """
    side = 2.8 / pixels  # the picture reaches from -1.4 to 1.4, and the bob to 1.3
    place = side * (torch.arange(pixels, dtype=angle.dtype, device=angle.device) + 0.5) - 1.4
    x, y = place, -place[:, None]
    bob_x, bob_y = angle.sin()[..., None, None], -angle.cos()[..., None, None]
    along = (x * bob_x + y * bob_y).clamp(0.0, 1.0)
    to_rod = torch.hypot(x - along * bob_x, y - along * bob_y) - 0.1
    to_bob = torch.hypot(x - bob_x, y - bob_y) - 0.3
    return (0.5 - torch.minimum(to_rod, to_bob) / side).clamp(0.0, 1.0)


def _between(ends: tuple[float, float], uniform: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * uniform


def _motion(start: Tensor, stiffness: Tensor, friction: float, dt: float, steps: int, inside: int = 10) -> Tensor:
    """States at the frames, ``(n, steps, 2)``. Generators stand on their own: they call no solver under test."""

    def rate(y: Tensor) -> Tensor:
        angle, speed = y.unbind(-1)
        return torch.stack([speed, -stiffness * angle.sin() - friction * speed], -1)

    y, h, states = start, dt / inside, [start]
    for _ in range(steps - 1):
        for _ in range(inside):
            k1 = rate(y)
            k2 = rate(y + h / 2 * k1)
            k3 = rate(y + h / 2 * k2)
            k4 = rate(y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        states.append(y)
    return torch.stack(states, 1)
