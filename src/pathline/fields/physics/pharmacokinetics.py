"""Where a drug is in the body, and how doses come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pathline._forward import moves
from pathline.events import Event
from pathline.fields.physics.checking import first_sight
from pathline.fields.physics.known import Known, Quantity


class Doses(NamedTuple):
    r"""Amounts that come in at once, of all series: jumps of the state. *Maturing.*

    Part of the ``args`` of a compartment field: ``{"doses": doses}`` are swallowed (into the gut), ``{"injections":
    doses}`` go into the blood. A state at the very time of a dose is the state behind it. Amounts and times receive
    gradients. Where a series has fewer doses than another, amounts of zero fill up.

    Args:
        times: Hours, ``(doses,)`` for all series alike, or ``(batch, doses)``.
        amounts: Of the same shape, not negative, in a unit of yours, such as milligrams.

    Raises:
        TypeError: At a solve: something else than ``Doses`` came.
        ValueError: At a solve: two shapes, a negative amount, a time that is not finite, or before the solve begins.

    Example:
        >>> import torch, pathline
        >>> from pathline.fields import Doses, OneCompartment
        >>> doses = Doses(torch.tensor([[0.0, 12.0], [0.0, 8.0]]), torch.tensor([[100.0, 50.0], [80.0, 80.0]]))
        >>> hours = torch.tensor([0.0, 10.0, 24.0])
        >>> pathline.solve(OneCompartment(), torch.zeros(2, 2), hours, args={"doses": doses}).ys[0, :, 0]
        tensor([100.,  80.])
    """

    times: Tensor
    amounts: Tensor

    needs_own_events = True

    def later_than(self, t: float | Tensor) -> Doses:
        """What is still to come after a time, for a solve that goes on from the state there.

        A dose at that very time is in that state already.

        Args:
            t: The time, one for all or ``(batch,)``.
        """
        times, begin = torch.broadcast_tensors(self.times, _column(t, self.times))
        return Doses(times, torch.where(times > begin, self.amounts, 0.0))

    def portions(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What jumps into the state: when, how much, and how much later, which is zero but for its derivatives."""
        yield self.times, self.amounts, self.times - self.times.detach()


class Infusions(NamedTuple):
    r"""Amounts that flow into the blood evenly over some time, of all series. *Maturing.*

    Part of the ``args`` of a compartment field, ``{"infusions": infusions}``. Their starts and ends are stepped onto
    exactly. Amounts, times and durations receive gradients.

    Args:
        times: Hours, of the starts, ``(doses,)`` for all series alike, or ``(batch, doses)``.
        amounts: Of the same shape, not negative.
        durations: Of the same shape, positive, in hours.

    Raises:
        TypeError: At a solve: something else than ``Infusions`` came.
        ValueError: At a solve: different shapes, a negative amount, no duration, a time that is not finite, or before
            the solve begins.

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

    needs_own_events = True

    def later_than(self, t: float | Tensor) -> Infusions:
        """What still flows after a time, for a solve that goes on from the state there.

        Args:
            t: The time, one for all or ``(batch,)``.
        """
        times = torch.maximum(self.times, _column(t, self.times))
        left = self.times + self.durations - times
        durations = torch.where(left > 0, left, self.durations)
        return Infusions(times, torch.where(left > 0, self.amounts * left / self.durations, 0.0), durations)

    def rate(self, t: Tensor) -> Tensor:
        """Amount an hour that flows in at ``t``, ``(batch,)`` or one number."""
        _check(self, "amounts", "durations")
        t = _clock(t)
        flows = (t >= self.times) & (t < self.times + self.durations)
        return torch.where(flows, self.amounts / self.durations, 0.0).sum(-1)

    def portions(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What an edge that comes later keeps back or adds: when, how much, and on average how much later.

        All is zero, but for its derivatives.
        """
        flow = self.amounts / self.durations
        for edge, sign in ((self.times, -1.0), (self.times + self.durations, 1.0)):
            late = edge - edge.detach()
            yield edge, sign * flow * late, late / 2


#: What ``args`` may hold, and the component of the state that it comes into.
GIVEN: dict[str, tuple[type[Doses] | type[Infusions], int]] = {
    "doses": (Doses, 0),
    "injections": (Doses, 1),
    "infusions": (Infusions, 1),
}


