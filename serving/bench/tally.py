"""What came of the requests: how many, how late, by which version, and which of them were stale?"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.bench.hdr import Histogram
from serving.bench.outcomes import MIXED, TIMEOUT, Outcome

Integers = NDArray[np.int64]

NEVER_SENT = -1
HELD_S_MAX = 10.0
"""How late a change may be told, and still find the stale answers after it."""
CHANGES_MAX = 10_000
PHASES_MAX = 1000


class Change(NamedTuple):
    """A confirmed change of traffic: what is sent after `at_ns` gets this revision or a later one."""

    at_ns: int
    revision: int
    what: str = ""


@dataclass(slots=True)
class Total:
    """What came of the requests of one phase to one version; of no version if there was no such answer.

    `latency` is from the moment when a request was due, of good answers and of those never answered in
    time, with their age. `service` is of good answers, from the moment when the request was sent.
    """

    count: int = 0
    errors: int = 0
    stale: int = 0
    latency: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)

    def merge(self, other: Total) -> None:
        """Add another one's."""
        self.count += other.count
        self.errors += other.errors
        self.stale += other.stale
        self.latency.merge(other.latency)
        self.service.merge(other.service)


@dataclass(frozen=True, slots=True)
class Moment:
    """One version in one second, by when its requests were due."""

    second: int
    version: str
    count: int
    errors: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(slots=True)
class Recent:
    """What was answered since the last time this was asked for."""

    count: int = 0
    errors: int = 0
    latency: Histogram = field(default_factory=Histogram)
    versions: Counter[str] = field(default_factory=Counter)


