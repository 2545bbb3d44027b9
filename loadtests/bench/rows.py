"""What is one measured figure, and how are many of them shown and stored?"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from loadtests.bench.errors import BenchError


class Better(StrEnum):
    """Which side of a goal is the good one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that a figure has to keep."""

    bound: float
    better: Better = Better.HIGHER

    def met_by(self, value: float) -> bool:
        """Say whether `value` is on the good side, the bound itself included."""
        return value >= self.bound if self.better is Better.HIGHER else value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.better is Better.HIGHER else "<="
        return f"{sign} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure. `goal` is about `value`; where that is a ratio, `against` names what it was divided by.

    `value` is None if it could not be measured, and then `note` says why.
    """

    name: str
    value: float | None
    unit: str
    goal: Goal | None = None
    against: str | None = None
    runs: tuple[float, ...] = ()
    """The single measurements of which `value` is the median."""
    p50_us: float | None = None
    p99_us: float | None = None
    note: str | None = None

    @property
    def missed(self) -> bool:
        """A goal that was not measured is not reached."""
        return self.goal is not None and (self.value is None or not self.goal.met_by(self.value))

    @property
    def verdict(self) -> str:
        """Say ``ok``, ``MISS``, or nothing where there is no goal."""
        if self.goal is None:
            return "" if self.value is not None else "not measured"
        return "MISS" if self.missed else "ok"


def ratio(name: str, over: Sequence[float], under: Sequence[float], against: str, goal: Goal | None) -> Row:
    """Divide what was measured in the same rounds, and take the median of the quotients.

    Neighbouring measurements share the noise of their minute, so it cancels in each quotient; the
    quotient of two medians would keep it.
    """
    assert len(over) == len(under) > 0, "paired measurements come in equal numbers"
    quotients = tuple(a / b for a, b in zip(over, under, strict=True) if b > 0)
    if len(quotients) < len(under):
        return Row(name, None, "ratio", goal, against, quotients, note=f"{against} was 0 in a round")
    return Row(name, statistics.median(quotients), "ratio", goal, against, quotients)


def or_reason(rows: Iterator[Row], name: str, unit: str, goal: Goal | None) -> Iterator[Row]:
    """Pass `rows` on; where they cannot be measured, the figure `name` says why and its goal is missed."""
    try:
        yield from rows
    except BenchError as error:
        yield Row(name, None, unit, goal, note=str(error))


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Turn rows into plain objects; what a row does not have is left out, but for its value."""
    return [_plain(row) for row in rows]


def _plain(row: Row) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for each in fields(row):
        value = getattr(row, each.name)
        match value:
            case Goal(bound, better):
                plain |= {"goal": bound, "better": better.value}
            case None | () if each.name != "value":
                continue
            case _:
                plain[each.name] = list(value) if isinstance(value, tuple) else value
    return plain


def write(rows: Iterable[Row], path: Path) -> None:
    """Store the rows as the list of objects that every benchmark of the project writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(rows), indent=1) + "\n")


def tell(rows: Iterable[Row]) -> Iterator[Row]:
    """Print each figure as it is measured."""
    for row in rows:
        print(*filter(None, (row.name, figure(row.value), row.unit, row.verdict, row.note)), flush=True)
        yield row


def table(rows: Iterable[Row]) -> str:
    """Lay rows out for a terminal, one a line."""
    cells: list[tuple[str, ...]] = [("name", "value", "unit", "p50/p99 us", "goal", "")]
    cells += [_line(row) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column == 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _line(row: Row) -> tuple[str, ...]:
    latency = f"{row.p50_us:.0f}/{row.p99_us:.0f}" if row.p50_us and row.p99_us else ""
    goal = str(row.goal) if row.goal else ""
    last = " ".join(filter(None, (row.verdict, row.note)))
    return (row.name, figure(row.value), row.unit, latency, goal, last)


def figure(value: float | None) -> str:
    """Write a number with three significant digits, or all of them where it has more before the point."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