class Compartments(Known):
    """A body that is given something: at the times of ``args``, which it tells ``solve``. *Maturing.*

    Args:
        values: As in `Known`.
        learn: As in `Known`.
        dtype: As in `Known`.
    """

    others = tuple(GIVEN)

    def own_events(self, span: Tensor, args: Any, rate: Callable[..., Any]) -> dict[str, Event]:
        """What is given and when, for ``solve``.

        Args:
            span: First and last time, ``(2,)`` or ``(2, batch)``.
            args: Of the solve.
            rate: Of all that is solved.
        """
        found = {}
        for name, (kind, into) in GIVEN.items():
            if not isinstance(args, Mapping) or name not in args:
                continue
            given = args[name]
            if not isinstance(given, kind):
                raise TypeError(
                    f'`args["{name}"]` is {kind.__name__}({", ".join(kind._fields)}), '
                    f"but an object of type {type(given).__name__} came."
                )
            _check(given, *given._fields[1:])
            _check_span(name, given, span, self._resolution)
            if isinstance(given, Infusions):
                _check_told(given, self._resolution)
            edges = [edge.detach() for edge, *_ in given.portions()]
            at = _moments(torch.cat(edges, -1), span, self._resolution)
            found[name] = Event(at=at, reset=_Coming(name, into, rate, self._resolution))
        return found

    @property
    def _resolution(self) -> torch.dtype:
        """Of the times that the field receives."""
        return torch.promote_types(self.value("volume").dtype, torch.float32)

    def _flow(self, t: Tensor, y: Tensor, args: Mapping[str, Any] | None) -> Tensor | float:
        """Into the blood."""
        if args is None or "infusions" not in args:
            return 0.0
        _check_batch("infusions", args["infusions"], y)
        return args["infusions"].rate(t)


class _Coming:
    """The state after what comes at a moment.

    Who moves a moment moves the state there and back: once along the rate before, and once along the rate behind.
    """

    def __init__(self, name: str, into: int, rate: Callable[..., Any], resolution: torch.dtype) -> None:
        self.name, self.into, self.rate, self.resolution = name, into, rate, resolution

    def __call__(self, t: Tensor, y: Tensor, args: Any) -> Tensor:
        def along(y: Tensor, late: Tensor) -> Tensor:
            halfway = y + late / 2 * self.rate(t, y, args)
            return y + late * self.rate(t, halfway, args)

        unit = torch.zeros(y.shape[-1], dtype=y.dtype, device=y.device)
        unit[self.into] = 1.0
        now = _clock(t).to(self.resolution)
        _check_batch(self.name, args[self.name], y)
        for times, amounts, late in args[self.name].portions():
            due = times.detach().to(self.resolution) == now
            amounts = torch.where(due, amounts, 0.0).to(y.dtype)
            if not moves(late):
                y = y + amounts.sum(-1, keepdim=True) * unit
                continue
            late = torch.where(due, late, 0.0).to(y.dtype)
            for column in due.reshape(-1, due.shape[-1]).any(0).nonzero()[:, 0].tolist():
                amount, shift = amounts[..., column, None], late[..., column, None]
                y = along(along(y, shift) + amount * unit, -shift)
        return y


def _moments(times: Tensor, span: Tensor, resolution: torch.dtype) -> Tensor:
    """The times in their order, ``(n,)`` or ``(n, batch)``; those that the field cannot tell apart once."""
    own = span.dim() == 2
    times = times.double().T if own and times.dim() == 2 else times.double().reshape(-1, 1)
    for edge in span.to(times.device):
        times = torch.where(times.to(resolution) == edge.to(resolution), edge, times)
    times = times.sort(0).values
    told = times.to(resolution)
    again = torch.cat([torch.zeros_like(told[:1], dtype=torch.bool), told[1:] == told[:-1]])
    return times.masked_fill(again, torch.inf) if own else times[~again]


def _check(given: Doses | Infusions, *names: str) -> None:
    """Refuse shapes that differ, times that are not finite, negative amounts, and durations that are not positive."""
    kind = type(given).__name__
    for name in given._fields:
        if not isinstance(getattr(given, name), Tensor):
            came = type(getattr(given, name)).__name__
            raise TypeError(f"`{name}` of {kind} is a tensor, (doses,) or (batch, doses), but {came} came.")
    for name in names:
        value = getattr(given, name)
        if value.shape != given.times.shape:
            raise ValueError(
                f"`{name}` of {kind} has the shape of `times`, {tuple(given.times.shape)}, "
                f"but {tuple(value.shape)} came."
            )
    for name, least in (("times", "finite"), ("amounts", "not negative"), ("durations", "positive")):
        value = getattr(given, name, None)
        if value is None or not first_sight(value, name):
            continue
        value = value.detach()
        wrong = ~value.isfinite() | {"finite": value != value, "not negative": value < 0, "positive": value <= 0}[least]
        if bool(wrong.any()):
            place = wrong.nonzero()[0].tolist()
            least = least if least == "finite" else f"finite and {least}"
            raise ValueError(f"`{name}` of {kind} are {least}, but {value[tuple(place)]:g} came at {place}.")


