"""What a user asks for, an index, names, counts, shares, times, in numbers of series and booleans of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series import checking, converting

if TYPE_CHECKING:
    from pathline.data.series.series import Series


# --------------------------------------------------------------------------------------------------- some of the series
def numbers(index: Any, series: Series) -> Tensor:
    """The numbers of the series that an index chooses, ``(m,)``.

    Raises:
        IndexError: For a number, or so many booleans, that there are not.
        TypeError: For anything that is no index.
    """
    count, device = len(series), series.device
    if isinstance(index, slice):
        return torch.arange(count, device=device)[list(range(*index.indices(count)))]
    if isinstance(index, int | np.integer):
        if not -count <= index < count:
            raise IndexError(f"There are {count} series, but number {index} was asked for.")
        return torch.tensor([index % count], device=device)
    if isinstance(index, tuple):
        raise TypeError(f"Series are chosen by one index, but {index} came. Several are series[{list(index)}].")
    try:
        chosen = torch.as_tensor(index, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            "Series are chosen by a number, a slice, numbers (m,), or booleans (n,), but "
            f"{index!r} came. By their names: series.by_id(...); channels: series.select(...)."
        ) from error
    if chosen.numel() == 0 and chosen.dtype != torch.bool:
        chosen = chosen.long()
    if chosen.dim() != 1 or chosen.is_floating_point() or chosen.is_complex():
        raise TypeError(
            "Series are chosen by a number, a slice, numbers (m,), or booleans (n,), but "
            f"{type(index).__name__} of shape {tuple(chosen.shape)} and {chosen.dtype} came."
        )
    if chosen.dtype == torch.bool and len(chosen) != count:
        raise IndexError(f"There are {count} series, but {len(chosen)} booleans came.")
    return torch.arange(count, device=device)[chosen]


def places_of_names(ids: np.ndarray | None) -> dict[Any, int]:
    """The number of the series of each name; -1 for a name that several have."""
    number: dict[Any, int] = {}
    for i, name in enumerate([] if ids is None else ids.tolist()):
        number[name] = -1 if name in number else i
    return number


def named(names: Sequence[Any], ids: np.ndarray | None, places: dict[Any, int]) -> list[int]:
    """The numbers of the series of these names.

    Raises:
        ValueError: For a name that no series has, or several have, or series without names.
    """
    if len(names) == 1 and isinstance(names[0], list | tuple | np.ndarray):
        names = list(names[0])
    if ids is None:
        raise ValueError("These series have no names. Pass `ids`, or choose by number: series[3].")
    checking.check_ids(names, places)
    several = [name for name in names if places[name] < 0]
    if several:
        raise ValueError(
            f"{ids.tolist().count(several[0])} series are called {several[0]!r}. Choose all of them by "
            "series[series.ids == name]."
        )
    return [places[name] for name in names]


def places_of_channels(wanted: Sequence[str], series: Series) -> list[int]:
    """The columns of the channels of these names.

    Raises:
        ValueError: For no name, one that comes twice, or one that no channel has.
    """
    if not wanted:
        raise ValueError(f"`select` takes at least one channel, of {', '.join(series.channels)}, but none came.")
    checking.names("channel", wanted, len(wanted))
    checking.check_columns("select", wanted, series.channels, "the series have no channel")
    return [series.channels.index(name) for name in wanted]


def dealt(count: int, parts: Sequence[float], generator: torch.Generator | None) -> list[Tensor]:
    """The numbers of the series of each part, shuffled.

    Raises:
        ValueError: For parts that do not add up, or stay empty.
    """
    ends = _ends([part.item() if hasattr(part, "item") else part for part in parts], count)  # pyright: ignore[reportAttributeAccessIssue]
    _check_generator(generator)
    order = torch.randperm(count, generator=generator)
    return [order[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def _check_generator(generator: Any) -> None:
    """A generator of torch, or None.

    Raises:
        TypeError: For a seed, as a rule.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"`generator` is a torch.Generator, but {generator!r} came. A seed makes one: "
            "torch.Generator().manual_seed(0)."
        )


def _ends(parts: Sequence[float], count: int) -> list[int]:
    """Where each part ends."""
    if all(isinstance(part, int) and not isinstance(part, bool) for part in parts) and sum(parts) == count:
        ends = np.cumsum(parts).tolist()
    elif abs(sum(parts) - 1.0) < 1e-6:
        ends = [round(count * end) for end in np.cumsum(parts).tolist()]
    else:
        raise ValueError(
            f"`parts` are fractions with the sum 1, or counts with the sum {count}, the number of series, but "
            f"{tuple(parts)} came, with the sum {sum(parts):g}."
        )
    if any(a >= b for a, b in zip([0, *ends[:-1]], ends, strict=True)):
        raise ValueError(f"Each of the `parts` has at least one of the {count} series, but {tuple(parts)} came.")
    return ends


