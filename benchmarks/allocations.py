"""The memory of a training step, as the allocator sees it: compiled kernels and what hangs on a context included."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch.autograd.profiler import profile, record_function

TURN = "between forward and backward"


def allocations(forward: Callable[[], Any], backward: Callable[[Any], object]) -> tuple[int, int]:
    """Bytes alive between forward and backward, and the peak of both; minus those from before the call."""
    with _silence(), profile(use_kineto=True, profile_memory=True) as profiled:
        loss = forward()
        with record_function(TURN):
            pass
        backward(loss)
    live = peak = kept = 0
    events = profiled.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == TURN:
            kept = live
        elif event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return kept, peak


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the lines that the profiler's own log writes to the file behind standard error."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
