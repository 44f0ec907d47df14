"""The hidden states of a batch of series."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pathline.data.series.ragged import offsets_of, places
from pathline.models.batches import query
from pathline.models.recurrent.gaps import Gaps, Past
from pathline.models.recurrent.order import Order, last_rows

if TYPE_CHECKING:
    from pathline.data import Series
    from pathline.models.recurrent.recurrent import Recurrent


class States:
    """What a recurrent model returns: the state around every row, and at the end. *Maturing.*

    A row without a value is not read, unless the network takes known inputs: the state around it is the one that passes
    it.

    Attributes:
        final: ``(n, hidden)``, after the last row that was gone through, or at the time that was asked for.
        reverse: Whether time ran backward.
    """

    def __init__(
        self,
        model: Recurrent,
        whole: Series,
        read: Tensor,
        series: Series,
        past: Past,
        order: Order,
        before: Tensor,
        after: Tensor,
        initial: Tensor,
        final: Tensor,
        reverse: bool,
    ) -> None:
        self._model, self._whole, self._read = model, whole, read
        self._series, self._past, self._order = series, past, order
        self._before, self._after, self._initial = before, after, initial
        self.final, self.reverse = final, reverse

    @cached_property
    def before(self) -> Tensor:
        """``(N, hidden)``, the state just before each row: it knows the rows before and the time of this one."""
        return self._laid(self._before.index_select(0, self._order.slots), self.at)

    @cached_property
    def after(self) -> Tensor:
        """``(N, hidden)``, the state just after each row."""
        return self._laid(self._updated, self.at)

    @cached_property
    def _updated(self) -> Tensor:
        """The state just after each row that was read."""
        return self._after.index_select(0, self._order.slots)

    def _laid(self, found: Tensor, passed: Callable[[Series], Tensor]) -> Tensor:
        """What belongs to the rows that were read, together with what belongs to those that were not."""
        if self._whole is self._series:
            return found
        read = self._read
        places = torch.cat([read.nonzero(), (~read).nonzero()]).squeeze(1)
        both = torch.cat([found, passed(self._whole.keep(~read))])
        return both.index_select(0, torch.argsort(places))

    def at(self, t: Tensor | Series, *, including: bool = True) -> Tensor:
        """The state at any times, from the rows up to them: what the model knew then.

        Args:
            t: ``(T,)`` for all series, or a ``Series`` over the same series, whose times count.
            including: Whether a row at exactly that time is known already.

        Returns:
            ``(T, n, hidden)``; for a ``Series`` ``(N, hidden)``, in the order of its rows. Before the first row it is
            the initial state.
        """
        times, which, shape = self.asked(t)
        row, known = _latest(self._series, times, which, including, self.reverse)
        if not len(self._series.times):
            return self._initial[which].unflatten(0, shape)
        h = torch.where(known[:, None], self._updated[row], self._initial[which])
        start = torch.where(known, self._series.times[row], times)
        gap = times - start
        silence = torch.where(known[:, None], self._past.silent[row] + gap.abs()[:, None], 0.0)
        return self._model.advance(h, Gaps(start, gap, silence)).unflatten(0, shape)

    def since(self, t: Tensor | Series, *, including: bool = True) -> Tensor:
        """How long ago the last row was, ``(T, n)`` or ``(N,)``; zero before the first. Arguments as in ``at``.

        A row that is not read, as one without a value, does not count.
        """
        times, which, shape = self.asked(t)
        row, known = _latest(self._series, times, which, including, self.reverse)
        if not len(self._series.times):
            return torch.zeros_like(times).unflatten(0, shape)
        return torch.where(known, times - self._series.times[row], 0.0).abs().unflatten(0, shape)

    @property
    def gap(self) -> Tensor:
        """``(N,)``, how long before each row the row before it was, in the sense of ``since``."""
        return self._laid(self._past.gaps.length.abs(), self.since)

    @property
    def last(self) -> Tensor:
        """``(n,)``, the time of the last row that was gone through; infinitely early where there is none."""
        series = self._series
        if not len(series.times):
            return series.times.new_full((len(series),), -torch.inf)
        early = torch.inf if self.reverse else -torch.inf
        return torch.where(series.lengths > 0, series.times[last_rows(series, self.reverse)], early)

    @property
    def silent(self) -> Tensor:
        """``(n, channels)``, how long each channel had been silent just after that row."""
        series, silent = self._series, self._past.silent
        if not len(silent):
            return silent.new_zeros(len(series), silent.shape[-1])
        return silent[last_rows(series, self.reverse)]

    def asked(self, t: Tensor | Series) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Times, their series, and the shape in which the answer is laid out."""
        series = self._series
        t = query(t, series)
        if isinstance(t, Tensor):
            times = t.to(series.times).repeat_interleave(len(series))
            return times, torch.arange(len(series), device=times.device).repeat(len(t)), (len(t), len(series))
        return t.times.to(series.times), t.rows, (len(t.times),)


def _latest(series: Series, times: Tensor, which: Tensor, including: bool, reverse: bool) -> tuple[Tensor, Tensor]:
    """The last row gone through up to each time, 0 where there is none; and whether there is one."""
    n, lengths, offsets = len(series), series.lengths, series.offsets
    longest = int(lengths.max()) if n else 0
    padded = series.times.new_full((n, longest), float("inf"))
    padded[series.rows, series.places] = series.times
    # One row of questions a series: searchsorted compares row by row.
    order = torch.argsort(which, stable=True)
    counts = torch.bincount(which, minlength=n)
    place = places(which[order], offsets_of(counts))
    asked = series.times.new_zeros(n, int(counts.max()) if n else 0)
    asked[which[order], place] = times[order]
    right = including != reverse
    found = torch.empty_like(which)
    found[order] = torch.searchsorted(padded, asked, right=right)[which[order], place]
    known = found < lengths[which] if reverse else found > 0
    row = offsets[:-1][which] + (found if reverse else found - 1)
    return torch.where(known, row, 0), known
