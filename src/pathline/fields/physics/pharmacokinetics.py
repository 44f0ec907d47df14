"""Where a drug is in the body, and how doses come in."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

from pathline.events import Event
from pathline.fields.physics.checking import first_sight
from pathline.fields.physics.known import Known, Quantity


class Doses(NamedTuple):
    r"""Doses of all series that come in at once: jumps of the state. *Maturing.*

    A solve is given them **twice**, as ``args={"doses": doses}`` and ``events={"doses": doses.event()}``: the event
    makes the jumps, ``args`` says how high they are. Without the event nothing is given, which the field warns of. A
    dose before the first time of the solve is not given either: start at the first dose, or with what it left in the
    state. Where a series has fewer doses than another, amounts of zero fill up.

    Args:
        times: ``(doses,)`` for all series alike, or ``(batch, doses)``.
        amounts: Of the same shape, not negative.

    Raises:
        ValueError: At the event or the first evaluation: two shapes, or a negative amount.

    Example:
        >>> import torch, pathline
        >>> from pathline.fields import Doses, OneCompartment
        >>> doses = Doses(torch.tensor([[0.0, 12.0], [0.0, 8.0]]), torch.tensor([[100.0, 50.0], [80.0, 80.0]]))
        >>> t, events = torch.tensor([0.0, 10.0, 24.0]), {"doses": doses.event()}
        >>> body = OneCompartment()
        >>> pathline.solve(body, torch.zeros(2, 2), t, args={"doses": doses}, events=events).ys.shape
        torch.Size([3, 2, 2])
    """

    times: Tensor
    amounts: Tensor

    def event(self, into: int = 0) -> Event:
        """The jumps, for ``events`` of a solve.

        Args:
            into: The component that the doses are added to: 0 for the gut, 1 for the blood.
        """
        _check(self, "amounts")
        times = self.times.detach().unique()
        return Event(at=times, reset=_Given(into, times))

    def at(self, t: Tensor) -> Tensor:
        """Amount given at ``t``, ``(batch,)`` or one number."""
        _check(self, "amounts")
        t = _clock(t)
        return torch.where(self.times.to(t.dtype) == t, self.amounts, 0.0).sum(-1)


class Infusions(NamedTuple):
    r"""Doses of all series that flow into the blood evenly over some time. *Maturing.*

    They are part of the rate, ``args={"infusions": infusions}``, which jumps at their starts and ends. Adaptive
    methods **have to be told** by ``controller=PID(jumps=infusions.edges())``: a step that ends beyond a short infusion
    has never seen it, and nothing says so.

    Args:
        times: Of the starts, ``(doses,)`` for all series alike, or ``(batch, doses)``.
        amounts: Of the same shape, not negative.
        durations: Of the same shape, positive.

    Raises:
        ValueError: At the edges or the first evaluation: different shapes, a negative amount or no duration.

    Example:
        >>> import torch
        >>> from pathline.fields import Infusions
        >>> drip = Infusions(torch.tensor([1.0]), torch.tensor([30.0]), torch.tensor([2.0]))
        >>> drip.rate(torch.tensor(2.5))
        tensor(15.)
    """

    times: Tensor
    amounts: Tensor
    durations: Tensor

    def edges(self) -> Tensor:
        """Where the rate jumps."""
        _check(self, "amounts", "durations")
        return torch.stack([self.times, self.times + self.durations]).detach().unique()

    def rate(self, t: Tensor) -> Tensor:
        """Amount a time that flows in at ``t``, ``(batch,)`` or one number."""
        _check(self, "amounts", "durations")
        t = _clock(t)
        flows = (t >= self.times) & (t < self.times + self.durations)
        return torch.where(flows, self.amounts / self.durations, 0.0).sum(-1)


class _Given:
    """The state after the doses of this moment."""

    #: Those of all events there are, by which a field sees whether its doses are among them.
    alive: WeakSet[_Given] = WeakSet()

    def __init__(self, into: int, times: Tensor) -> None:
        self.into, self.times = into, times
        self.alive.add(self)

    def __call__(self, t: Tensor, y: Tensor, args: Any) -> Tensor:
        if not isinstance(args, Mapping) or "doses" not in args:
            raise TypeError(
                "The event of doses reads their amounts from `args`, which holds none: "
                'solve(..., args={"doses": doses}, events={"doses": doses.event()}).'
            )
        into = torch.zeros(y.shape[-1], dtype=y.dtype, device=y.device)
        into[self.into] = 1.0
        return y + args["doses"].at(t).to(y.dtype).unsqueeze(-1) * into


def _check(given: Doses | Infusions, *names: str) -> None:
    """Refuse shapes that differ, negative amounts, and durations that are not positive."""
    for name in names:
        value, kind = getattr(given, name), type(given).__name__
        if value.shape != given.times.shape:
            raise ValueError(
                f"`{name}` of {kind} has the shape of `times`, {tuple(given.times.shape)}, "
                f"but {tuple(value.shape)} came."
            )
        if not first_sight(value, name):
            continue
        wrong = value.detach() <= 0 if name == "durations" else value.detach() < 0
        if bool(wrong.any()):
            bound = "positive" if name == "durations" else "not negative"
            place = wrong.nonzero()[0].tolist()
            raise ValueError(f"`{name}` of {kind} are {bound}, but {value[tuple(place)]:g} came at {place}.")


def _warn_of_lost(args: Mapping[str, Any] | None) -> None:
    """Doses are jumps, which a field cannot make: say so where no event does."""
    doses = None if args is None else args.get("doses")
    if not isinstance(doses, Doses) or not first_sight(doses.times, "given"):
        return
    times = doses.times.detach()
    if not any(bool(torch.isin(times, given.times.to(times)).all()) for given in list(_Given.alive)):
        warnings.warn(
            "`args` holds doses, but no event gives them, so that they are lost: "
            'solve(..., args={"doses": doses}, events={"doses": doses.event()}).',
            stacklevel=3,
        )


def _clock(t: Tensor) -> Tensor:
    """One time for all, or one a sample, against doses in the last dimension."""
    return t if t.dim() == 0 else t.reshape(-1, 1)


class OneCompartment(Known):
    r"""A drug that is absorbed and eliminated; the state is the amount in gut and blood. *Maturing.*

    $$\dot a_\text{gut} = -k_a a_\text{gut}, \qquad \dot a = k_a a_\text{gut} - \frac{Cl}{V} a + r(t)$$

    ``args`` may hold ``"infusions"``, the flow $r$ into the blood, and ``"doses"``, which the field passes over: they
    are jumps, see ``Doses``.

    Args:
        absorption: $k_a$, positive, an hour.
        clearance: Cl, positive, in litres an hour.
        volume: V, positive, in litres.
        learn: Names of the quantities that are parameters.
        dtype: Type of the quantities.

    Example:
        >>> import torch
        >>> body = OneCompartment(absorption=1.0, clearance=5.0, volume=50.0)
        >>> body(torch.tensor(0.0), torch.tensor([10.0, 20.0]))
        tensor([-10.,   8.])
    """

    others = ("doses", "infusions")

    components = ("gut", "blood")

    absorption = Quantity(0.0, unit="1/h")
    clearance = Quantity(0.0, unit="l/h")
    volume = Quantity(0.0, unit="l")

    def __init__(
        self,
        absorption: float | Tensor = 1.0,
        clearance: float | Tensor = 3.0,
        volume: float | Tensor = 30.0,
        *,
        learn: Sequence[str] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__({"absorption": absorption, "clearance": clearance, "volume": volume}, learn, dtype)

    def forward(self, t: Tensor, y: Tensor, args: Mapping[str, Any] | None = None) -> Tensor:
        """The rate of ``(gut, blood)``, ``(..., 2)``."""
        absorption, clearance, volume = self.values(args, y)
        gut, blood = y.unbind(-1)
        absorbed = absorption * gut
        _warn_of_lost(args)
        return torch.stack([-absorbed, absorbed - clearance / volume * blood + _infusion(t, args)], -1)

    def concentration(self, y: Tensor, args: Mapping[str, Any] | None = None) -> Tensor:
        """Amount a litre of blood, ``(...)``."""
        return y[..., 1] / self.values(args, y)[2]


class TwoCompartments(Known):
    r"""A drug that also moves into tissue and back; the state is the amount in gut, blood and tissue. *Maturing.*

    $$\dot a_\text{gut} = -k_a a_\text{gut}, \qquad \dot a = k_a a_\text{gut} - \frac{Cl}{V} a - q + r(t), \qquad
    \dot a_\text{tissue} = q, \qquad q = Q \left(\frac{a}{V} - \frac{a_\text{tissue}}{V_t}\right)$$

    Args:
        absorption: $k_a$, positive, an hour.
        clearance: Cl, positive, in litres an hour.
        volume: V of the blood, positive, in litres.
        exchange: Q between blood and tissue, positive, in litres an hour.
        tissue: $V_t$, positive, in litres.
        learn: Names of the quantities that are parameters.
        dtype: Type of the quantities.

    Example:
        >>> import torch
        >>> body = TwoCompartments(volume=10.0, tissue=20.0)
        >>> bool(body(torch.tensor(0.0), torch.tensor([0.0, 1.0, 2.0]))[2] == 0)
        True
    """

    others = ("doses", "infusions")

    components = ("gut", "blood", "tissue")

    absorption = Quantity(0.0, unit="1/h")
    clearance = Quantity(0.0, unit="l/h")
    volume = Quantity(0.0, unit="l")
    exchange = Quantity(0.0, unit="l/h")
    tissue = Quantity(0.0, unit="l")

    def __init__(
        self,
        absorption: float | Tensor = 1.0,
        clearance: float | Tensor = 3.0,
        volume: float | Tensor = 30.0,
        exchange: float | Tensor = 5.0,
        tissue: float | Tensor = 60.0,
        *,
        learn: Sequence[str] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        values = {"absorption": absorption, "clearance": clearance, "volume": volume}
        super().__init__({**values, "exchange": exchange, "tissue": tissue}, learn, dtype)

    def forward(self, t: Tensor, y: Tensor, args: Mapping[str, Any] | None = None) -> Tensor:
        """The rate of ``(gut, blood, tissue)``, ``(..., 3)``."""
        absorption, clearance, volume, exchange, tissue = self.values(args, y)
        gut, blood, stored = y.unbind(-1)
        _warn_of_lost(args)
        absorbed, moved = absorption * gut, exchange * (blood / volume - stored / tissue)
        return torch.stack([-absorbed, absorbed - clearance / volume * blood - moved + _infusion(t, args), moved], -1)

    def concentration(self, y: Tensor, args: Mapping[str, Any] | None = None) -> Tensor:
        """Amount a litre of blood, ``(...)``."""
        return y[..., 1] / self.values(args, y)[2]


def _infusion(t: Tensor, args: Mapping[str, Any] | None) -> Tensor | float:
    return args["infusions"].rate(t) if args is not None and "infusions" in args else 0.0
