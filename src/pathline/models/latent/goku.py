"""Known equations inside a latent model: what they leave open is inferred for each series."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from pathline.fields import Corrected, Known, Quantity
from pathline.models.batches import check_channels
from pathline.models.latent.encoders import Readout
from pathline.models.latent.latent import Latent
from pathline.models.latent.rows import filled, gaps, laid_out, to_read, with_mask
from pathline.models.neural_ode import NeuralODE
from pathline.models.sizes import check_sizes, check_widths
from pathline.nets import MLP

if TYPE_CHECKING:
    from pathline.data import Series

Unknown = Sequence[str] | Mapping[str, "Quantity | tuple[float, float] | None"]


def GOKU(
    channels: int,
    field: nn.Module,
    decoder: nn.Module,
    likelihood: Any = None,
    *,
    unknown: Unknown,
    size: int,
    latent: tuple[int, int] = (16, 16),
    hidden: int = 64,
    reader: nn.Module | None = None,
    read: int = 0,
    start_hidden: int | Sequence[int] = (64,),
    scale: float | Sequence[float] = 1.0,
    first: nn.Module | None = None,
    method: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
    dt: float | None = None,
    gradient: Any = "backprop",
    compile: bool = False,
    **options: Any,
) -> Latent:
    r"""A latent model whose dynamics are known but for some numbers, which each series has its own of. *Maturing.*

    $$(\tilde z, \tilde\theta) \sim q(\cdot \mid x), \qquad z_0 = h_z(\tilde z), \quad \theta = h_\theta(\tilde\theta),
    \qquad \dot z = f_\text{known}(t, z; \theta), \qquad x_i \sim p(x_i \mid d(z(t_i)))$$

    A recurrent network reads backwards for the first state, and both ways for the numbers $\theta$, which stay within
    their bounds; ``quantities(model, series)`` tells them. With ``fields.Corrected`` a network learns what the
    equations miss.

    Args:
        channels: Channels of the series.
        field: A known field: a `Known`, a `Corrected` one, or any ``(t, z, args)`` that reads ``args`` by name.
        decoder: A module from states ``(..., size)`` to what the likelihood asks for.
        likelihood: As in `Latent`, ``Gaussian(0.1, learn=True)`` by default.
        unknown: Names of the quantities to infer. As a mapping also their bounds, ``{"length": (0.5, 4.0)}``; a field
            that is no `Known` has no others.
        size: Components of the state.
        latent: Sizes of $\tilde z$ and $\tilde\theta$.
        hidden: Size of the hidden state of each way of reading.
        reader: A module from values ``(rows, channels)``, zero where missing, to ``(rows, read)``, such as a network
            that looks at pictures; by default values and mask are read as they are.
        read: Size of what it makes of a row.
        start_hidden: Widths of the hidden layers of $h_z$ and $h_\theta$.
        scale: Typical size of a first state, one number or one for each component.
        first: A module that makes a first state, before ``scale``, of free numbers ``(..., size)``, where not every
            state makes sense: ``nn.Softplus()`` for amounts, ``nn.Softmax(-1)`` for shares.
        method: Of the solve that decodes. By default ``"dopri5"`` within ``rtol`` and ``atol``, or ``"rk4"`` where
            ``dt`` is given. A method with fixed steps and no ``dt`` makes one step from each requested time to the
            next, so that what it says of one time depends on the others that are asked for.
        rtol: Its relative tolerance, 1e-4 for the default method.
        atol: Its absolute tolerance, 1e-4 for the default method.
        dt: Its step, for a method with fixed steps.
        gradient: As in ``pathline.solve``.
        compile: As in ``pathline.solve``.
        **options: Others of `Latent`, such as ``given`` (doses that each patient took), ``t0`` or ``annealing``.

    Raises:
        TypeError: ``reader`` without ``read``, or bounds that are missing.
        ValueError: No unknown quantity, or bounds that are not two.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pathline import fields
        >>> from pathline.data import Series
        >>> from pathline.models import GOKU, quantities
        >>> series = Series.from_arrays(torch.linspace(0, 1, 9), torch.randn(3, 9, 1))
        >>> model = GOKU(1, fields.Pendulum(length=1.5), nn.Linear(2, 1), unknown=["length"], size=2)
        >>> model.loss(series).backward()
        >>> quantities(model, series)["length"].shape
        torch.Size([3])

    References:
        O. Linial, N. Ravid, D. Eytan, U. Shalit (2021), Generative ODE modeling with known unknowns.
    """
    encoder = GOKUEncoder(channels, latent, hidden, reader=reader, read=read)
    wanted, middle = named(field, unknown), typical(field, unknown)
    start = KnownStart(size, wanted, latent, start_hidden, typical=middle, scale=scale, first=first)
    if method is None and dt is None:
        method, rtol, atol = "dopri5", 1e-4 if rtol is None else rtol, 1e-4 if atol is None else atol
    dynamics = NeuralODE(
        field, method=method or "rk4", rtol=rtol, atol=atol, dt=dt, gradient=gradient, clock="shared", compile=compile
    )
    return Latent(encoder, dynamics, decoder, likelihood, start=start, **options)


def quantities(model: Latent, observed: Series, samples: int = 0) -> dict[str, Tensor]:
    """What a model of known equations infers of each series. *Maturing.*

    Args:
        model: Of ``GOKU``, or a `Latent` whose ``start`` returns ``(state, {name: numbers})``.
        observed: What the encoder sees.
        samples: Draws for each series; 0 for the posterior mean alone.

    Returns:
        By name ``(n,)``, with draws ``(samples, n)``.

    Raises:
        TypeError: A model without named quantities.
    """
    check_sizes(0, samples=samples)
    posterior = model.posterior(observed)
    draws = posterior.rsample(torch.Size([samples])) if samples else posterior.mean
    begun = model.start(draws) if model.start is not None else None
    if not isinstance(begun, tuple) or not isinstance(begun[1], Mapping):
        raise TypeError("`model` infers no quantities: its `start` returns no (state, {name: numbers}). Try GOKU(...).")
    return dict(begun[1])


class GOKUEncoder(nn.Module):
    """A recurrent network that reads both ways, for a state and for what stays the same. *Maturing.*

    What it found when it reads backwards tells the first state, the ends of both ways tell the constants.

    Args:
        channels: Channels of the series.
        latent: Sizes of the draws of the state and of the quantities.
        hidden: Size of the hidden state of each way.
        reader: A module from values ``(rows, channels)``, zero where missing, to ``(rows, read)``; by default values
            and mask are read as they are.
        read: Size of what it makes of a row.
        dt: Whether the times since the row before (since ``t0`` for the first) and until the row behind are inputs.

    Example:
        >>> import torch
        >>> from pathline.data import Series
        >>> series = Series(torch.tensor([0.0, 1.0, 0.5]), torch.randn(3, 2), torch.tensor([2, 1]))
        >>> GOKUEncoder(channels=2, latent=(4, 3), hidden=8)(series, 0.0).rsample().shape
        torch.Size([2, 7])
    """

    def __init__(
        self,
        channels: int,
        latent: tuple[int, int],
        hidden: int = 64,
        *,
        reader: nn.Module | None = None,
        read: int = 0,
        dt: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, latent=min(latent), hidden=hidden)
        check_sizes(0, read=read)
        if (reader is None) != (read == 0):
            raise TypeError(
                f"`reader` and `read`, the size of what it returns, come together, but {reader!r} and {read} came."
            )
        self.channels, self.latent, self.hidden, self.read, self.dt = channels, tuple(latent), hidden, read, dt
        self.reader = reader
        inputs = (read or 2 * channels) + 2 * dt
        self.network = nn.GRU(inputs, hidden, batch_first=True, bidirectional=True)
        self.state, self.constant = Readout(hidden, latent[0]), Readout(2 * hidden, latent[1])

    def forward(self, series: Series, t0: float = 0.0) -> Distribution:
        """The distribution of both draws, of event shape ``(sum(latent),)``."""
        check_channels(series, self.channels)
        found = to_read(series)
        lengths = found.lengths.clamp(min=1)
        steps = laid_out(found, self._features(found, t0))
        packed = nn.utils.rnn.pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
        forwards, backwards = torch.where(found.lengths.unsqueeze(-1) > 0, self.network(packed)[1], 0.0)
        parts: list[Any] = [self.state(backwards), self.constant(torch.cat([forwards, backwards], -1))]
        mean = torch.cat([part.base_dist.loc for part in parts], -1)
        scale = torch.cat([part.base_dist.scale for part in parts], -1)
        return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)

    def _features(self, found: Series, t0: float) -> Tensor:
        dtype = self.state.linear.weight.dtype
        features = with_mask(found, dtype) if self.reader is None else self.reader(filled(found, dtype))
        if not self.dt:
            return features
        before = torch.where(found.places == 0, found.times - t0, gaps(found))
        clocks = torch.stack([before, gaps(found, reverse=True)], -1)
        return torch.cat([features, clocks.to(features)], -1)


class KnownStart(nn.Module):
    """From draws to the first state and the named quantities, each within its bounds. *Maturing.*

    Args:
        size: Components of the state.
        unknown: The quantities by name, or their bounds.
        latent: Sizes of the draws of the state and of the quantities.
        hidden: Widths of the hidden layers.
        typical: Values that an untrained model tells, near enough.
        scale: Typical size of a first state, one number or one for each component.
        first: A module that makes a first state, before ``scale``, of free numbers ``(..., size)``.
    """

    stored_as = {"unknown": "bounds"}  # numbers alone go into a stored description

    factor: Tensor
    middle: Tensor

    def __init__(
        self,
        size: int,
        unknown: Mapping[str, Quantity | tuple[float, float]],
        latent: tuple[int, int],
        hidden: int | Sequence[int] = (64,),
        *,
        typical: Mapping[str, float] | None = None,
        scale: float | Sequence[float] = 1.0,
        first: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_sizes(size=size)
        check_widths(hidden=hidden)
        self.size, self.latent, self.scale, self.first = size, tuple(latent), scale, first
        self.unknown = {name: q if isinstance(q, Quantity) else Quantity(*q) for name, q in unknown.items()}
        self.bounds = {name: (quantity.low, quantity.high) for name, quantity in self.unknown.items()}
        self.hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        self.typical = dict(typical or {})
        self.state = MLP(latent[0], size, self.hidden, activation="relu")
        self.constant = MLP(latent[1], len(self.unknown), self.hidden, activation="relu", output_scale=0.1)
        self.register_buffer("factor", torch.as_tensor(scale, dtype=torch.get_default_dtype()))
        self.register_buffer("middle", torch.tensor([self._free(name) for name in self.unknown]))

    def forward(self, draws: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The state ``(..., size)`` and the quantities ``(...)``, of draws ``(..., sum(latent))``."""
        state, constant = draws.split(self.latent, -1)
        free = self.constant(constant) + self.middle
        found = zip(self.unknown.items(), free.unbind(-1), strict=True)
        begun = self.state(state) if self.first is None else self.first(self.state(state))
        return begun * self.factor, {name: quantity.bounded(raw) for (name, quantity), raw in found}

    def _free(self, name: str) -> float:
        if name not in self.typical:
            return 0.0
        free = float(self.unknown[name].free(torch.tensor(self.typical[name], dtype=torch.float64)))
        return free if math.isfinite(free) else 0.0

    def extra_repr(self) -> str:
        return ", ".join(f"{name} in ({q.low:g}, {q.high:g})" for name, q in self.unknown.items())


