"""The state of the random generators, so that a recomputation draws the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def snapshot(device: torch.device) -> Any:
    """The state of the CPU's generator, and of the device's."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


@contextmanager
def restored(state: Any, device: torch.device) -> Iterator[None]:
    """Draw from ``state`` inside, and from where the generators stood afterwards; None changes nothing."""
    if state is None:
        yield
        return
    now = snapshot(device)
    restore(state, device)
    try:
        yield
    finally:
        restore(now, device)


def restore(state: Any, device: torch.device) -> None:
    """Put the generators into a state."""
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)
