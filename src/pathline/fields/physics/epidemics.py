"""Epidemics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pathline.fields.physics.known import Known, Quantity


class SIR(Known):
    r"""Susceptible, infected and removed people who mix at random. *Maturing.*

    $$\dot S = -\beta \frac{S I}{N}, \qquad \dot I = \beta \frac{S I}{N} - \gamma I, \qquad \dot R = \gamma I,
    \qquad N = S + I + R$$

    Args:
        transmission: β, positive: infections a day that one infected person causes among susceptible ones.
        recovery: γ, positive: one over the days of an infection.
        learn: Names of the quantities that are parameters.
        dtype: Type of the quantities.

    Example:
        >>> import torch
        >>> field = SIR(transmission=0.5, recovery=0.25)
        >>> field(torch.tensor(0.0), torch.tensor([0.5, 0.5, 0.0]))
        tensor([-0.1250,  0.0000,  0.1250])

    References:
        W. O. Kermack, A. G. McKendrick (1927), A contribution to the mathematical theory of epidemics.
    """

    components = ("S", "I", "R")

    transmission = Quantity(0.0, unit="1/day")
    recovery = Quantity(0.0, unit="1/day")

    def __init__(
        self,
        transmission: float | Tensor = 0.3,
        recovery: float | Tensor = 0.1,
        *,
        learn: Sequence[str] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__({"transmission": transmission, "recovery": recovery}, learn, dtype)

    def forward(self, t: Tensor, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """The rate of ``(S, I, R)``, shares or people, ``(..., 3)``."""
        transmission, recovery = self.values(args, y)
        susceptible, infected, _ = y.unbind(-1)
        infections, recoveries = transmission * susceptible * infected / y.sum(-1), recovery * infected
        return torch.stack([-infections, infections - recoveries, recoveries], -1)
