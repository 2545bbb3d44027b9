"""What came back, by model, version and phase?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from loadtests.hdr import Histogram

UNKNOWN = ""
"""The version of a request that failed without saying who failed it."""


class Cell(NamedTuple):
    """What is counted apart."""

    model: str
    version: str
    phase: str


@dataclass(slots=True)
class Reading:
    """Counts of requests that were sent, and how long those took that were answered rightly.

    `count` is of all of them, those with errors included; `histogram` has the others alone, because an
    error that comes at once would make a gateway look fast.
    """

    count: int = 0
    errors: int = 0
    stale: int = 0
    histogram: Histogram = field(default_factory=Histogram)

    def __add__(self, other: Reading) -> Reading:
        return Reading(
            self.count + other.count,
            self.errors + other.errors,
            self.stale + other.stale,
            Histogram().merge(self.histogram).merge(other.histogram),
        )

    @property
    def right(self) -> int:
        """How many were answered rightly."""
        return self.count - self.errors

    @property
    def error_rate(self) -> float:
        """Which share was not; 0 of none."""
        return self.errors / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Readings:
    """All cells, and how long each phase took, in the order of the phases."""

    cells: Mapping[Cell, Reading]
    phases_s: Mapping[str, float]

    def __post_init__(self) -> None:
        if missing := sorted({cell.phase for cell in self.cells} - set(self.phases_s)):
            raise ValueError(f"phase {missing[0]!r} has requests and no duration")

    def names(self, place: str) -> list[str]:
        """Return the names that a place of a cell takes, those of which nothing is known left out."""
        if place == "phase":
            return list(self.phases_s)
        return sorted({name for cell in self.cells if (name := getattr(cell, place)) != UNKNOWN}, key=_order)

    def together(self, cells: Iterable[Cell]) -> Reading:
        """Return some cells as one reading."""
        return sum((self.cells[cell] for cell in cells), Reading())


def _order(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else 0, name)
