"""Were the promises kept? One line for each that was not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from loadtests.slo.promise import EACH, PLACES, TOGETHER, Promise, Quantity, Slo
from loadtests.slo.reading import Cell, Reading, Readings

WORDS = {
    Quantity.P50: "p50",
    Quantity.P95: "p95",
    Quantity.P99: "p99",
    Quantity.P999: "p99.9",
    Quantity.ERRORS: "error rate",
    Quantity.STALE: "stale answers",
    Quantity.THROUGHPUT: "throughput",
    Quantity.ANSWERS: "requests",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One bound at one place, and what was measured there. NaN: there was nothing to measure."""

    at: Cell
    quantity: Quantity
    bound: float
    measured: float

    @property
    def kept(self) -> bool:
        """Whether the promise was kept; what could not be measured was not."""
        return self.measured >= self.bound if self.quantity.least else self.measured <= self.bound

    @property
    def line(self) -> str:
        """What was promised and what came of it, in one line."""
        word = WORDS[self.quantity]
        promised = (
            f"promised {'at least' if self.quantity.least else 'at most'} {_with_unit(self, self.bound)}"
        )
        if math.isnan(self.measured):
            return f"{where(self.at)}: {word}: no right answer to measure; {promised}"
        return f"{where(self.at)}: {word} {_with_unit(self, self.measured)}; {promised}"


Broken = Check
"""A check that was not kept."""


def verdict(slo: Slo, readings: Readings) -> list[Broken]:
    """Return the promises that were broken, in their order; none is a yes."""
    return [check for check in checks(slo, readings) if not check.kept]


def checks(slo: Slo, readings: Readings) -> list[Check]:
    """Hold every promise against what was read."""
    found: dict[tuple[Cell, Quantity, float], Check] = {}
    for promise in slo.promises:
        for check in _checks(slo, promise, readings):
            found.setdefault((check.at, check.quantity, check.bound), check)
    return list(found.values())


def untested(slo: Slo, readings: Readings) -> list[str]:
    """Return the phases of which something is promised and that there were not."""
    named = dict.fromkeys(each.phase for each in slo.promises)
    return [name for name in named if name not in (EACH, TOGETHER, *readings.phases_s)]


def _checks(slo: Slo, promise: Promise, readings: Readings) -> Iterator[Check]:
    if promise.phase in untested(slo, readings):
        return
    names = [_names(getattr(promise, place), readings.names(place)) for place in PLACES]
    for at in (Cell(*each) for each in product(*names)):
        if not _together(at, readings).count:
            # Not every version answers in every phase; what is named, or is all, was to be measured.
            if EACH not in (promise.model, promise.version):
                yield Check(at, Quantity.ANSWERS, max(1.0, promise.bounds.get(Quantity.ANSWERS, 1.0)), 0.0)
            continue
        for quantity, bound in promise.bounds.items():
            if not any(_instead(other, promise, at, quantity) for other in slo.promises):
                yield Check(at, quantity, bound, measure(quantity, at, readings))


def where(at: Cell) -> str:
    """Name a place."""
    version = "" if at.version == TOGETHER else f"@{at.version}"
    model = "all models" if at.model == TOGETHER else at.model
    return f"{model}{version}, {'all phases' if at.phase == TOGETHER else at.phase}"


def measure(quantity: Quantity, at: Cell, readings: Readings) -> float:
    """Return what a quantity was at a place, NaN where there was no right answer to measure."""
    reading = _together(at, readings)
    if quantity.percentile is not None:
        return percentile_ms(reading, quantity.percentile)
    match quantity:
        case Quantity.ERRORS:
            return reading.error_rate
        case Quantity.STALE:
            return float(reading.stale)
        case Quantity.ANSWERS:
            return float(reading.count)
        case _:
            seconds = sum(s for phase, s in readings.phases_s.items() if at.phase in (TOGETHER, phase))
            return reading.right / seconds if seconds else 0.0


def percentile_ms(reading: Reading, percentile: float) -> float:
    """Return a percentile of the right answers, NaN if there were none."""
    return reading.histogram.quantile_ms(percentile / 100)


def _names(pattern: str, names: list[str]) -> list[str]:
    return names if pattern == EACH else [pattern]


def _instead(other: Promise, promise: Promise, at: Cell, quantity: Quantity) -> bool:
    """Say whether `other` names what `promise` means by `EACH`, and bounds the same there."""
    if other is promise or quantity not in other.bounds:
        return False
    told = [(getattr(other, place), getattr(promise, place), getattr(at, place)) for place in PLACES]
    same = all(mine == theirs or (theirs == EACH and mine == name) for mine, theirs, name in told)
    return same and any(mine != theirs for mine, theirs, _ in told)


def _together(at: Cell, readings: Readings) -> Reading:
    return readings.together(cell for cell in readings.cells if _matches(at, cell))


def _matches(at: Cell, cell: Cell) -> bool:
    return all(wanted in (TOGETHER, name) for wanted, name in zip(at, cell, strict=True))


def _with_unit(check: Check, number: float) -> str:
    if check.quantity.percentile is not None:
        return f"{number:.4g} ms"
    match check.quantity:
        case Quantity.ERRORS:
            return f"{100 * number:.3g} %"
        case Quantity.THROUGHPUT:
            return f"{number:.4g}/s"
        case _:
            return f"{number:g}"
