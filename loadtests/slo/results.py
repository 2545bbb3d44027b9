"""What is kept of a load test? One document, from which every report is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from loadtests.slo.promise import Slo
from loadtests.slo.reading import Readings
from loadtests.slo.verdict import Check, checks, untested


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the scenario, in seconds from the beginning."""

    name: str
    began_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """A moment from which something was different, by a receipt that said so.

    `at_s` is when the receipt came, `asked_s` when it was asked for. `shares` is what the model's traffic
    was to be from then on, by version.
    """

    at_s: float
    asked_s: float
    phase: str
    what: str
    revision: int
    confirmed: bool
    shares: dict[str, float]


@dataclass(frozen=True, slots=True)
class Second:
    """What requests that were sent in one second came to, by version."""

    second: int
    version: str
    count: int
    errors: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Mistake:
    """An error that requests of one phase had, and how many."""

    phase: str
    error: str
    count: int


@dataclass(frozen=True, slots=True)
class Run:
    """A load test that has ended. `failures` are steps of the scenario that did not come about."""

    machine: str
    what: str
    phases: tuple[Phase, ...]
    changes: tuple[Change, ...]
    series: tuple[Second, ...]
    readings: Readings
    mistakes: tuple[Mistake, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.phases[-1].ended_s - self.phases[0].began_s if self.phases else 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """A load test and what was promised of it. `untested` are phases of promises that there were not."""

    run: Run
    checks: tuple[Check, ...]
    untested: tuple[str, ...] = ()

    @property
    def broken(self) -> list[str]:
        """One line for each broken promise, and for each step that did not come about."""
        return [*self.run.failures, *(check.line for check in self.checks if not check.kept)]

    @property
    def ok(self) -> bool:
        """Whether it is a yes; of nothing that was promised and tested there is none."""
        return bool(self.checks) and not self.broken

    @property
    def line(self) -> str:
        """The verdict, in one line."""
        total = self.run.readings.together(self.run.readings.cells)
        told = (
            f"{total.count} requests in {self.run.seconds:.0f} s, {total.errors} errors, {total.stale} stale"
        )
        kept = f"{sum(check.kept for check in self.checks)} of {len(self.checks)} promises kept"
        steps = f", {len(self.run.failures)} steps failed" if self.run.failures else ""
        left = f"; not tested: {', '.join(self.untested)}" if self.untested else ""
        return f"load test: {'YES' if self.ok else 'NO'}: {kept}{steps}; {told}{left}"

    def document(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        run = self.run
        return {
            "machine": run.machine,
            "what": run.what,
            "phases": [_plain(each) for each in run.phases],
            "changes": [_plain(each) for each in run.changes],
            "series": [_plain(each) for each in run.series],
            "totals": [
                {
                    **cell._asdict(),
                    "count": reading.count,
                    "errors": reading.errors,
                    "stale": reading.stale,
                    "histogram": reading.histogram.document(),
                }
                for cell, reading in run.readings.cells.items()
            ],
            "errors": [_plain(each) for each in run.mistakes],
            "promises": [_check(each) for each in self.checks],
            "untested": list(self.untested),
            "broken": self.broken,
            "ok": self.ok,
        }


def judge(slo: Slo, run: Run) -> Judged:
    """Hold a load test against its promises."""
    return Judged(run, tuple(checks(slo, run.readings)), tuple(untested(slo, run.readings)))


def _plain(record: Phase | Change | Second | Mistake) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _check(check: Check) -> dict[str, Any]:
    measured = None if math.isnan(check.measured) else check.measured
    promised = {"quantity": str(check.quantity), "bound": check.bound, "measured": measured}
    return {**check.at._asdict(), **promised, "kept": check.kept, "line": check.line}
