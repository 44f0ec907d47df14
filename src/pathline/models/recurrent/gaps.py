"""What lies between the observations of a series: how long it takes, and for how long each channel has been silent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaps:
    """The time before each row, in the direction in which the series is gone through.

    Attributes:
        start: ``(N,)``, the time at which the gap begins.
        length: ``(N,)``, its length; negative where time runs backward.
        silence: ``(N, D)``, how long ago each channel was observed, or since the first row where it was not.
    """

    start: Tensor
    length: Tensor
    silence: Tensor

    def rows(self, index: Tensor) -> Gaps:
        """Those of some rows."""
        return Gaps(self.start[index], self.length[index], self.silence[index])


@dataclass(frozen=True)
class Past:
    """What a series knows of its channels just before each row, and just after.

    Attributes:
        gaps: Before each row.
        last: ``(N, D)``, the value that was last observed before the row; zero where there is none.
        silent: ``(N, D)``, the silence of each channel just after the row.
    """

    gaps: Gaps
    last: Tensor
    silent: Tensor


def past(times: Tensor, values: Tensor, mask: Tensor, first: Tensor, *, reverse: bool = False) -> Past:
    """Look back from every row of a batch at once.

    Args:
        times: ``(N,)``.
        values: ``(N, D)``, zero where missing.
        mask: ``(N, D)``, what was observed.
        first: ``(N,)``, the row with which the series of each row begins; with ``reverse`` that with which it ends.
        reverse: Look from the end of each series.
    """
    if reverse:
        turned = past(-times.flip(0), values.flip(0), mask.flip(0), len(times) - 1 - first.flip(0))
        gaps = turned.gaps
        back = Gaps(-gaps.start.flip(0), -gaps.length.flip(0), gaps.silence.flip(0))
        return Past(back, turned.last.flip(0), turned.silent.flip(0))
    row = torch.arange(len(times), device=times.device)
    before = torch.maximum(row - 1, first)
    # The last observed row up to each row, channel by channel; one that lies before the series is none.
    seen = torch.where(mask, row[:, None], -1).cummax(0).values if len(row) else row[:, None].expand(mask.shape)
    seen = torch.where(seen >= first[:, None], seen, -1)
    known = torch.where((row > first)[:, None], seen[before], -1)
    last = torch.where(known >= 0, values.gather(0, known.clamp_min(0)), 0.0)
    since = torch.where(known >= 0, known, first[:, None])
    silence = times[:, None] - times[since]
    silent = times[:, None] - times[torch.where(seen >= 0, seen, first[:, None])]
    return Past(Gaps(times[before], times - times[before], silence), last, silent)
