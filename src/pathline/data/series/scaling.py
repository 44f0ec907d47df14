"""Mean and standard deviation of each channel, kept with the series that they scaled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Standardization:
    r"""The map ``x -> (x - mean) / std`` of each channel, and its way back. *Maturing.*

    Mean and deviation are kept, and the map is taken, in double precision; what comes out has the type of what went in.

    Args:
        mean: Of each channel, ``(D,)``.
        std: Of each channel, ``(D,)``, positive.
        channels: Their names, by which `Series.standardized` finds them; without names the order counts.

    Example:
        >>> scaling = Standardization(torch.tensor([10.0]), torch.tensor([2.0]))
        >>> scaling(torch.tensor([[14.0]])), scaling.undo(torch.tensor([[2.0]]))
        (tensor([[2.]]), tensor([[14.]]))
    """

    mean: Tensor
    std: Tensor
    channels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, getattr(self, name).double())
        if self.mean.shape != self.std.shape or self.mean.dim() != 1 or not bool((self.std > 0).all()):
            raise ValueError(
                "A standardization takes `mean` and `std` of one shape (D,), with positive `std`, but "
                f"{tuple(self.mean.shape)} and {tuple(self.std.shape)} came, the smallest `std` being "
                f"{float(self.std.min()) if self.std.numel() else 'none'}."
            )

    def __call__(self, values: Tensor) -> Tensor:
        """``values`` ``(..., D)`` in units of the standard deviation."""
        self._check(values)
        return ((values - self.mean.to(values.device)) / self.std.to(values.device)).to(values.dtype)

    def undo(self, values: Tensor) -> Tensor:
        """``values`` ``(..., D)`` back in their own units."""
        self._check(values)
        return (values * self.std.to(values.device) + self.mean.to(values.device)).to(values.dtype)

    def to(self, device: torch.device | str) -> Standardization:
        """On another device."""
        return Standardization(self.mean.to(device), self.std.to(device), self.channels)

    @classmethod
    def of(cls, columns: Tensor, names: Sequence[str] | None = None) -> Standardization:
        """That of columns ``(n, D)``, over the entries that are no NaN: static covariates, inputs, targets.

        Args:
            columns: The entries.
            names: Of the columns.

        Raises:
            TypeError: For something else than a tensor ``(n, D)``.
            ValueError: For a column without an entry.

        Example:
            >>> static = torch.tensor([[40.0], [60.0]])
            >>> scaling = Standardization.of(static)
            >>> scaling(static)
            tensor([[-1.],
                    [ 1.]])
        """
        if not isinstance(columns, Tensor) or columns.dim() != 2:
            came = f"shape {tuple(columns.shape)}" if isinstance(columns, Tensor) else type(columns).__name__
            raise TypeError(f"`columns` is a tensor (n, D), such as series.static, but {came} came.")
        made = fitted(columns, tuple(names or map(str, range(columns.shape[1]))))
        return cls(made.mean, made.std, None if names is None else tuple(names))

    def _check(self, values: Tensor) -> None:
        if not values.dim() or values.shape[-1] != len(self.mean):
            raise ValueError(
                f"The scaling is of {len(self.mean)} channels, the last dimension of `values`, but shape "
                f"{tuple(values.shape)} came. For one channel take series.select(name).unscale(values)."
            )

    def at(self, places: list[int]) -> Standardization:
        """That of the columns at these places."""
        names = None if self.channels is None else tuple(self.channels[place] for place in places)
        return Standardization(self.mean[places], self.std[places], names)

    def ordered(self, channels: tuple[str, ...]) -> Standardization:
        """The same map for ``channels`` in their order.

        Raises:
            ValueError: For other names, or another number of channels.
        """
        if self.mean.shape != (len(channels),):
            raise ValueError(
                f"`scaling` has {len(self.mean)} channels, but the series have {len(channels)}: {', '.join(channels)}."
            )
        ours = self.channels
        if ours is None or ours == channels or numbered(ours) or numbered(channels):
            return self
        if set(ours) != set(channels):
            raise ValueError(
                f"`scaling` is of the channels {', '.join(ours)}, but the series have {', '.join(channels)}. Name them "
                "alike, or leave names out on one side, as in Standardization(scaling.mean, scaling.std)."
            )
        return self.at([ours.index(name) for name in channels])


def same(a: Standardization | None, b: Standardization | None) -> bool:
    """Whether both scale alike."""
    if a is b:
        return True
    return a is not None and b is not None and torch.equal(a.mean, b.mean) and torch.equal(a.std, b.std)


def renamed(scaling: Standardization | None, old: tuple[str, ...], new: tuple[str, ...]) -> Standardization | None:
    """The scaling of channels that got other names, or another order; None for another number of channels."""
    if scaling is None or len(old) != len(new):
        return None
    if set(new) == set(old):
        return scaling.ordered(new)
    return Standardization(scaling.mean, scaling.std, new)


def numbered(channels: tuple[str, ...]) -> bool:
    """Whether nobody named them."""
    return channels == tuple(f"channel {i}" for i in range(len(channels)))


def fitted(values: Tensor, channels: tuple[str, ...]) -> Standardization:
    """The mean and standard deviation of what is there; a constant channel keeps its unit.

    Raises:
        ValueError: For a channel without a single value.
    """
    return merged([values], channels)


def merged(parts: Iterable[Tensor], channels: tuple[str, ...]) -> Standardization:
    """As `fitted`, of values ``(N, D)`` that come in parts.

    References:
        T. F. Chan, G. H. Golub, R. J. LeVeque (1983), Algorithms for computing the sample variance.
    """
    count, mean, squares = (torch.zeros(len(channels), dtype=torch.float64) for _ in range(3))
    for values in parts:
        wide = values.detach().double()
        there = ~wide.isnan()
        many = there.sum(0)
        middle = wide.nan_to_num(0.0).sum(0) / many.clamp_min(1)
        spread = torch.where(there, wide - middle, 0.0).square().sum(0)
        count, mean, squares = (moment.to(wide.device) for moment in (count, mean, squares))
        step, total = middle - mean, (count + many).clamp_min(1)
        squares = squares + spread + step.square() * count * many / total
        mean = torch.where(many > 0, mean + step * many / total, mean)
        count = count + many
    if bool((count == 0).any()):
        empty = [name for name, number in zip(channels, count.tolist(), strict=True) if number == 0]
        raise ValueError(
            f"A channel is standardized by its values, but {', '.join(map(repr, empty))} has none in these series. "
            "Leave the channel out, or pass the `scaling` of other series."
        )
    std = (squares / count).sqrt()
    flat = std <= 1e-12 * mean.abs()  # rounding of a constant leaves a spread that is none
    return Standardization(mean, torch.where(flat, 1.0, std), channels)
