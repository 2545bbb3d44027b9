"""How is a line chart drawn as SVG, without anything from elsewhere?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 880, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 44
COLOURS = ("#1f6feb", "#d1480b", "#1a7f37", "#8250df", "#bf3989", "#6e7781")
TICKS = (1.0, 2.0, 5.0)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places on an axis; `log` has equal lengths for equal ratios."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return where `value` is, held within the axis."""
        low, high, at = (
            math.log10(each) if self.log else each for each in (self.low, self.high, self._held(value))
        )
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def _held(self, value: float) -> float:
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart; `dashed` is what should be, or what is secondary. A step holds until the next."""

    name: str
    points: Points
    colour: str
    dashed: bool = False
    step: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over a common axis, with moments marked."""

    title: str
    x_name: str
    y_name: str
    x: Scale
    y: Scale
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, str]] = ()

    def svg(self) -> str:
        """Return the chart as an SVG element."""
        parts = [*self._frame(), *self._marks(), *self._lines()]
        label = escape(self.title, quote=True)
        box = f'viewBox="0 0 {WIDTH} {HEIGHT + 22}"'
        return f'<svg role="img" aria-label="{label}" {box}>\n' + "\n".join(parts) + "\n</svg>"

    def _frame(self) -> Iterator[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        for value, name in self.y_ticks:
            y = self.y(value)
            yield f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        for value, name in self.x_ticks:
            x = self.x(value)
            yield f'<path class="grid" d="M{x:.1f} {bottom}v5"/>'
            yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>'
        yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
        yield f'<text x="{right}" y="{bottom + 34}" text-anchor="end">{escape(self.x_name)}</text>'
        yield f'<text x="{LEFT}" y="{TOP - 12}">{escape(self.y_name)}</text>'

    def _marks(self) -> Iterator[str]:
        for number, (value, told) in enumerate(self.marks, 1):
            x = self.x(value)
            line = f"M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"
            yield f'<path class="mark" d="{line}"><title>{escape(told)}</title></path>'
            yield f'<text class="mark" x="{x:.1f}" y="{TOP - 2}" text-anchor="middle">{number}</text>'

    def _lines(self) -> Iterator[str]:
        at = float(LEFT)
        for line in self.lines:
            dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
            for path in _paths(line, self.x, self.y):
                yield f'<path class="line" stroke="{line.colour}"{dashes} d="{path}"/>'
            y = HEIGHT + 10
            yield f'<path class="line" stroke="{line.colour}"{dashes} d="M{at:.0f} {y}h24"/>'
            yield f'<text x="{at + 30:.0f}" y="{y + 4}">{escape(line.name)}</text>'
            at += 52 + 7 * len(line.name)


def _paths(line: Line, x: Scale, y: Scale) -> Iterator[str]:
    """Return the line as paths, broken where a value is not there."""
    path: list[str] = []
    for at, value in line.points:
        if math.isnan(value):
            if path:
                yield "".join(path)
            path = []
        elif not path:
            path = [f"M{x(at):.1f} {y(value):.1f}h0.1"]
        elif line.step:
            path.append(f"H{x(at):.1f}V{y(value):.1f}")
        else:
            path.append(f"L{x(at):.1f} {y(value):.1f}")
    if path:
        yield "".join(path)


def linear_ticks(high: float, count: int = 8) -> list[tuple[float, str]]:
    """Return round places from 0 to `high`, at most about `count`."""
    rough = max(high, 1e-9) / count
    whole = 10.0 ** math.floor(math.log10(rough))
    step = next(each * whole for each in (*TICKS, 10.0) if each * whole >= rough)
    return [(step * number, f"{step * number:g}") for number in range(int(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return 1, 2 and 5 times each power of ten between `low` and `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [tick * 10.0**power for power in powers for tick in TICKS]
    return [(each, f"{each:g}") for each in every if low <= each <= high]
