"""Predator and prey: the equations of Lotka and Volterra, and a form whose interaction is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class LotkaVolterra(nn.Module):
    r"""Prey and predators that meet at random. *Maturing.*

    $$\dot x = a x - b x y, \qquad \dot y = -c y + d x y$$

    The rates are positive: the parameter is their logarithm. Series with rates of their own give them by name,
    ``args={"growth": a}`` with ``(batch,)`` numbers; the names are ``growth, loss, death, gain``.

    Args:
        rates: First values of ``a, b, c, d``: growth of the prey, loss of prey an encounter, death of the predators,
            gain of predators an encounter.
        learn: Whether the rates are parameters (else a buffer).
        dtype: Type of the rates.

    Raises:
        ValueError: Not four positive rates.

    Example:
        >>> import torch
        >>> field = LotkaVolterra(rates=(1.0, 0.1, 1.0, 0.1))
        >>> bool(field(torch.tensor(0.0), torch.tensor([10.0, 10.0])).abs().max() < 1e-5)
        True

    References:
        A. J. Lotka (1925), Elements of Physical Biology. V. Volterra (1926), Fluctuations in the abundance of a
        species considered mathematically.
    """

    names = ("growth", "loss", "death", "gain")

    log_rates: Tensor

    def __init__(
        self,
        rates: Sequence[float] | Tensor = (0.5, 0.025, 0.8, 0.025),
        *,
        learn: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        values = torch.as_tensor(rates, dtype=dtype or torch.get_default_dtype()).detach().clone()
        if values.shape != (4,) or not bool((values > 0).all()):
            raise ValueError(
                f"`rates` are four positive numbers a, b, c, d, but {rates!r} came; try rates=(0.5, 0.025, 0.8, 0.025)."
            )
        self.learn = learn
        if learn:
            self.log_rates = nn.Parameter(values.log())
        else:
            self.register_buffer("log_rates", values.log())

    @property
    def rates(self) -> Tensor:
        """The four positive rates ``a, b, c, d``."""
        return self.log_rates.exp()

    def values(self, args: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """The four rates; those in ``args`` take the place of the module's own."""
        own = self.rates.unbind()
        if args is None:
            return list(own)
        for name in args:
            if name not in self.names:
                raise ValueError(f"`args` names {name!r}; the rates are {', '.join(self.names)}.")
        return [args.get(name, rate) for name, rate in zip(self.names, own, strict=True)]

    def encounters(self, y: Tensor, args: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Prey lost and predators gained an encounter."""
        _, loss, _, gain = self.values(args)
        return loss, gain

    def forward(self, t: Tensor, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """The rate of ``y = (prey, predators)``, shape ``(..., 2)``."""
        growth, _, death, _ = self.values(args)
        loss, gain = self.encounters(y, args)
        prey, predators = y.unbind(-1)
        met = prey * predators
        return torch.stack([growth * prey - loss * met, gain * met - death * predators], -1)

    def extra_repr(self) -> str:
        return "rates=({:.3g}, {:.3g}, {:.3g}, {:.3g})".format(*self.rates.tolist())


class PredatorPrey(LotkaVolterra):
    r"""Known growth and death, unknown interaction: what an encounter does depends on the populations. *Maturing.*

    $$\dot x = a x - b\,e^{n_1(x, y)} x y, \qquad \dot y = -c y + d\,e^{n_2(x, y)} x y$$

    A network that is zero leaves the equations of Lotka and Volterra. This is the universal differential equation
    of Rackauckas et al., with two facts built in: nothing is eaten where nothing lives, and predation never feeds
    the prey.

    Args:
        interaction: A network ``(..., 2) -> (..., 2)`` of the populations divided by ``scale``.
        rates: As in ``LotkaVolterra``.
        scale: A typical population, so that the network sees numbers near one.
        learn: Whether the rates are parameters too; without it growth and death are known, and the network alone
            learns.
        dtype: Type of the rates.

    Example:
        >>> from pathline.nets import MLP
        >>> field = PredatorPrey(MLP(2, 2, hidden=16, output_scale=0.01), scale=30.0)

    References:
        C. Rackauckas et al. (2020), Universal differential equations for scientific machine learning.
    """

    def __init__(
        self,
        interaction: nn.Module,
        rates: Sequence[float] | Tensor = (0.5, 0.025, 0.8, 0.025),
        *,
        scale: float = 1.0,
        learn: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(rates, learn=learn, dtype=dtype)
        self.interaction = interaction
        self.scale = scale

    def encounters(self, y: Tensor, args: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Prey lost and predators gained an encounter, at the populations ``y``."""
        loss, gain = super().encounters(y, args)
        factors = self.correction(y).exp()
        return loss * factors[..., 0], gain * factors[..., 1]

    def correction(self, y: Tensor) -> Tensor:
        """The exponents ``n(y)``, ``(..., 2)``: zero where encounters are those of Lotka and Volterra."""
        return self.interaction(y / self.scale)
