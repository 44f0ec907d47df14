"""Small line charts as inline SVG, which take their colours from the page and so follow its light or dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "line_chart"]

WIDTH, HEIGHT = 340, 186
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 8, 24
MOST_POINTS = 100


@dataclass(frozen=True)
class Series:
    """One line: its label, its CSS class (a colour of the page), and the values, one a step."""

    label: str
    css: str
    steps: Sequence[float]
    values: Sequence[float]

    def known(self) -> list[tuple[float, float]]:
        """The points that are finite."""
        return [(x, y) for x, y in zip(self.steps, self.values, strict=True) if math.isfinite(x) and math.isfinite(y)]


def line_chart(series: Sequence[Series], *, log: bool, title: str, mark: tuple[float, float] | None = None) -> str:
    """An SVG element, or an empty string where no point is finite.

    Long series are drawn as the mean of each bucket of steps, over a band from its least to its greatest value.

    Args:
        series: The lines.
        log: Logarithmic values; points that are not positive are left out.
        title: What a screen reader says.
        mark: A point (step, value) to mark with a ring, such as the best one.
    """
    points = {line.label: [(x, y) for x, y in line.known() if y > 0.0 or not log] for line in series}
    everything = [point for line in points.values() for point in line]
    if not everything:
        return ""
    log = log and max(y for _, y in everything) > 3.0 * min(y for _, y in everything)
    xs = _Axis(min(x for x, _ in everything), max(x for x, _ in everything), LEFT, WIDTH - RIGHT, log=False)
    marked = mark is not None and all(map(math.isfinite, mark)) and (mark[1] > 0.0 or not log)
    low, high = _padded([y for _, y in everything] + ([mark[1]] if mark is not None and marked else []), log)
    ys = _Axis(low, high, HEIGHT - BOTTOM, TOP, log=log)
    body = [_grid(xs, ys)]
    body += [_line(points[line.label], line.css, xs, ys) for line in series if points[line.label]]
    if mark is not None and marked and xs.low <= mark[0] <= xs.high:
        body.append(f'<circle class="mark" cx="{xs(mark[0]):.1f}" cy="{ys(mark[1]):.1f}" r="4"/>')
    inside = "".join(body)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{inside}</svg>'


class _Axis:
    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        self.low, self.high, self.log = low, high if high > low else low + 1.0, log
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log10(number) for number in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        share = (at - low) / (high - low) if high > low else 0.5
        return self._start + min(max(share, 0.0), 1.0) * (self._end - self._start)

    def ticks(self, most: int) -> list[float]:
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, math.ceil((last - first + 1) / most))
            decades = [10.0**power for power in range(first, last + 1, stride)]
            return decades if len(decades) > 1 else _log_ticks(self.low, self.high)
        return _linear_ticks(self.low, self.high, most)


def _padded(values: list[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return low / 1.2, high * 1.2
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return (0.0 if low >= 0.0 and low - room < 0.25 * high else low - room), high + room


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(most - 1, 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    stride = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / stride - 1e-9), math.floor(high / stride + 1e-9)
    return [index * stride for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    unit = 10.0 ** math.floor(math.log10(low))
    candidates = [unit * factor * scale for scale in (1, 10, 100) for factor in (1, 2, 5)]
    return [tick for tick in candidates if low <= tick <= high]


def _label(value: float) -> str:
    if value == 0.0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.1e}".replace(".0", "").partition("e")
    power = f'<tspan dy="-4" font-size="8.5">{int(exponent)}</tspan>'
    return ("" if mantissa == "1" else f"{mantissa}·") + "10" + power.replace(">-", ">\N{MINUS SIGN}")


def _grid(xs: _Axis, ys: _Axis) -> str:
    pieces = []
    for tick in ys.ticks(5):
        at = ys(tick)
        pieces.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        pieces.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_label(tick)}</text>')
    for tick in (tick for tick in xs.ticks(5) if tick == int(tick)):  # half a step is no step
        at = xs(tick)
        pieces.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    pieces.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>'
    )
    return "".join(pieces)


def _line(points: list[tuple[float, float]], css: str, xs: _Axis, ys: _Axis) -> str:
    buckets = _buckets(points)
    centre = " ".join(f"{xs(x):.1f},{ys(mean):.1f}" for x, mean, _, _ in buckets)
    if len(buckets) == 1:
        x, mean, _, _ = buckets[0]
        return f'<circle class="dot {css}" cx="{xs(x):.1f}" cy="{ys(mean):.1f}" r="2.5"/>'
    band = ""
    if len(buckets) < len(points):
        upper = [f"{xs(x):.1f},{ys(high):.1f}" for x, _, _, high in buckets]
        lower = [f"{xs(x):.1f},{ys(low):.1f}" for x, _, low, _ in reversed(buckets)]
        band = f'<polygon class="band {css}" points="{" ".join(upper + lower)}"/>'
    return f'{band}<polyline class="line {css}" points="{centre}"/>'


def _buckets(points: list[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    size = max(1, math.ceil(len(points) / MOST_POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    out = []
    for group in groups:
        values = [y for _, y in group]
        out.append((sum(x for x, _ in group) / len(group), sum(values) / len(values), min(values), max(values)))
    return out
