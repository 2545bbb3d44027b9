"""What has come back until now, in which phase, and was any of it by a route that had been replaced?"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from loadtests.locusts.asking import Told
from loadtests.slo.reading import Cell, Reading, Readings
from loadtests.slo.results import Change, Mistake, Phase, Run, Second

MISTAKES_MAX = 100
"""How many kinds of errors are told apart; what comes later of other kinds is one more."""
OTHER = "other errors"


@dataclass(slots=True)
class _Moment:
    """What was sent in one second of a phase and came back by one version; times of right answers alone."""

    count: int = 0
    stale: int = 0
    times_ns: array[int] = field(default_factory=lambda: array("q"))


class Book:
    """Counts answers as they come. Of one thread; `now_s` is a clock that never goes back.

    It keeps 8 bytes a request: a histogram for every second would be more.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._began_s = 0.0
        self._ended_s: float | None = None
        self._phases: list[str] = []
        self._phases_s: list[float] = []
        self._confirmed_s: list[float] = []
        self._revisions: list[int] = []
        self._changes: list[Change] = []
        self._moments: dict[tuple[int, Cell], _Moment] = {}
        self._mistakes: Counter[tuple[str, str]] = Counter()

    def __repr__(self) -> str:
        count = sum(each.count for each in self._moments.values())
        return f"<Book: {count} requests, {len(self._phases)} phases, {len(self._changes)} changes>"

    def begin(self, phase: str) -> None:
        """Begin a phase, which ends the one before. What is sent before the first does not count."""
        now_s = self._now_s()
        if not self._phases:
            self._began_s = now_s
        self._phases.append(phase)
        self._phases_s.append(now_s)

    def end(self) -> None:
        """End the last phase. What was sent before and comes back later still counts."""
        self._ended_s = self._now_s()

    def confirm(
        self, asked_s: float, what: str, revision: int, shares: dict[str, float], *, route: bool = True
    ) -> None:
        """Note that a change was confirmed just now; `route`: answers must be by it from now on."""
        now_s = self._now_s()
        if route:
            self._confirmed_s.append(now_s)
            self._revisions.append(max([revision, *self._revisions[-1:]]))
        at_s = now_s - self._began_s
        change = Change(
            at_s, asked_s - self._began_s, self._phases[-1], what, revision, confirmed=True, shares=shares
        )
        self._changes.append(change)

    def take(self, model: str, sent_s: float, ms: float, told: Told) -> None:
        """Note how a request came back that was sent at `sent_s`, by the same clock."""
        at = bisect_right(self._phases_s, sent_s) - 1
        if at < 0 or (self._ended_s is not None and sent_s >= self._ended_s):
            return
        cell = Cell(model, told.version, self._phases[at])
        moment = self._moments.setdefault((int(sent_s - self._began_s), cell), _Moment())
        moment.count += 1
        moment.stale += self._is_stale(sent_s, told.revision)
        if told.error:
            kind = cell.phase, told.error
            known = kind in self._mistakes or len(self._mistakes) < MISTAKES_MAX
            self._mistakes[kind if known else (cell.phase, OTHER)] += 1
        else:
            moment.times_ns.append(round(ms * 1e6))

    def _is_stale(self, sent_s: float, revision: int | None) -> bool:
        confirmed = bisect_left(self._confirmed_s, sent_s)
        return bool(confirmed) and revision is not None and revision < self._revisions[confirmed - 1]

    def run(self, machine: str, what: str, failures: tuple[str, ...] = ()) -> Run:
        """Return what came of it until now."""
        ended_s = self._now_s() if self._ended_s is None else self._ended_s
        ends_s = [*self._phases_s[1:], ended_s]
        phases = tuple(
            Phase(name, began_s - self._began_s, end_s - self._began_s)
            for name, began_s, end_s in zip(self._phases, self._phases_s, ends_s, strict=False)
        )
        mistakes = tuple(Mistake(*kind, count) for kind, count in self._mistakes.most_common())
        changes = tuple(self._changes)
        return Run(machine, what, phases, changes, self._series(), self._readings(phases), mistakes, failures)

    def _readings(self, phases: tuple[Phase, ...]) -> Readings:
        seconds: dict[str, float] = {}
        for phase in phases:
            seconds[phase.name] = seconds.get(phase.name, 0.0) + phase.ended_s - phase.began_s
        order = list(seconds)
        cells = sorted({cell for _, cell in self._moments}, key=lambda each: (order.index(each.phase), each))
        made = {cell: _reading(m for (_, at), m in self._moments.items() if at == cell) for cell in cells}
        return Readings(made, seconds)

    def _series(self) -> tuple[Second, ...]:
        grouped: dict[tuple[int, str], list[_Moment]] = {}
        for (second, cell), moment in self._moments.items():
            grouped.setdefault((second, cell.version), []).append(moment)
        return tuple(_second(*key, _reading(grouped[key])) for key in sorted(grouped))


def _reading(moments: Iterable[_Moment]) -> Reading:
    made = Reading()
    for each in moments:
        made.count += each.count
        made.errors += each.count - len(each.times_ns)
        made.stale += each.stale
        made.histogram.record_many(np.frombuffer(each.times_ns, np.int64))
    return made


def _second(second: int, version: str, reading: Reading) -> Second:
    if not reading.right:
        return Second(second, version, reading.count, reading.errors, None, None)
    p50_ms, p99_ms = (reading.histogram.quantile_ms(each) for each in (0.5, 0.99))
    return Second(second, version, reading.count, reading.errors, p50_ms, p99_ms)
