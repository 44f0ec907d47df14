"""What is kept of a solve with one clock a sample: entries of single samples, laid into rows at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline.row_clocks import on_host
from pathline.saving import Save
from pathline.solvers.base import horner, spread, spread_mask

if TYPE_CHECKING:
    from pathline._structure import Structure
    from pathline.solvers.base import Step


@dataclass(frozen=True)
class Due:
    """Entries that fall into one step: the row of the step, the sample, and the place among the sample's times."""

    row: Tensor
    sample: Tensor
    slot: Tensor

    def __len__(self) -> int:
        return len(self.row)

    @property
    def place(self) -> tuple[Tensor, Tensor]:
        """Where the entries stand in a tensor ``(n, batch, ...)``."""
        return self.slot, self.sample


class RowKeeper:
    """The outputs of one solve with a clock a sample.

    Args:
        save: what to keep.
        times: ``(n, batch)``, the requested times, without gradient.
        structure: of the state.
        moved: ``moved(values, due)`` gives entries their derivative with respect to their times.
        exact: the requested times with gradient, where the steps follow them.
    """

    def __init__(
        self,
        save: Save,
        times: Tensor,
        structure: Structure,
        moved: Callable[[Tensor, Due], Tensor] | None = None,
        exact: Tensor | None = None,
    ) -> None:
        self.save, self.times, self.structure, self.moved, self.exact = save, times, structure, moved, exact
        self.sign = torch.where(times[-1] >= times[0], 1.0, -1.0).to(times)
        self.keys = (times * self.sign).T.contiguous()
        self.samples = torch.arange(times.shape[1], device=times.device)
        self.next = torch.zeros_like(self.samples)
        self.spec: Any = None

    def select(self, keep: Tensor) -> None:
        """Drop all other rows."""
        self.sign, self.keys, self.samples, self.next = (
            x[keep] for x in (self.sign, self.keys, self.samples, self.next)
        )

    def due(self, limit: Tensor, *, before: Tensor | None = None) -> Due:
        """The entries up to ``limit``, of rows in ``before`` strictly before it, that no earlier step has served."""
        key = (limit * self.sign)[:, None]
        upto = torch.searchsorted(self.keys, key, right=True)[:, 0]
        if before is not None:
            upto = torch.where(before, torch.searchsorted(self.keys, key)[:, 0], upto)
            upto = torch.maximum(upto, self.next)
        counts, start = upto - self.next, self.next
        self.next = upto
        row = torch.repeat_interleave(counts)
        first = torch.cumsum(counts, 0) - counts
        slot = torch.arange(len(row), device=row.device) - (first - start)[row]
        return Due(row, self.samples[row], slot)

    def step_ends(self, accepted: Tensor | None) -> Due:
        """The entries of ``Save(steps=True)``: the ends of accepted steps."""
        row = torch.arange(len(self.samples), device=self.samples.device) if accepted is None else accepted
        self.next = self.next.index_add(0, row, torch.ones_like(row))
        return Due(row, self.samples[row], self.next[row] - 1)

    def first(self, y0: Tensor, due: Due) -> tuple[Tensor, ...]:
        """The entries at the start."""
        values = y0[due.row]
        if self.moved is not None and not self.save.steps:
            values = self.moved(values, due)
        return self.kept(values, self._at(due))

    def outputs(self, step: Step, t0: Tensor, t1: Tensor, due: Due, cut: Tensor | None = None) -> tuple[Tensor, ...]:
        """The entries of one step: values (a tensor for each leaf), without those of a curve.

        Args:
            step: the step.
            t0: its start, ``(rows,)``.
            t1: its end.
            due: its entries.
            cut: with ``Save(steps=True)`` the states to keep in place of the ends of the step.
        """
        if not len(due):
            return ()
        if self.save.steps:
            ends = step.y1 if cut is None else cut
            return self.kept(ends[due.row], t1[due.row])
        exact = self.times if self.exact is None else self.exact
        values = inside(step, t0, t1, due.row, exact[due.place], moving=self.exact is not None)
        if self.moved is not None:
            values = self.moved(values, due)
        return self.kept(values, self._at(due))

    def _at(self, due: Due) -> Tensor:
        return self.times[0][due.sample] if self.save.steps else self.times[due.place]

    def kept(self, values: Tensor, times: Tensor) -> tuple[Tensor, ...]:
        """Entries as they are kept: ``fn`` of them, a tensor for each leaf."""
        fn = self.save.fn
        if fn is None:
            return (values,)
        t = times.to(values.real.dtype if values.is_complex() else values.dtype)
        kept = fn(t.reshape(-1, *(1,) * (values.dim() - 1)), self.structure.unravel(values))
        leaves, self.spec = pytree.tree_flatten(kept)
        for leaf in leaves:
            if leaf.dim() == 0 or len(leaf) != len(values):
                raise ValueError(
                    f"`Save(fn=...)` returned shape {tuple(leaf.shape)} for {len(values)} samples. On the per-sample "
                    "clock it maps states, samples first, to values with the samples first."
                )
        return tuple(leaves)


