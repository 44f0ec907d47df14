"""The requested times: checked once, as the loop wants them and as the solution shows them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pathline._forward import carries


@dataclass(frozen=True)
class Times:
    """The requested times of a solve.

    Attributes:
        host: Python floats on the shared clock, a float64 tensor ``(n, batch)`` on the per-sample clock.
        moving: the times as a tensor that requires grad, else None.
        shown: as the solution shows them.
        real: ``(n, batch)``, which rows were asked for where samples have different numbers of times; None for all.
    """

    host: Any
    moving: Tensor | None
    shown: Tensor
    real: Tensor | None = None


def shared_times(t: Any, y0: Tensor) -> Times:
    """Times that all samples share."""
    ts = t if isinstance(t, Tensor) else as_times(t, y0.device)
    if ts.dim() == 2:
        raise ValueError(
            f"`t` has shape {tuple(ts.shape)}. On the shared clock all samples have the same times, a 1-d tensor; "
            'times of its own for each sample, (n, batch), need clock="per-sample".'
        )
    if ts.dim() != 1 or len(ts) == 0:
        raise ValueError(f"`t` is a 1-d tensor of at least one time; it has shape {tuple(ts.shape)}.")
    ts = _checked_kind(ts).to(y0.device)
    times: list[float] = ts.detach().tolist()
    if not all(map(math.isfinite, times)):
        raise ValueError(f"`t` is finite; it holds {next(x for x in times if not math.isfinite(x))}. Drop such times.")
    sign = 1.0 if times[-1] >= times[0] else -1.0
    for i, (a, b) in enumerate(itertools.pairwise(times)):
        if (b - a) * sign < 0:
            raise ValueError(
                f"`t` is monotone; it goes from {a:g} to {b:g} at index {i + 1}. Sort it, with repeats if you like."
            )
    return Times(times, _moving(ts), ts)


def row_times(t: Any, y0: Tensor, *, batch_first: bool) -> Times:
    """Times of each sample's own: ``(n, batch)``, ``(n,)`` for all, a pair, or a list of one tensor a sample."""
    batch, real = len(y0), None
    if isinstance(t, list) and t and all(isinstance(x, Tensor) and x.dim() == 1 for x in t):
        ts, real = _ragged(t, batch)
    else:
        ts = t if isinstance(t, Tensor) else _row_pair(t, y0)
        if ts.dim() == 2 and batch_first:
            ts = ts.T
    if ts.dim() == 1 and len(ts):
        ts = ts.unsqueeze(1).expand(-1, batch)
    if ts.dim() != 2 or not len(ts) or ts.shape[1] != batch:
        turned = ts.dim() == 2 and ts.shape[0] == batch
        advice = "Pass t.T, or batch_first=True." if turned else "Pass (n,) for all samples, or (n, batch)."
        raise ValueError(
            f"`t` has shape {tuple(ts.shape)} for {batch} samples. On the per-sample clock it is (n, batch), time "
            f"first. {advice}"
        )
    ts = _checked_kind(ts).to(y0.device)
    host = ts.detach().double()
    if not bool(torch.isfinite(host).all()):
        raise ValueError("`t` is finite; it holds NaN or infinite values. Drop such times.")
    sign = torch.where(host[-1] >= host[0], 1.0, -1.0)
    wrong = (host.diff(dim=0) * sign < 0).nonzero()
    if len(wrong):
        i, sample = wrong[0].tolist()
        raise ValueError(
            f"`t` is monotone for every sample; that of sample {sample} goes from {host[i, sample].item():g} to "
            f"{host[i + 1, sample].item():g} at index {i + 1}. Sort it, with repeats if you like."
        )
    return Times(host, _moving(ts), ts, real)


def _ragged(t: list[Tensor], batch: int) -> tuple[Tensor, Tensor]:
    """Times of different numbers, each filled up with its last, and which are no filling."""
    if len(t) != batch or not all(len(x) for x in t):
        raise ValueError(
            f"`t` as a list has one 1-d tensor of at least one time for each of the {batch} samples; it has {len(t)} "
            f"of lengths {[len(x) for x in t]}. Starts and ends go in a tuple (t0, t1)."
        )
    n = max(len(x) for x in t)
    ts = torch.stack([torch.cat([x, x[-1:].expand(n - len(x))]) for x in t], dim=1)
    counts = torch.tensor([len(x) for x in t], device=ts.device)
    return ts, torch.arange(n, device=ts.device)[:, None] < counts


def _row_pair(t: Any, y0: Tensor) -> Tensor:
    """``(t0, t1)`` where either may be a tensor ``(batch,)``; any other sequence of numbers."""
    if isinstance(t, tuple | list) and any(isinstance(x, Tensor) and x.dim() == 1 for x in t):
        wide = [torch.as_tensor(x, dtype=torch.float64, device=y0.device) for x in t]
        if not all(x.dim() == 0 or x.shape == y0.shape[:1] for x in wide):
            raise ValueError(
                f"`t` as a pair holds numbers or tensors of one time for each of the {len(y0)} samples; it holds "
                f"shapes {[tuple(x.shape) for x in wide]}. Times of each sample's own are (n, batch), or a list."
            )
        return torch.stack([x.expand(len(y0)) for x in wide])
    return as_times(t, y0.device)


def _moving(ts: Tensor) -> Tensor | None:
    return ts if carries(ts) else None


def _checked_kind(ts: Tensor) -> Tensor:
    if ts.is_complex() or ts.dtype == torch.bool:
        raise TypeError(f"`t` is real; it has dtype {ts.dtype}. Pass t.real or t.float().")
    return ts if ts.is_floating_point() else ts.double()  # float32 would merge large integers


def as_times(t: Any, device: torch.device) -> Tensor:
    """A sequence of numbers or 0-d tensors as float64."""
    try:
        items = [] if isinstance(t, str) else list(t)
    except TypeError:
        items = []
    if not items:
        raise TypeError(
            f"`t` is a tensor of times, or (t0, t1); it is {t!r}. Pass torch.linspace(0, 1, 11), for example."
        )
    if any(isinstance(x, Tensor) for x in items):
        wide = [torch.as_tensor(x, dtype=torch.float64, device=device) for x in items]
        if any(x.numel() != 1 for x in wide):
            raise ValueError(
                '`t` is a list of tensors of several times: times of each sample\'s own need clock="per-sample". '
                "Times that all samples share are one tensor, as from torch.cat(t)."
            )
        return torch.stack(wide) if all(x.dim() == 0 for x in wide) else torch.cat(wide)
    try:
        return torch.from_numpy(np.array(items, dtype=np.float64)).to(device)
    except (TypeError, ValueError):
        raise TypeError(
            f"`t` is a tensor of times, or (t0, t1); it is {t!r}. Pass torch.linspace(0, 1, 11), for example."
        ) from None
