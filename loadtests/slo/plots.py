"""Which pictures show what a load test came to?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from loadtests.slo.chart import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    Points,
    Scale,
    linear_ticks,
    log_ticks,
)
from loadtests.slo.reading import Readings
from loadtests.slo.results import Change, Run, Second
from loadtests.slo.verdict import percentile_ms

PERCENTILES = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9)
LOW_MS = 0.1


def plots(run: Run) -> list[Chart]:
    """Return latency over time, percentiles by version, and shares of versions."""
    return [latency(run), percentiles(run.readings), shares(run)]


def latency(run: Run) -> Chart:
    """Show the median and p99 of each second, by version, with the moments of changes."""
    lines = []
    for colour, version in _coloured(_versions(run)):
        of = [each for each in run.series if each.version == version]
        lines.append(Line(f"{version}: p99", _points(run, of, "p99_ms"), colour))
        lines.append(Line("p50", _points(run, of, "p50_ms"), colour, dashed=True))
    high = max([each.p99_ms for each in run.series if each.p99_ms is not None], default=1.0)
    return Chart(
        "Latency over time",
        "seconds",
        "ms, of requests sent in that second",
        _seconds(run),
        _milliseconds(high),
        lines,
        linear_ticks(_end(run)),
        log_ticks(LOW_MS, _above(high)),
        marks(run.changes),
    )


def percentiles(readings: Readings) -> Chart:
    """Show how long the slower ones took, by version; the tail has as much room as the rest."""
    lines, high = [], 1.0
    for colour, version in _coloured(readings.names("version")):
        reading = readings.together(cell for cell in readings.cells if cell.version == version)
        points = [(_rarity(each), percentile_ms(reading, each)) for each in PERCENTILES]
        lines.append(Line(f"{version} ({reading.right})", points, colour))
        high = max([high, *(y for _, y in points if not math.isnan(y))])
    ticks = [(_rarity(each), f"p{each:g}") for each in (50.0, 90.0, 95.0, 99.0, 99.9)]
    return Chart(
        "Percentiles by version",
        "percentile of right answers",
        "ms",
        Scale(1.0, 1000.0, LEFT, WIDTH - RIGHT, log=True),
        _milliseconds(high),
        lines,
        ticks,
        log_ticks(LOW_MS, _above(high)),
    )


def shares(run: Run) -> Chart:
    """Show which share of each second's answers was whose, and which it was to be."""
    totals: dict[int, int] = {}
    for each in run.series:
        totals[each.second] = totals.get(each.second, 0) + (each.count if each.version else 0)
    versions = sorted({*_versions(run), *(v for change in run.changes for v in change.shares)})
    lines = []
    for colour, version in _coloured(versions):
        counts = {each.second: each.count for each in run.series if each.version == version}
        got = [
            (s + 0.5, counts.get(s, 0) / total if total else math.nan) for s, total in sorted(totals.items())
        ]
        lines.append(Line(version, got, colour))
        lines.append(Line("configured", _configured(run, version), colour, dashed=True, step=True))
    return Chart(
        "Share of answers by version",
        "seconds",
        "share",
        _seconds(run),
        Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP),
        lines,
        linear_ticks(_end(run)),
        [(each / 4, f"{25 * each} %") for each in range(5)],
        marks(run.changes),
    )


def marks(changes: Sequence[Change]) -> list[tuple[float, str]]:
    """Return the moments at which changes were confirmed, and what they were."""
    return [(each.at_s, f"{each.at_s:.1f} s: {each.what}") for each in changes]


def _configured(run: Run, version: str) -> Points:
    told = [(each.at_s, each.shares.get(version, 0.0)) for each in run.changes if each.shares]
    return [*told, (_end(run), told[-1][1])] if told else []


def _points(run: Run, of: Sequence[Second], name: str) -> Points:
    values = {each.second: getattr(each, name) for each in of}
    every = [(second, values.get(second)) for second in range(math.ceil(_end(run)))]
    return [(second + 0.5, math.nan if value is None else value) for second, value in every]


def _versions(run: Run) -> list[str]:
    return sorted({each.version for each in run.series if each.version})


def _coloured(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(COLOURS[number % len(COLOURS)], name) for number, name in enumerate(names)]


def _end(run: Run) -> float:
    return max(run.phases[-1].ended_s if run.phases else 0.0, 1.0)


def _seconds(run: Run) -> Scale:
    return Scale(0.0, _end(run), LEFT, WIDTH - RIGHT)


def _milliseconds(high: float) -> Scale:
    return Scale(LOW_MS, _above(high), HEIGHT - BOTTOM, TOP, log=True)


def _above(high: float) -> float:
    return max(10.0, high * 1.2)


def _rarity(percentile: float) -> float:
    return 1 / (1 - percentile / 100)
