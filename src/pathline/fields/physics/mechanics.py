"""Pendulums and springs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pathline.fields.physics.known import Known, Quantity


class Pendulum(Known):
    r"""A pendulum; the state is the angle from the lowest point and its rate. *Maturing.*

    $$\ddot\varphi = -\frac{g}{\ell} \sin\varphi - k\,\dot\varphi$$

    From the motion alone only $g / \ell$ can be told, so that a length means something where gravity is known.

    Args:
        length: ℓ, positive, in metres.
        gravity: g, positive, in metres a second squared.
        friction: k, not negative, a second.
        learn: Names of the quantities that are parameters.
        dtype: Type of the quantities.

    Example:
        >>> import torch
        >>> Pendulum(length=2.0, gravity=10.0)(torch.tensor(0.0), torch.tensor([torch.pi / 2, 0.0]))
        tensor([ 0., -5.])

    References:
        O. Linial, N. Ravid, D. Eytan, U. Shalit (2021), Generative ODE modeling with known unknowns.
    """

    components = ("angle", "speed")

    length = Quantity(0.0, unit="m")
    gravity = Quantity(0.0, unit="m/s²")
    friction = Quantity(0.0, unit="1/s", closed=True)

    def __init__(
        self,
        length: float | Tensor = 1.0,
        gravity: float | Tensor = 9.81,
        friction: float | Tensor = 0.0,
        *,
        learn: Sequence[str] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__({"length": length, "gravity": gravity, "friction": friction}, learn, dtype)

    def forward(self, t: Tensor, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """The rate of ``(angle, speed)``, ``(..., 2)``."""
        length, gravity, friction = self.values(args, y)
        angle, speed = y.unbind(-1)
        return torch.stack([speed, -gravity / length * angle.sin() - friction * speed], -1)

    def energy(self, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """Energy over mass and squared length, ``(...)``; without friction it stays."""
        length, gravity, _ = self.values(args, y)
        angle, speed = y.unbind(-1)
        return speed.square() / 2 - gravity / length * angle.cos()


class DoublePendulum(Known):
    r"""A pendulum that hangs from a pendulum; the state is both angles, then their rates. *Maturing.*

    With $\delta = \varphi_1 - \varphi_2$, $m = m_1 + m_2$ and $D = m_1 + m_2 \sin^2\delta$,

    $$\ddot\varphi_1 = -\frac{m g \sin\varphi_1 - m_2 g \sin\varphi_2 \cos\delta + m_2 \sin\delta\,(\ell_1
    \dot\varphi_1^2 \cos\delta + \ell_2 \dot\varphi_2^2)}{\ell_1 D},$$

    $$\ddot\varphi_2 = \frac{m g \sin\varphi_1 \cos\delta - m g \sin\varphi_2 + \sin\delta\,(m \ell_1 \dot\varphi_1^2
    + m_2 \ell_2 \dot\varphi_2^2 \cos\delta)}{\ell_2 D}.$$

    Angles are from the vertical, rods without mass. The motion is chaotic: two solvers agree for some seconds only.

    Args:
        length1: Of the upper rod, positive, in metres.
        length2: Of the lower rod.
        mass1: Of the upper bob, positive, in kilograms.
        mass2: Of the lower bob.
        gravity: Positive, in metres a second squared.
        learn: Names of the quantities that are parameters.
        dtype: Type of the quantities.

    Example:
        >>> import torch
        >>> DoublePendulum()(torch.tensor(0.0), torch.zeros(4)).abs().max()
        tensor(0.)
    """

    components = ("angle1", "angle2", "speed1", "speed2")

    length1 = Quantity(0.0, unit="m")
    length2 = Quantity(0.0, unit="m")
    mass1 = Quantity(0.0, unit="kg")
    mass2 = Quantity(0.0, unit="kg")
    gravity = Quantity(0.0, unit="m/s²")

    def __init__(
        self,
        length1: float | Tensor = 1.0,
        length2: float | Tensor = 1.0,
        mass1: float | Tensor = 1.0,
        mass2: float | Tensor = 1.0,
        gravity: float | Tensor = 9.81,
        *,
        learn: Sequence[str] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        values = {"length1": length1, "length2": length2, "mass1": mass1, "mass2": mass2, "gravity": gravity}
        super().__init__(values, learn, dtype)

    def forward(self, t: Tensor, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """The rate of ``(angle1, angle2, speed1, speed2)``, ``(..., 4)``."""
        l1, l2, m1, m2, g = self.values(args, y)
        angle1, angle2, speed1, speed2 = y.unbind(-1)
        mass, sine, cosine = m1 + m2, (angle1 - angle2).sin(), (angle1 - angle2).cos()
        pull1, pull2 = mass * g * angle1.sin(), g * angle2.sin()
        turn1, turn2 = l1 * speed1.square(), l2 * speed2.square()
        inertia = m1 + m2 * sine.square()
        rate1 = -(pull1 - m2 * pull2 * cosine + m2 * sine * (turn1 * cosine + turn2)) / (l1 * inertia)
        rate2 = (pull1 * cosine - mass * pull2 + sine * (mass * turn1 + m2 * turn2 * cosine)) / (l2 * inertia)
        return torch.stack([speed1, speed2, rate1, rate2], -1)

    def energy(self, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """Kinetic and potential energy in joules, ``(...)``."""
        l1, l2, m1, m2, g = self.values(args, y)
        angle1, angle2, speed1, speed2 = y.unbind(-1)
        v1, v2 = l1 * speed1, l2 * speed2
        kinetic = (m1 + m2) * v1.square() / 2 + m2 * (v2.square() / 2 + v1 * v2 * (angle1 - angle2).cos())
        return kinetic - (m1 + m2) * g * l1 * angle1.cos() - m2 * g * l2 * angle2.cos()


class DampedOscillator(Known):
    r"""A mass on a spring in oil; the state is place and velocity. *Maturing.*

    $$\ddot x = -\omega^2 x - 2 \zeta \omega \dot x$$

    Args:
        frequency: ω without damping, positive, in radians a second.
        damping: ζ, not negative; from 1 on nothing swings.
        learn: Names of the quantities that are parameters.
        dtype: Type of the quantities.

    Example:
        >>> import torch
        >>> DampedOscillator(frequency=2.0, damping=0.5)(torch.tensor(0.0), torch.tensor([1.0, 1.0]))
        tensor([ 1., -6.])
    """

    components = ("place", "velocity")

    frequency = Quantity(0.0, unit="rad/s")
    damping = Quantity(0.0, closed=True)

    def __init__(
        self,
        frequency: float | Tensor = 1.0,
        damping: float | Tensor = 0.1,
        *,
        learn: Sequence[str] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__({"frequency": frequency, "damping": damping}, learn, dtype)

    def forward(self, t: Tensor, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """The rate of ``(place, velocity)``, ``(..., 2)``."""
        frequency, damping = self.values(args, y)
        place, velocity = y.unbind(-1)
        return torch.stack([velocity, -frequency * (frequency * place + 2 * damping * velocity)], -1)