class Tally:
    """Counts of one run. Changes and phases may be told by another thread meanwhile.

    Parameters
    ----------
    model : str
    outcomes : sequence of Outcome
        By code; it may grow.
    from_ns : int
        What was due before is warming up, and does not count.
    settled_s : float
        After how long nothing of a second is still to come.
    """

    def __init__(
        self,
        model: str,
        outcomes: Sequence[Outcome],
        from_ns: int,
        settled_s: float,
        *,
        watched: bool = False,
    ) -> None:
        self._model, self._outcomes = model, outcomes
        self.from_ns, self._settled_s = from_ns, settled_s
        self._lock = threading.Lock()
        self._changes: list[Change] = []
        self._phases: list[tuple[int, str]] = [(0, "")]
        self._held: deque[tuple[int, Integers, Integers, Integers]] = deque()
        self._open: dict[tuple[int, str], Total] = {}
        self.series: list[Moment] = []
        self.totals: dict[tuple[str, str], Total] = {}
        self.outcomes: Counter[str] = Counter()
        self._watched = watched
        self._recent = Recent()

    @property
    def changes(self) -> list[Change]:
        """The changes that were told, earliest first."""
        with self._lock:
            return sorted(self._changes)

    def changed(self, at_ns: int, model: str, revision: int, what: str = "") -> None:
        """Tell of a change that was confirmed at `at_ns`, by `time.perf_counter_ns`, at most 10 s ago."""
        if model == self._model:
            with self._lock:
                if len(self._changes) < CHANGES_MAX:
                    self._changes.append(Change(at_ns, revision, what))

    def phase(self, now_ns: int, name: str) -> None:
        """Let what is due from now on count for another phase."""
        with self._lock:
            if len(self._phases) < PHASES_MAX:
                self._phases.append((now_ns, name))

    @property
    def phases(self) -> list[tuple[int, str]]:
        """When each phase began, and its name."""
        with self._lock:
            return list(self._phases)

    def add(self, due: Integers, sent: Integers, done: Integers, code: Integers) -> None:
        """Count requests, (n,) each: three moments in nanoseconds, and the code of what came of it.

        `sent` is `NEVER_SENT` where it was not.
        """
        if len(due) and int(due.min()) < self.from_ns:
            due, sent, done, code = (each[due >= self.from_ns] for each in (due, sent, done, code))
        if not len(due):
            return
        phases = self.phases
        begun = np.array([at for at, _ in phases], np.int64)
        phase = np.maximum(np.searchsorted(begun, due, side="right") - 1, 0)
        second = (due - self.from_ns) // 1_000_000_000
        key = (second * len(phases) + phase) * len(self._outcomes) + code
        for each in np.unique(key).tolist():
            chosen = key == each
            rest, which = divmod(each, len(self._outcomes))
            part = _part(self._outcomes[which], which, due[chosen], sent[chosen], done[chosen])
            self._count(phases[rest % len(phases)][1], rest // len(phases), self._outcomes[which], part)
        self._held.append((int(done.max()), sent.copy(), phase, code.copy()))
        self._settle(int(done.max()))

    def _count(self, phase: str, second: int, outcome: Outcome, part: Total) -> None:
        self.outcomes[outcome.what] += part.count
        self.totals.setdefault((phase, outcome.version), Total()).merge(part)
        self._open.setdefault((second, outcome.version), Total()).merge(part)
        if self._watched:
            self._recent.count += part.count
            self._recent.errors += part.errors
            self._recent.latency.merge(part.latency)
            self._recent.versions[outcome.version] += part.count - part.errors

    def recent(self) -> Recent:
        """Return what was counted since this was asked for last."""
        found, self._recent = self._recent, Recent()
        return found

    def _settle(self, now_ns: int) -> None:
        """Sum up the seconds of which nothing is still to come, and look for what was stale long ago."""
        while self._held and self._held[0][0] < now_ns - HELD_S_MAX * 1e9:
            self._judge(*self._held.popleft())
        over = (now_ns - self.from_ns) / 1e9 - self._settled_s - 2
        for key in [key for key in self._open if key[0] < over]:
            self.series.append(_moment(key, self._open.pop(key)))

    def finish(self) -> None:
        """Sum up everything; nothing is added afterwards."""
        while self._held:
            self._judge(*self._held.popleft())
        self.series += [_moment(key, total) for key, total in self._open.items()]
        self._open.clear()
        self.series.sort(key=lambda each: (each.second, each.version))

    def _judge(self, _done: int, sent: Integers, phase: Integers, code: Integers) -> None:
        changes = self.changes
        if not changes:
            return
        at = np.array([each.at_ns for each in changes], np.int64)
        needed = np.maximum.accumulate(np.array([0, *(each.revision for each in changes)], np.int64))
        given = np.array([each.revision for each in self._outcomes], np.int64)[code]
        stale = (given > 0) & (given < needed[np.searchsorted(at, sent, side="left")])
        phases = self.phases
        for which, where in zip(code[stale].tolist(), phase[stale].tolist(), strict=True):
            self.totals[phases[where][1], self._outcomes[which].version].stale += 1

    def whole(self) -> Total:
        """Return everything together."""
        made = Total()
        for each in self.totals.values():
            made.merge(each)
        return made


def _part(outcome: Outcome, code: int, due: Integers, sent: Integers, done: Integers) -> Total:
    part = Total(len(due), 0 if outcome.good else len(due))
    if outcome.good or code in (TIMEOUT, MIXED):
        part.latency.record_many(done - due)
    if outcome.good:
        part.service.record_many(done - sent)
    return part


def _moment(key: tuple[int, str], total: Total) -> Moment:
    p50, p99 = (milliseconds(total.latency.quantile_ns(q)) for q in (0.5, 0.99))
    return Moment(*key, total.count, total.errors, p50, p99)


def milliseconds(duration_ns: float) -> float | None:
    """Return nanoseconds in milliseconds, to the microsecond; None for NaN, which JSON has not got."""
    return None if math.isnan(duration_ns) else round(duration_ns / 1e6, 3)


def spread(histogram: Histogram) -> dict[str, Any]:
    """Return the usual figures of a histogram, in milliseconds."""
    named = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
    made: dict[str, Any] = {"count": histogram.count, "mean_ms": milliseconds(histogram.mean_ns)}
    made.update({f"{name}_ms": milliseconds(histogram.quantile_ns(q)) for name, q in named.items()})
    return {**made, "max_ms": milliseconds(histogram.max_ns) if histogram.count else None}