def named(field: nn.Module, unknown: Unknown) -> dict[str, Quantity]:
    """The quantities to infer, with their bounds."""
    wanted = (
        unknown if isinstance(unknown, Mapping) else dict.fromkeys([unknown] if isinstance(unknown, str) else unknown)
    )
    if not wanted:
        raise ValueError("`unknown` names at least one quantity of the field, but none came. Try unknown=['length'].")
    known = _known(field)
    return {name: _bounds(known, name, given) for name, given in wanted.items()}


def typical(field: nn.Module, unknown: Unknown) -> dict[str, float]:
    """The field's own values of the quantities to infer, where it has some."""
    known = _known(field)
    if known is None:
        return {}
    names = itertools.chain([unknown] if isinstance(unknown, str) else unknown)
    return {name: float(known.value(name)) for name in names if name in known.quantities}


def _bounds(known: Known | None, name: str, given: Quantity | tuple[float, float] | None) -> Quantity:
    if isinstance(given, Quantity):
        return given
    if given is not None and (isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2):
        raise ValueError(f"`unknown` gives {name!r} two bounds, (low, high), but {given!r} came.")
    own = None if known is None else known.quantities.get(name)
    if known is not None and own is None:
        raise ValueError(f"`unknown` names {name!r}; {known.told(name)}")
    if own is None and given is None:
        raise TypeError(f"`unknown` needs bounds for a field of your own: unknown={{{name!r}: (0.0, 10.0)}}.")
    if own is None or given is None:
        return own if given is None else Quantity(*given)  # pyright: ignore[reportReturnType]
    return own.within(*given)


def _known(field: nn.Module) -> Known | None:
    inner = field.known if isinstance(field, Corrected) else field
    return inner if isinstance(inner, Known) else None