class Window:
    """Steps whose entries are read later, many steps at once: a few operations for all of them.

    For methods whose dense output costs no evaluation.

    Args:
        keeper: of the solve.
        start: ``(batch,)``, the times where it begins.
    """

    #: Steps, and elements of their coefficients, that are held at most.
    STEPS, ELEMENTS = 32, 1 << 22

    def __init__(self, keeper: RowKeeper, start: Tensor) -> None:
        self.keeper = keeper
        self.ends = [on_host(start)]
        self.steps: list[tuple[Any, Tensor, Tensor]] = []
        self.places: list[np.ndarray] = []
        self.size = 0

    def add(self, step: Any, t0: Tensor, t1: Tensor, samples: np.ndarray, reached: np.ndarray) -> None:
        """Note a step of some samples, and the times that they have reached after it."""
        ends = self.ends[-1].copy()
        ends[samples] = reached
        place = np.zeros(len(ends), dtype=np.int64)
        place[samples] = np.arange(self.size, self.size + len(samples))
        self.size += len(samples)
        self.ends.append(ends)
        self.places.append(place)
        self.steps.append((step, t0, t1))

    @property
    def full(self) -> bool:
        """Whether it is time to read."""
        return len(self.steps) >= self.STEPS or 8 * len(self.steps) * self.steps[-1][0].y1.numel() > self.ELEMENTS

    def read(self) -> tuple[Due, tuple[Tensor, ...]]:
        """The entries of all steps since the last time."""
        keeper = self.keeper
        ends = torch.from_numpy(np.stack(self.ends)).to(keeper.keys)
        due = keeper.due(ends[-1])
        steps, places = self.steps, torch.from_numpy(np.stack(self.places)).to(due.slot.device)
        self.ends, self.steps, self.places, self.size = self.ends[-1:], [], [], 0
        if not len(due):
            return due, ()
        exact = keeper.times if keeper.exact is None else keeper.exact
        low, high = int(due.slot.min()), int(due.slot.max()) + 1
        keys = keeper.keys[:, low:high].contiguous()
        number = torch.searchsorted((ends.T * keeper.sign[:, None]).contiguous(), keys) - 1
        row = places[number[due.sample, due.slot - low], due.sample]
        t0, t1, y1 = (torch.cat(x) for x in zip(*((a, b, step.y1) for step, a, b in steps), strict=True))
        times, end, moving = exact[due.place], t1.index_select(0, row), keeper.exact is not None
        at_end = times == end
        values = y1.index_select(0, row)
        if moving or not bool(at_end.all()):
            curves = torch.cat([step.coefficients().transpose(0, 1) for step, _, _ in steps])
            start = t0.index_select(0, row)
            theta = spread((times - start) / (end - start), y1)
            between = horner(curves.index_select(0, row).transpose(0, 1), theta)
            values = ended(between, values, at_end, moving=moving)
        if keeper.moved is not None:
            values = keeper.moved(values, due)
        return due, keeper.kept(values, keeper.times[due.place])


def inside(step: Step, t0: Tensor, t1: Tensor, row: Tensor, times: Tensor, *, moving: bool = False) -> Tensor:
    """States of a step: entry ``i`` of row ``row[i]`` at ``times[i]``, ``(entries, *state)``."""
    at_end = times == t1[row]
    ends = step.y1[row]
    if not moving and bool(at_end.all()):
        return ends
    asked, place = torch.unique_consecutive(row, return_inverse=True)  # rows come in order
    every = len(asked) == len(t0)
    coefficients = step.coefficients() if every else step.coefficients(asked)
    theta = (times - t0[row]) / (t1 - t0)[row]
    between = horner(coefficients[:, place], spread(theta, ends))
    return ended(between, ends, at_end, moving=moving)


def ended(between: Tensor, ends: Tensor, at_end: Tensor, *, moving: bool) -> Tensor:
    """Entries at the end of a step are its end; where times move, with the derivative of the curve by its time."""
    if moving:
        ends = ends.detach() + (between - between.detach())
    return torch.where(spread_mask(at_end, between), ends, between)


def shorten(coefficients: Tensor, fraction: Tensor) -> Tensor:
    """The polynomials ``(rows, degree + 1, *state)`` in theta, on the first ``fraction`` of their steps."""
    powers = torch.arange(coefficients.shape[1], device=coefficients.device)
    scale = fraction[:, None].to(coefficients.real.dtype) ** powers
    return coefficients * scale.reshape(*scale.shape, *(1,) * (coefficients.dim() - 2))


def step_times(pieces: list[Any], start: Tensor, valid: Tensor) -> Tensor:
    """``(n, batch)``: the starts and the ends of the accepted steps; a sample's last is repeated."""
    n = int(valid.max()) if len(valid) else 0
    ts = start.expand(n, -1).clone()
    for piece in pieces:
        ts[piece.due.place] = piece.end[piece.due.row]
    return ts.gather(0, torch.arange(n, device=ts.device)[:, None].clamp(max=(valid - 1)[None]))


def laid(values: Tensor, places: list[tuple[Tensor, Tensor]], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Entries as rows ``(n, batch, ...)``; a row that was not reached repeats its sample's last, without gradient.

    Args:
        values: ``(entries, ...)``, the entries of each sample in the order of its times.
        places: slots and samples of the entries.
        shape: ``(n, batch)``.

    Returns:
        The rows, and which of them were reached, ``(n, batch)``.
    """
    slots, samples = (torch.cat(column) for column in zip(*places, strict=True))
    table = torch.full(shape, -1, device=values.device)
    table[slots, samples] = torch.arange(len(values), device=values.device)
    reached = table >= 0
    rows = values[table.cummax(0).values]
    if bool(reached.all()):
        return rows, reached
    return torch.where(reached.reshape(*shape, *(1,) * (rows.dim() - 2)), rows, rows.detach()), reached
