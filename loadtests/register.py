"""Did the live version behave as a register: one value, that every request after a write reads?

A switch is a write, a request is a read, and which version answered is the value. The judgement takes
only what clients saw, by one clock: when each began, when it ended, what came of it. A switch whose
answer was lost may have happened at any time from its submission on, or never, as in Jepsen
(https://jepsen.io/consistency): both are possible until a later switch is confirmed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

SHOWN_MAX = 5
"""Violations of one kind that are told in words; all are counted."""


class Outcome(IntEnum):
    """What became of a request."""

    OK = 0
    FAILED = 1
    """It was answered with an error, wrongly, or not in time."""
    LOST = 2
    """Its connection was closed or reset before the answer was there."""


class Request(NamedTuple):
    """A read. Times are of `time.monotonic_ns`, versions are 0 where there was none.

    `claimed` is the answer's ``model_version``, `routed` what its ``turnout-route`` says, `true` what the
    model itself computed. `connection` is the client's number, which has one request at a time.
    """

    start_ns: int
    end_ns: int
    outcome: Outcome
    claimed: int
    routed: int
    true: int
    connection: int


@dataclass(frozen=True, slots=True)
class Switch:
    """A write. `acknowledged_ns` is None if no answer came, `confirmed` is the receipt's word.

    `before` is the version that was thought to be live; only the first switch's counts. `killed` says
    that a replica was ended for it, between its submission and its answer.
    """

    submitted_ns: int
    acknowledged_ns: int | None
    before: int
    after: int
    confirmed: bool = True
    atomic: bool = False
    killed: bool = False

    @property
    def certain(self) -> bool:
        """Whether it holds everywhere from its answer on."""
        return self.acknowledged_ns is not None and self.confirmed


class Kill(NamedTuple):
    """A span in which a process was killed, so that connections with it were lost."""

    from_ns: int
    until_ns: int


class Kind(StrEnum):
    """How a gateway can be wrong."""

    STALE = "stale"
    """Answered by a version that could not be live any more, or not yet."""
    FAILED = "failed"
    """Not answered: an error, or a connection lost although nothing was killed."""
    MISLABELLED = "mislabelled"
    """Answered by another version than the answer says."""
    INVERSION = "inversion"
    """Answered by the older version after an earlier request had seen the newer one of an atomic switch."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker found. `lost` are excused by kills, up to one for each connection and kill.

    `decisive` are the answered requests that only one version could have answered: without any, a
    verdict of no violations says nothing. `proven` are the switches after whose confirmation at least
    one such request began before the next switch.
    """

    requests: int
    switches: int
    counts: Mapping[Kind, int]
    shown: Mapping[Kind, Sequence[str]]
    lost: int
    lost_max: int
    decisive: int
    proven: int
    uncertain: int
    """Switches whose answer was lost, or was not confirmed."""

    @property
    def holds(self) -> bool:
        """Whether there was no violation of any kind."""
        return not any(self.counts.values())

    def __str__(self) -> str:
        counts = ", ".join(f"{self.counts[kind]} {kind}" for kind in Kind)
        summary = (
            f"{self.requests} requests ({self.decisive} decisive), {self.switches} switches "
            f"({self.proven} proven, {self.uncertain} uncertain): {counts}; "
            f"{self.lost} lost of at most {self.lost_max}"
        )
        return "\n  ".join([summary, *(line for kind in Kind for line in self.shown[kind])])


@dataclass(slots=True)
class _Findings:
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    shown: dict[Kind, list[str]] = field(default_factory=lambda: {kind: [] for kind in Kind})

    def add(self, kind: Kind, request: Request, origin_ns: int, what: str) -> None:
        self.counts[kind] += 1
        if len(self.shown[kind]) < SHOWN_MAX:
            start_ms, end_ms = ((at - origin_ns) / 1e6 for at in request[:2])
            self.shown[kind].append(
                f"{kind}: the request of {start_ms:.3f} to {end_ms:.3f} ms on connection "
                f"{request.connection} {what}"
            )


class Timeline:
    """Which version can have been live when. States are numbered: 0 before the first switch, i after the ith.

    Raises
    ------
    ValueError
        If a switch was submitted before the one before it was answered: then their order is unknown.
    """

    def __init__(self, switches: Sequence[Switch]) -> None:
        for earlier, later in pairwise(switches):
            if later.submitted_ns < (earlier.acknowledged_ns or earlier.submitted_ns):
                raise ValueError("switches must be one after the other")
        self.versions = [switches[0].before if switches else 0, *(switch.after for switch in switches)]
        self._submitted = [switch.submitted_ns for switch in switches]
        certain = [(n, switch) for n, switch in enumerate(switches, 1) if switch.certain]
        self.certain_ns = [switch.acknowledged_ns or 0 for _, switch in certain]
        self._certain = [0, *(number for number, _ in certain)]
        self._states: dict[int, list[int]] = {}
        for state, version in enumerate(self.versions):
            self._states.setdefault(version, []).append(state)
        self._seen = [0]
        for number, switch in enumerate(switches, 1):
            self._seen.append(number if switch.atomic else self._seen[-1])

    def span(self, request: Request) -> tuple[int, int]:
        """Return the first and the last state in which the gateway can have been during `request`."""
        first = self._certain[bisect_left(self.certain_ns, request.start_ns)]
        return first, max(first, bisect_right(self._submitted, request.end_ns))

    def state(self, version: int, first: int, last: int) -> int | None:
        """Return the first state from `first` to `last` in which `version` is live."""
        states = self._states.get(version, [])
        at = bisect_left(states, first)
        return states[at] if at < len(states) and states[at] <= last else None

    def seen(self, state: int) -> int:
        """Return the state before which nobody may be answered any more once somebody was in `state`."""
        return self._seen[state]

    def possible(self, first: int, last: int) -> str:
        """Name the versions of the states from `first` to `last`."""
        return " or ".join(sorted({str(version) for version in self.versions[first : last + 1]}))


def judge(requests: Iterable[Request], switches: Sequence[Switch], kills: Sequence[Kill] = ()) -> Verdict:
    """Judge a history, in the time of sorting it. See `Timeline` for what it must be like."""
    ordered = sorted(requests)
    timeline, found = Timeline(switches), _Findings()
    origin_ns = ordered[0].start_ns if ordered else 0
    answered = [request for request in ordered if request.outcome is Outcome.OK]
    for request in answered:
        if not request.claimed == request.routed == request.true:
            what = f"was answered by {request.true}, as {request.claimed}, routed to {request.routed}"
            found.add(Kind.MISLABELLED, request, origin_ns, what)
    decisive, proven = _read(answered, timeline, found, origin_ns)
    every = [*kills, *_kills(switches)]
    excused = _lost(ordered, every, found, origin_ns)
    return Verdict(
        requests=len(ordered),
        switches=len(switches),
        counts=found.counts,
        shown=found.shown,
        lost=excused,
        lost_max=len(every) * len({request.connection for request in ordered}),
        decisive=decisive,
        proven=len(proven),
        uncertain=sum(not switch.certain for switch in switches),
    )


def _read(
    answered: Sequence[Request], timeline: Timeline, found: _Findings, origin_ns: int
) -> tuple[int, set[int]]:
    """Give each read the earliest state that explains it, and find those that none does.

    The earliest is best: what a read requires of later ones only grows with its state.
    """
    decisive, proven = 0, set[int]()
    seen, ended = 0, list[tuple[int, int]]()
    for request in answered:
        while ended and ended[0][0] < request.start_ns:
            seen = max(seen, heappop(ended)[1])
        first, last = timeline.span(request)
        if first == last:
            decisive += 1
            proven.add(first)
        state = timeline.state(request.true, max(first, seen), last)
        if state is None:
            state = timeline.state(request.true, first, last)
            if state is None:
                what = f"was answered by {request.true}, and only {timeline.possible(first, last)} could be"
                found.add(Kind.STALE, request, origin_ns, what)
                continue
            newer = timeline.versions[seen]
            what = f"was answered by {request.true} after another had seen switch {seen} to {newer}"
            found.add(Kind.INVERSION, request, origin_ns, what)
        heappush(ended, (request.end_ns, timeline.seen(state)))
    return decisive, proven - {0}


def _kills(switches: Iterable[Switch]) -> list[Kill]:
    return [
        Kill(switch.submitted_ns, switch.acknowledged_ns)
        for switch in switches
        if switch.killed and switch.acknowledged_ns is not None
    ]


def _lost(ordered: Iterable[Request], kills: Sequence[Kill], found: _Findings, origin_ns: int) -> int:
    """Count the lost requests that kills excuse; what they do not excuse has failed.

    A kill takes at most one request of each connection, and a lost request is excused by one kill.
    """
    by_end = sorted(kills, key=lambda kill: kill.until_ns)
    used, excused = set[tuple[int, int]](), 0
    for request in ordered:
        if request.outcome is Outcome.FAILED:
            found.add(Kind.FAILED, request, origin_ns, "failed")
        elif request.outcome is Outcome.LOST:
            for number, kill in enumerate(by_end):
                mine = (request.connection, number)
                meets = kill.from_ns <= request.end_ns and request.start_ns <= kill.until_ns
                if meets and mine not in used:
                    used.add(mine)
                    excused += 1
                    break
            else:
                found.add(Kind.FAILED, request, origin_ns, "was lost, and no process was killed then")
    return excused