def _check_batch(name: str, given: Doses | Infusions, y: Tensor) -> None:
    """Refuse what is given to other series than are solved."""
    if given.times.dim() > 1 and (y.dim() < 2 or given.times.shape[0] not in (1, y.shape[-2])):
        raise ValueError(
            f'`args["{name}"]` has a row for each series, but {given.times.shape[0]} rows came for states of shape '
            f'{tuple(y.shape)}. With clock="per-sample", pass args=pathline.PerSample(args).'
        )


def _check_span(name: str, given: Doses | Infusions, span: Tensor, resolution: torch.dtype) -> None:
    """Refuse a solve that begins behind what is given, whose state may or may not hold it, and one that runs back."""
    first, last = span.to(given.times.device)
    if bool((last < first).any()):
        raise ValueError(f'`args["{name}"]` is given forwards in time, but `t` runs back. Solve from the earlier time.')
    early = given.times.detach().to(resolution) < first.to(resolution).unsqueeze(-1)
    early &= given.amounts.detach() > 0
    if bool(early.any()):
        place = tuple(early.nonzero()[0].tolist())
        at = given.times.detach().expand(early.shape)[place]
        raise ValueError(
            f'`args["{name}"]` begins at {at:g}, before the solve, at {first.flatten()[0]:g}. Begin the solve there; '
            f"or, where the state at its first time t0 holds what came before, leave that out: {name}.later_than(t0)."
        )


def _check_told(given: Infusions, resolution: torch.dtype) -> None:
    """Refuse what begins and ends at one time of the clock that the field sees: nothing would flow."""
    times, durations = given.times.detach(), given.durations.detach()
    apart = torch.finfo(resolution).eps * (times + durations).abs()
    short = (durations < apart) & (given.amounts.detach() > 0)
    if bool(short.any()):
        place = tuple(short.nonzero()[0].tolist())
        raise ValueError(
            f'`args["infusions"]` has one that lasts {durations[place]:g} at {times[place]:g}, where the times that '
            f"the field sees lie {apart[place]:.2g} apart ({resolution}). Count time from a later zero, or solve in "
            "double precision, with dtype=torch.float64 for the field."
        )


def _column(t: float | Tensor, times: Tensor) -> Tensor:
    """A time, one for all or one a series, against doses in the last dimension, as they count it."""
    return torch.as_tensor(t).to(times).unsqueeze(-1)


def _clock(t: Tensor) -> Tensor:
    """One time for all, or one a sample, against doses in the last dimension."""
    return t if t.dim() == 0 else t.reshape(-1, 1)


class OneCompartment(Compartments):
    r"""A drug that is absorbed and eliminated; the state is the amount in gut and blood. *Maturing.*

    $$\dot a_\text{gut} = -k_a a_\text{gut}, \qquad \dot a = k_a a_\text{gut} - \frac{Cl}{V} a + r(t)$$

    ``args`` may hold `Doses`: ``"doses"`` jump into the gut, ``"injections"`` into the blood; and `Infusions`:
    ``"infusions"``, the flow $r$ into the blood. The field tells ``solve`` when they come. Amounts are in a unit of
    yours, such as milligrams, concentrations in that unit a litre.

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
        return torch.stack([-absorbed, absorbed - clearance / volume * blood + self._flow(t, y, args)], -1)

    def concentration(self, y: Tensor, args: Mapping[str, Any] | None = None) -> Tensor:
        """Amount a litre of blood, ``(...)``."""
        return y[..., 1] / self.values(args, y)[2]


class TwoCompartments(Compartments):
    r"""A drug that also moves into tissue and back; the state is the amount in gut, blood and tissue. *Maturing.*

    $$\dot a_\text{gut} = -k_a a_\text{gut}, \qquad \dot a = k_a a_\text{gut} - \frac{Cl}{V} a - q + r(t), \qquad
    \dot a_\text{tissue} = q, \qquad q = Q \left(\frac{a}{V} - \frac{a_\text{tissue}}{V_t}\right)$$

    Doses, injections and infusions come as in `OneCompartment`.

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
        absorbed, moved = absorption * gut, exchange * (blood / volume - stored / tissue)
        return torch.stack(
            [-absorbed, absorbed - clearance / volume * blood - moved + self._flow(t, y, args), moved], -1
        )

    def concentration(self, y: Tensor, args: Mapping[str, Any] | None = None) -> Tensor:
        """Amount a litre of blood, ``(...)``."""
        return y[..., 1] / self.values(args, y)[2]
