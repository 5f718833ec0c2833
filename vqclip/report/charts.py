"""Places curves and intervals on a canvas: numbers in, coordinates of an SVG out.

Makes no markup: the template draws what is placed here, so that every text passes through its escaping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vqclip.report.wording import MINUS, number, scientific

WIDTH: Final = 320  # of every canvas, in its own units; the page scales it
HEIGHT: Final = 170  # of a curve chart
ROW: Final = 14  # height of one interval
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 22  # px around the plot for the labels
MOST: Final = 160  # points of a line; more cannot be told apart on a canvas of this width
_EDGE: Final = 8  # px on both sides of an interval plot

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Line:
    """One curve: (x, y) points in rising x, y None where there is no number; `colour` counts the variants."""

    points: Sequence[Point]
    colour: int = 0


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in canvas units."""

    at: float
    text: str


@dataclass(frozen=True)
class Trace:
    """A placed curve: the `d` of an SVG path made of numbers alone, and its last point."""

    d: str
    end: tuple[float, float]
    colour: int


@dataclass(frozen=True)
class Chart:
    """Everything an SVG of `width` x `height` shows; `said` tells it to who cannot see it."""

    width: float
    height: float
    box: tuple[float, float, float, float]  # left, top, right, bottom of the plot
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    traces: tuple[Trace, ...]
    said: str


@dataclass(frozen=True)
class Bar:
    """A mean and, where there is one, its interval, placed on a row."""

    y: float
    middle: float
    low: float | None
    high: float | None
    colour: int


@dataclass(frozen=True)
class Forest:
    """Intervals under each other on one axis; `zero` is where 0 lies, None when it is outside."""

    width: float
    height: float
    bars: tuple[Bar, ...]
    zero: float | None


def curves(lines: Sequence[Line], *, across: Literal["step", "second"] = "step", ranks: bool = False) -> Chart | None:
    """Draw lines over steps or seconds into one chart; None when no line has a number.

    `ranks` puts 1 on top and the rest below. A gap in the numbers is a gap in the line; a number between gaps is
    a dot. Long lines are thinned out to the extremes of 80 stretches, so that no peak is lost.
    """
    kept = [Line(_thinned(line.points), line.colour) for line in lines]
    seen = [(x, y) for line in kept for x, y in line.points if y is not None]
    if not seen:
        return None
    right_most = max(x for line in kept for x, _ in line.points)
    x_axis = _Axis(0, right_most or 1, LEFT, WIDTH - RIGHT, whole=across == "step")
    low, high = _roomy([y for _, y in seen], ranks=ranks)
    bottom, top = HEIGHT - BOTTOM, TOP
    y_axis = _Axis(low, high, top, bottom, whole=True) if ranks else _Axis(low, high, bottom, top)
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        box=(LEFT, top, WIDTH - RIGHT, bottom),
        across=x_axis.ticks(4),
        up=(Tick(y_axis.at(1), "1"), *y_axis.ticks(4, clear_of=1)) if ranks else y_axis.ticks(4),
        traces=tuple(trace for line in kept if (trace := _trace(line, x_axis, y_axis))),
        said=_said(lines, across),
    )


def intervals(rows: Sequence[tuple[float | None, float | None, float | None]]) -> Forest | None:
    """Draw (mean, low, high) rows, in their order, on a shared axis; None without any mean."""
    values = [value for row in rows for value in row if value is not None]
    if not any(row[0] is not None for row in rows):
        return None
    low, high = _roomy(values)
    axis = _Axis(low, high, _EDGE, WIDTH - _EDGE)
    bars = [
        Bar(
            y=ROW * (index + 0.5),
            middle=axis.at(mean),
            low=None if least is None else axis.at(least),
            high=None if most is None else axis.at(most),
            colour=index,
        )
        for index, (mean, least, most) in enumerate(rows)
        if mean is not None
    ]
    return Forest(WIDTH, ROW * len(rows), tuple(bars), axis.at(0) if low <= 0 <= high else None)


def label(value: float, pitch: float) -> str:
    """A tick's number with as many decimals as its pitch has."""
    if abs(value) < pitch / 2:
        return "0"
    step = math.floor(math.log10(pitch) + 1e-9)
    if not 1e-4 <= abs(value) < 1e7:
        return scientific(value, max(0, math.floor(math.log10(abs(value)) + 1e-9) - step))
    places = max(0, -step)
    return f"{value:,.{places}f}".replace("-", MINUS)


@dataclass(frozen=True)
class _Axis:
    """A linear scale from values to canvas units; `whole` has labels at whole numbers only."""

    low: float
    high: float
    start: float
    end: float
    whole: bool = False

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int, *, clear_of: float | None = None) -> tuple[Tick, ...]:
        """About `count` of them, at multiples of 1, 2 or 5 times a power of ten; none within 12 px of `clear_of`."""
        pitch = max(_pitch(self.low, self.high, count), 1 if self.whole else 0)
        first, last = math.ceil(self.low / pitch - 1e-9), math.floor(self.high / pitch + 1e-9)
        values = [index * pitch for index in range(first, last + 1)]
        taken = -math.inf if clear_of is None else self.at(clear_of)
        return tuple(Tick(at, label(value, pitch)) for value in values if abs((at := self.at(value)) - taken) >= 12)


def _pitch(low: float, high: float, count: int) -> float:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= rough * 0.999), 10 * power)


def _roomy(values: Sequence[float], *, ranks: bool = False) -> tuple[float, float]:
    """The range of an axis that shows all values with a little room; ranks begin at 1."""
    low, high = min(values), max(values)
    if ranks:
        return 1, max(high, 2)
    size = max(abs(low), abs(high))
    flat = high - low <= max(size * 1e-9, 1e-12)  # rounding, not a course
    room = max(size * 0.05, 1e-6) if flat else (high - low) * 0.06
    return low - room, high + room


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most about MOST points: the lowest and the highest of each stretch, the first, the last, and one gap each."""
    if len(points) <= MOST:
        return points
    stretches = MOST // 2
    kept: list[Point] = [points[0]]
    for index in range(stretches):
        stretch = points[len(points) * index // stretches : len(points) * (index + 1) // stretches]
        numbers = [point for point in stretch if point[1] is not None]
        chosen = {min(numbers, key=_height), max(numbers, key=_height)} if numbers else {stretch[0]}
        kept += sorted(chosen - {kept[-1]}, key=lambda point: point[0])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _height(point: Point) -> float:
    return point[1] or 0.0


def _trace(line: Line, x_axis: _Axis, y_axis: _Axis) -> Trace | None:
    parts, drawing, end = list[str](), False, None
    for x, y in line.points:
        if y is None:
            drawing = False
            continue
        end = (x_axis.at(x), y_axis.at(y))
        parts.append(f"{'L' if drawing else 'M'}{end[0]:g} {end[1]:g}" + ("" if drawing else "h0"))
        drawing = True
    return Trace("".join(parts), end, line.colour) if end else None


def _said(lines: Sequence[Line], across: str) -> str:
    """The course of the curves in a sentence."""
    whole = [[(x, y) for x, y in line.points if y is not None] for line in lines]
    drawn = [points for points in whole if points]
    if len(drawn) == 1:
        (first, start), (last, end) = drawn[0][0], drawn[0][-1]
        heights = [y for _, y in drawn[0]]
        return (
            f"From {number(start)} at {across} {first:.0f} to {number(end)} at {across} {last:.0f}; "
            f"lowest {number(min(heights))}, highest {number(max(heights))}."
        )
    ends = [points[-1][1] for points in drawn]
    return f"{len(drawn)} curves; they end between {number(min(ends))} and {number(max(ends))}."
