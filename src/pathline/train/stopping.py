"""The ways a fit ends early: an interrupt, the clock, a solve that failed."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

__all__ = ["FitStopped", "InterruptFlag", "Interrupted", "OutOfTime", "ReplayDone", "importing", "parse_duration"]


class FitStopped(RuntimeError):
    """A fit could not go on; what was reached is in its checkpoint."""


class OutOfTime(Exception):
    """A fit was about to start when the time of the run was used up."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (or a termination signal) came; the fit wrote its checkpoint first.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, message: str, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = signal_number


class ReplayDone(Exception):
    """A kept batch was replayed; the message says what came of it."""


class InterruptFlag:
    """While open, the first Ctrl-C or SIGTERM only raises a flag; a second Ctrl-C interrupts at once.

    A step that is torn in the middle leaves parameters and optimizer out of tune, so the loop looks at the flag
    between two steps. Outside the main thread signals cannot be caught, and nothing is changed.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._raise_flag)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _raise_flag(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Hold back Ctrl-C while packages are imported: one torn in the middle of its import fails in odd ways later."""
    with InterruptFlag() as flag:
        yield
    if flag.signal is not None:
        raise Interrupted("The run was interrupted while it started.", flag.signal)


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds from ``"90s"``, ``"5m"``, ``"1h30m"`` or ``"45"``.

    Raises:
        ValueError: For anything else, and for zero.

    Example:
        >>> parse_duration("1h30m")
        5400.0
    """
    compact = text.strip().lower().replace(" ", "")
    pieces = re.findall(r"(\d+(?:\.\d+)?)(min|[smhd]?)", compact)
    if not pieces or "".join(number + unit for number, unit in pieces) != compact:
        raise ValueError(f"A duration is written as 90s, 5m, 1h30m or a number of seconds; {text!r} came.")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in pieces)
    if seconds <= 0.0:
        raise ValueError(f"A duration is longer than zero; {text!r} came.")
    return seconds