# ----------------------------------------------------------------------------------------------------- some of the rows
def booleans(rows: Any, series: Series) -> Tensor:
    """Booleans ``(N,)`` as they came.

    Raises:
        ValueError: For anything else.
    """
    chosen = torch.as_tensor(rows, device=series.device)
    if chosen.dtype != torch.bool or chosen.shape != series.times.shape:
        raise ValueError(
            f"`keep` takes booleans, one a row, ({len(series.times)},), but {chosen.dtype} of shape "
            f"{tuple(chosen.shape)} came. Series are chosen by series[...]."
        )
    return chosen


def of_each(name: str, value: float | Tensor, series: Series) -> float | Tensor:
    """A number, or the entry of each row's series, ``(N,)``.

    Raises:
        ValueError: For NaN, or neither one number nor one a series.
    """
    if not isinstance(value, Tensor) and np.ndim(value):
        value = converting.as_floating(name, value, torch.float64)
    if not isinstance(value, Tensor | int | float | np.number):
        raise TypeError(f"`{name}` is a number, in the unit of the series' times, but {value!r} came.")
    if not isinstance(value, Tensor) or value.dim() == 0:
        if bool(value != value):
            raise ValueError(f"`{name}` is a number, but NaN came.")
        return value
    if value.shape != series.lengths.shape:
        raise ValueError(
            f"`{name}` is a number or one entry a series, ({len(series)},), but shape {tuple(value.shape)} came."
        )
    each = value.to(series.device)[series.rows]
    wrong = each.isnan().nonzero()  # a series without rows has no first time, and asks for none
    if len(wrong):
        where = checking.name_of(int(series.rows[wrong[0]]), series.ids)
        raise ValueError(f"`{name}` is a number for each series, but NaN came in {where}.")
    return each


def counts(count: int | Tensor, series: Series) -> int | Tensor:
    """A count, or that of each row's series, ``(N,)``, where below 0 is none.

    Raises:
        ValueError: For a negative number or a fraction.
    """
    if not isinstance(count, Tensor) and np.ndim(count):
        count = torch.as_tensor(count)
    whole = not count.is_floating_point() if isinstance(count, Tensor) else isinstance(count, int | np.integer)
    if not whole or (not isinstance(count, Tensor) and count < 0):
        raise ValueError(
            f"`count` is a whole number from 0 on, or one a series, ({len(series)},), but {count} came. All but the "
            "last row is series.first(series.lengths - 1); a fraction of them keeps series.thin(0.5)."
        )
    return of_each("count", count, series)  # pyright: ignore[reportReturnType]


def drawn(keep: float | Tensor, series: Series, generator: torch.Generator | None) -> Tensor:
    """Booleans ``(N,)``: random rows of each series, drawn without replacement."""
    wanted = _wanted(keep, series)
    _check_generator(generator)
    draws = torch.rand(len(series.times), generator=generator, dtype=torch.float64).to(series.device)
    order = (series.rows + draws).argsort()  # shuffles each series within its own rows
    ranks = torch.empty_like(order)
    ranks[order] = series.places
    return ranks < wanted[series.rows]


def _wanted(keep: float | Tensor, series: Series) -> Tensor:
    """How many rows of each series, ``(n,)``."""
    lengths = series.lengths
    asked = torch.as_tensor(keep, device=series.device)
    if asked.dtype == torch.bool or asked.shape not in ((), lengths.shape):
        raise ValueError(
            f"`keep` is a fraction or a count, or one a series, ({len(series)},), but {asked.dtype} of shape "
            f"{tuple(asked.shape)} came. Rows are chosen by booleans in series.keep(...)."
        )
    if asked.is_floating_point():
        if not bool(((asked > 0.0) & (asked <= 1.0)).all()):
            raise ValueError(f"`keep` is a fraction above 0 and up to 1, or a count such as 30, but {keep} came.")
        share = float(keep) if asked.dim() == 0 else asked
        return torch.minimum((share * lengths).round().long().clamp_min(1), lengths)
    wanted = asked.expand(len(series))
    short = (wanted > lengths).nonzero()
    if len(short) or bool((wanted < 0).any()):
        which = int(short[0]) if len(short) else int((wanted < 0).nonzero()[0])
        raise ValueError(
            f"`keep` asks {checking.name_of(which, series.ids)} for {int(wanted[which])} rows, but it has "
            f"{int(lengths[which])}. Take a fraction, or series[series.lengths >= count]."
        )
    return wanted
