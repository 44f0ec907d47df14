"""Equations that are known, with quantities that may not be."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.fields.physics.checking import first_sight
from pathline.terms import ODE


class Quantity:
    r"""A named number of an equation, with bounds that no update and no inference leaves. *Maturing.*

    A free number $r$ becomes the quantity: $r$ itself without bounds, $\text{low} + \mathrm{softplus}(r)$ with a lower
    one, $\text{low} + (\text{high} - \text{low})\,\sigma(r)$ with both. Where rounding would put it on a bound, it is
    the next number inside, and its derivative stays that of the formula, so that training finds its way back.

    Args:
        low: Lower bound.
        high: Upper bound; it needs a lower one.
        unit: For people.
        closed: Whether a value that is given may lie on a bound; one that is learned or inferred never does.

    Raises:
        ValueError: Bounds that are no interval.

    Example:
        >>> import torch
        >>> from pathline.fields.physics import Pendulum
        >>> round(Pendulum.length.bounded(torch.tensor(0.0)).item(), 3)
        0.693
    """

    def __init__(self, low: float = -math.inf, high: float = math.inf, *, unit: str = "", closed: bool = False) -> None:
        if not low < high or (math.isinf(low) and not math.isinf(high)):
            raise ValueError(f"`low` is below `high`, and there is no `high` without it, but {low} and {high} came.")
        self.low, self.high, self.unit, self.closed = low, high, unit, closed
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, module: None, owner: type) -> Quantity: ...
    @overload
    def __get__(self, module: Known, owner: type) -> Tensor: ...
    def __get__(self, module: Known | None, owner: type) -> Quantity | Tensor:
        return self if module is None else module.value(self.name)

    def __set__(self, module: Known, value: float | Tensor) -> None:
        module.put(self.name, value)

    def bounded(self, raw: Tensor) -> Tensor:
        """The quantity that belongs to a free number."""
        if math.isinf(self.low):
            return raw
        least = self.low + _next(self.low, raw.dtype)
        if math.isinf(self.high):
            nearest = math.log(_next(self.low, raw.dtype))
            return _held(self.low + F.softplus(_held(raw, nearest, math.inf)), least, math.inf)
        far = -math.log(torch.finfo(raw.dtype).eps)  # beyond, the slope of the logistic function is rounded to zero
        found = self.low + (self.high - self.low) * torch.sigmoid(_held(raw, -far, far))
        return _held(found, least, self.high - _next(self.high, raw.dtype))

    def free(self, value: Tensor) -> Tensor:
        """The free number that belongs to a quantity inside the bounds."""
        if math.isinf(self.low):
            return value
        above = value - self.low
        if math.isinf(self.high):
            return above + torch.log(-torch.expm1(-above))
        return torch.logit(above / (self.high - self.low))

    def within(self, low: float, high: float) -> Quantity:
        """The same quantity in a narrower interval."""
        if not self.low <= low < high <= self.high:
            raise ValueError(
                f"`{self.name}` lies between {self.low:g} and {self.high:g}; a narrower interval is asked for, "
                f"but ({low:g}, {high:g}) came."
            )
        narrower = Quantity(low, high, unit=self.unit, closed=self.closed)
        narrower.name = self.name
        return narrower

    def check(self, value: Tensor, *, learned: bool) -> None:
        """Refuse a value outside the bounds, or on them where they are open or the value is learned."""
        closed = self.closed and not learned
        if bool(self.beyond(value, closed).any()) or bool(value.isnan().any()):
            raise ValueError(
                f"`{self.name}` lies {self.interval(closed)}, but {value.tolist()} came."
                + (" A learned quantity starts away from its bounds." if learned else "")
            )

    def beyond(self, value: Tensor, closed: bool) -> Tensor:
        """Where a value lies outside the bounds; NaN lies nowhere."""
        if closed:
            return (value < self.low) | (value > self.high)
        low = torch.zeros_like(value, dtype=torch.bool) if math.isinf(self.low) else value <= self.low
        return low if math.isinf(self.high) else low | (value >= self.high)

    def interval(self, closed: bool) -> str:
        """The bounds in words."""
        where = "within [{:g}, {:g}{}" if closed else "inside ({:g}, {:g}{}"
        end = "]" if closed and not math.isinf(self.high) else ")"
        return f"{where.format(self.low, self.high, end)} {self.unit}".rstrip()


def _held(x: Tensor, low: float, high: float) -> Tensor:
    """``x`` within bounds, with the derivative of ``x`` beyond them too."""
    return x.detach().clamp(low, high) + (x - x.detach())


def _next(bound: float, dtype: torch.dtype) -> float:
    """From a bound to a number that differs from it in this type."""
    return max(torch.finfo(dtype).tiny, abs(bound) * torch.finfo(dtype).eps)


class Known(nn.Module):
    """An equation with named quantities: known, learned, or given for each series. *Maturing.*

    A subclass declares each quantity as a class attribute, calls this constructor with their values and reads them
    by ``self.values(args, y)``. A quantity may be a buffer (known), a parameter (named in ``learn``), or one number a
    series: ``args={"length": lengths}`` with ``(batch,)`` numbers, which receive gradients. Numbers outside the bounds
    are refused, except in compiled code and under ``torch.func``, which cannot look.

    Args:
        values: The quantities by name.
        learn: Names of those that are parameters.
        dtype: Type of the quantities.

    Raises:
        ValueError: A value outside its bounds, or no such quantity.

    Example:
        >>> import torch
        >>> from pathline.fields.physics import Pendulum
        >>> field = Pendulum(gravity=9.81, learn=["length"])
        >>> field(torch.tensor(0.0), torch.zeros(5, 2), {"friction": torch.rand(5)}).shape
        torch.Size([5, 2])
    """

    quantities: ClassVar[dict[str, Quantity]] = {}
    #: Names in ``args`` that are no quantities.
    others: ClassVar[tuple[str, ...]] = ()
    #: Components of the state, in their order; where they are named, ``values`` checks how many came.
    components: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Quantity)}
        cls.quantities = {**cls.quantities, **own}

    def __init__(
        self, values: Mapping[str, float | Tensor], learn: Sequence[str] = (), dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.learn = (learn,) if isinstance(learn, str) else tuple(learn)
        self._check_names(self.learn, "learn")
        for name in self.quantities:
            self.put(name, torch.as_tensor(values[name], dtype=dtype or torch.get_default_dtype()))

    def put(self, name: str, value: float | Tensor) -> None:
        """Give a quantity another value, as ``field.length = 2.0`` does; a learned one is learned on from there.

        Args:
            name: Of the quantity.
            value: Within its bounds; no gradient goes back through it.
        """
        self._check_names([name], "name")
        quantity, learned = self.quantities[name], name in self.learn
        old = self._parameters.get(f"free_{name}") if learned else self._buffers.get(f"fixed_{name}")
        new = (
            torch.as_tensor(value).detach().clone()
            if old is None
            else torch.as_tensor(value).detach().to(old, copy=True)
        )
        quantity.check(new, learned=learned)
        if not learned:
            self.register_buffer(f"fixed_{name}", new)
        elif old is None:
            self.register_parameter(f"free_{name}", nn.Parameter(quantity.free(new)))
        else:
            with torch.no_grad():
                old.copy_(quantity.free(new))

    def value(self, name: str) -> Tensor:
        """The quantity of this name, within its bounds."""
        if name in self.learn:
            return self.quantities[name].bounded(self._parameters[f"free_{name}"])  # pyright: ignore[reportArgumentType]
        return self._buffers[f"fixed_{name}"]  # pyright: ignore[reportReturnType]

    def values(self, args: Mapping[str, Any] | None = None, y: Tensor | None = None) -> list[Tensor]:
        """All quantities in the order of their declaration; those in ``args`` take the place of the module's own.

        Args:
            args: Of the solve.
            y: The state that they are for, whose shape is checked against the components and ``args``.
        """
        if y is not None:
            self._check_state(y)
        if args is None:
            return [self.value(name) for name in self.quantities]
        if not isinstance(args, Mapping):
            raise TypeError(
                f"`args` is a mapping from names to tensors, but {type(args).__name__} came. "
                f'Try args={{"{next(iter(self.quantities))}": values}}.'
            )
        self._check_names(args, "args")
        for name in args:
            if name in self.quantities:
                self._check_given(name, args[name], y)
        return [args[name] if name in args else self.value(name) for name in self.quantities]

    @classmethod
    def told(cls, name: Any) -> str:
        """What there is in place of a wrong name, in words."""
        close = difflib.get_close_matches(str(name), cls.quantities, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        return f"the quantities of {cls.__name__} are {', '.join((*cls.quantities, *cls.others))}.{hint}"

    def _check_names(self, names: Any, argument: str) -> None:
        for name in names:
            if name not in self.quantities and not (argument == "args" and name in self.others):
                raise ValueError(f"`{argument}` names {name!r}; {self.told(name)}")

    def _check_state(self, y: Tensor) -> None:
        count = len(self.components)
        if count and (y.dim() == 0 or y.shape[-1] != count):
            raise ValueError(
                f"The state of {type(self).__name__} is ({', '.join(self.components)}), `y` of shape (..., {count}), "
                f"but {tuple(y.shape)} came."
            )

    def _check_given(self, name: str, value: Any, y: Tensor | None) -> None:
        if not isinstance(value, Tensor | float | int):
            raise TypeError(f'`args["{name}"]` is a tensor or one number, but {type(value).__name__} came.')
        quantity, own = self.quantities[name], torch.as_tensor(value)
        batch = () if y is None else tuple(y.shape[:-1])
        fits = own.dim() <= len(batch) and all(
            size in (1, of) for size, of in zip(reversed(own.shape), reversed(batch), strict=False)
        )
        if batch and not fits:
            raise ValueError(
                f'`args["{name}"]` is one number, or one for each of the {batch[-1]} series, shape ({batch[-1]},), '
                f'but shape {tuple(own.shape)} came. With clock="per-sample", pass args=pathline.PerSample(args).'
            )
        if math.isinf(quantity.low) or not first_sight(own, (quantity.low, quantity.high, quantity.closed)):
            return
        beyond = quantity.beyond(own.detach(), quantity.closed)
        if bool(beyond.any()):
            first = beyond.nonzero()[0].tolist()
            place = f"series {first[-1]} has" if first else "it is"
            raise ValueError(
                f'`args["{name}"]` lies {quantity.interval(quantity.closed)}, but {place} {own[tuple(first)]:g}. '
                f"`{type(self).__name__}.{name}.bounded(x)` maps any number inside."
            )

    def extra_repr(self) -> str:
        numbers = (f"{name}={_short(self.value(name))}" for name in self.quantities)
        return ", ".join(numbers) + (f", learn={list(self.learn)}" if self.learn else "")


def _short(value: Tensor) -> str:
    return f"{value.item():.4g}" if value.dim() == 0 else f"{tuple(value.shape)}"


class Corrected(nn.Module):
    r"""What is known, and a network for the rest. *Maturing.*

    $$\dot y = f_\text{known}(t, y; \theta) + P\, n(t, y)$$

    $P$ puts the correction into some components of the rate, such as the forces of a mechanical system, whose
    velocities are known by definition.

    Args:
        known: A field, ``(t, y, args)`` or ``(t, y)``.
        unknown: A field ``(t, y)``, or a network of ``y`` alone like ``nets.MLP(2, 2, output_scale=0.01)``; near zero
            at first, it leaves the known part alone.
        into: Components of the rate that are corrected, each one output of ``unknown`` in this order; all by default.

    Raises:
        ValueError: A component twice.

    Example:
        >>> import torch
        >>> from pathline import fields, nets
        >>> from pathline.fields.physics import Pendulum
        >>> field = fields.Corrected(Pendulum(), nets.MLP(2, 1, output_scale=0.01), into=[1])
        >>> field(torch.tensor(0.0), torch.ones(5, 2)).shape
        torch.Size([5, 2])

    References:
        O. Linial, N. Ravid, D. Eytan, U. Shalit (2021), Generative ODE modeling with known unknowns.
        C. Rackauckas et al. (2020), Universal differential equations for scientific machine learning.
    """

    def __init__(self, known: nn.Module, unknown: nn.Module, into: Sequence[int] | None = None) -> None:
        super().__init__()
        self.known, self.unknown = known, unknown
        self.autonomous = ODE(unknown).takes == 1
        self.into = None if into is None else tuple(into)
        if self.into is not None and len(set(self.into)) != len(self.into):
            raise ValueError(f"`into` names each component once, but {into!r} came.")

    @property
    def own_events(self) -> Any:
        """The events that the known field brings along, if it does, for ``solve``."""
        return self.known.own_events

    def forward(self, t: Tensor, y: Tensor, args: Any = None) -> Tensor:
        """The rate, in the shape of ``y``."""
        rate = self.known(t, y) if args is None else self.known(t, y, args)
        correction = self.unknown(y) if self.autonomous else self.unknown(t, y)
        self._check(rate, correction)
        if self.into is None:
            return rate + correction
        parts = list(rate.unbind(-1))
        for column, component in enumerate(self.into):
            parts[component] = parts[component] + correction[..., column]
        return torch.stack(parts, -1)

    def _check(self, rate: Tensor, correction: Tensor) -> None:
        size = rate.shape[-1]
        if self.into is not None and not all(-size <= component < size for component in self.into):
            raise ValueError(f"`into` names components of the rate, 0 to {size - 1}, but {list(self.into)} came.")
        wanted = rate.shape if self.into is None else (*rate.shape[:-1], len(self.into))
        if correction.shape != wanted:
            raise ValueError(
                f"`unknown` returns an output for each component that is corrected, shape {tuple(wanted)}, but "
                f"{tuple(correction.shape)} came. `into` names these components; without it they are all."
            )

    def extra_repr(self) -> str:
        return "" if self.into is None else f"into={list(self.into)}"
