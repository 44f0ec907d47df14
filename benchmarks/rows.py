"""A line of the table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Row:
    """One measurement, with the bar it is held to.

    ``value`` is a ratio (times faster) or seconds; ``bound`` is its 95 % bound on the side of the bar.
    """

    name: str
    value: float
    bound: float
    unit: str
    bar: float | None = None
    at_least: bool = True
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """PASS, MISS, or empty where no bar is set."""
        if self.bar is None:
            return ""
        return "PASS" if (self.bound >= self.bar if self.at_least else self.bound <= self.bar) else "MISS"

    def entry(self) -> dict[str, object]:
        """The row for a JSON file."""
        return asdict(self) | {"verdict": self.verdict}

    def __str__(self) -> str:
        bar = "" if self.bar is None else f"bar {'>=' if self.at_least else '<='} {self.bar:g}{self.unit}"
        notes = ", ".join(f"{key} {_short(value)}" for key, value in self.notes.items())
        measured = f"{self.value:6.2f}{self.unit} (bound {self.bound:.2f})"
        return f"{self.name:40s} {measured}  {bar:13s} {self.verdict:4s}  {notes}"


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
