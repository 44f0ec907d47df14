"""The bars, one after the other: met, or missed by how much."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.rows import Row


def judged(rows: Sequence[Row]) -> str:
    """A line for each bar, those of one promise together; then how many were met."""
    held = [row for row in rows if row.bar is not None]
    lines = ["the bars:"]
    for promise in dict.fromkeys(row.line or row.name for row in held):
        lines.append(f"  {promise}")
        lines += [f"    {verdict(row):28s} {row.name}" for row in held if (row.line or row.name) == promise]
    counts = {end: sum(row.verdict == end for row in held) for end in ("PASS", "MISS", "not available")}
    lines.append(f"{counts['PASS']} met, {counts['MISS']} missed, {counts['not available']} not available")
    return "\n".join(lines)


def verdict(row: Row) -> str:
    """In words, with the bound and the bar."""
    if row.bound is None:
        return "not available"
    sense = ">=" if row.at_least else "<="
    numbers = f"{row.bound:.3g} ({sense} {row.bar:.3g}{row.unit})"
    if row.verdict == "PASS":
        return f"met: {numbers}"
    if row.shortfall == 0.0:
        return f"missed: {numbers}, and its gradient is less accurate"
    return f"missed by {row.shortfall:.0%}: {numbers}"
