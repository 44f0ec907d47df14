"""Lines of the tables: what one contender took, and how two of them compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison, with the bar it is held to.

    ``value`` is a ratio (times faster) or a number in ``unit``; ``bound`` is its 95 % bound on the side of the bar.
    Both are None where there is nothing to compare, and ``reason`` says why. ``line`` is the promise that the bar is
    from; ``holds`` is False where a comparison is not fair to the other side.
    """

    name: str
    value: float | None
    bound: float | None
    unit: str
    bar: float | None = None
    at_least: bool = True
    notes: dict[str, object] = field(default_factory=dict)
    line: str = ""
    interval: tuple[float, float] | None = None
    reason: str = ""
    holds: bool = True

    @property
    def verdict(self) -> str:
        """PASS, MISS, "not available", or empty where no bar is set."""
        if self.bar is None:
            return ""
        if self.bound is None:
            return "not available"
        within = self.bound >= self.bar if self.at_least else self.bound <= self.bar
        return "PASS" if within and self.holds else "MISS"

    @property
    def shortfall(self) -> float:
        """By which part of the bar a bound misses it; 0 where it doesn't."""
        if self.bar is None or self.bound is None:
            return 0.0
        part = self.bound / self.bar - 1.0
        return max(0.0, -part if self.at_least else part)

    def entry(self) -> dict[str, object]:
        """The row for a JSON file."""
        return asdict(self) | {"verdict": self.verdict}

    def __str__(self) -> str:
        bar = "" if self.bar is None else f"bar {'>=' if self.at_least else '<='} {self.bar:g}{self.unit}"
        if self.value is None or self.bound is None:
            return f"{self.name:58s} {'not available: ' + self.reason:28s}  {bar}"
        between = f"[{self.interval[0]:.3g}, {self.interval[1]:.3g}]" if self.interval else f"(bound {self.bound:.3g})"
        measured = f"{self.value:7.3g}{self.unit} {between}"
        return f"{self.name:58s} {measured:28s}  {bar:13s} {self.verdict:4s}  {_notes(self.notes)}"


@dataclass(frozen=True)
class Point:
    """What one contender took for one task; ``ms`` is None where it could not run, and ``reason`` says why."""

    task: str
    who: str
    ms: float | None = None
    interval: tuple[float, float] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def entry(self) -> dict[str, object]:
        """The point for a JSON file."""
        return asdict(self)

    def __str__(self) -> str:
        if self.ms is None:
            return f"  {self.task:28s} {self.who:44s} {'not available: ' + self.reason}"
        return f"  {self.task:28s} {self.who:44s} {self.ms:10.3f} ms  {_notes(self.notes)}"


def _notes(notes: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in notes.items())


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
