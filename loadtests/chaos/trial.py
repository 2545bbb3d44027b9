"""What was seen of one fault: everything that the promises are held against?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from loadtests.chaos.history import Asked, Fate
from loadtests.register import Kind, Outcome, Request, Switch, Verdict, judge
from loadtests.switching import gaps

GRACE_NS = 50_000_000
"""For so long after a process was killed a client may still send on a connection with it."""
TOLD_NS = 500_000_000
"""For so long after it a busy client may take to notice that its connection broke."""
UNANSWERED = Fate.LOST, Fate.LATE


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that was ended, and the client's ports that it had connections with.

    `from_ns` is when it answered nobody any more, `until_ns` when it was dead. Ports are None of several that
    were all that answered: whatever connection broke by the death of the last was one of theirs.
    """

    from_ns: int
    until_ns: int
    ports: frozenset[int] | None = frozenset()

    def takes(self, asked: Asked) -> bool:
        """Say whether a request was in flight on it."""
        meets = asked.start_ns <= self.until_ns + GRACE_NS and asked.end_ns >= self.from_ns
        if self.ports is None:
            return asked.fate is Fate.LOST and meets and asked.end_ns <= self.until_ns + TOLD_NS
        return asked.fate in UNANSWERED and asked.port in self.ports and meets


class Kept(NamedTuple):
    """An entry of the journal, as far as a receipt can say what it must be."""

    revision: int
    why: str
    change: Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """A fault, and what clients, the journal and the system said.

    Attributes
    ----------
    began_ns, healed_ns, whole_ns : int
        When it struck, when its cause was taken away (the same, if it was not), and when all was as before:
        None if it was not in time.
    gap_s_max : float
        How long nobody may be without an answer.
    memory_bytes_max : int
        By how much memory may grow.
    entries : sequence of Kept
        The journal afterwards.
    chain : str
        What is wrong with it; empty if it is verified.
    """

    fault: str
    how: str
    requests: Sequence[Asked]
    switches: Sequence[Switch]
    receipts: Sequence[Mapping[str, Any]]
    entries: Sequence[Kept]
    began_ns: int
    healed_ns: int
    whole_ns: int | None
    gap_s_max: float
    memory_bytes_max: int
    memory_before: int = 0
    memory_high: int = 0
    victims: Sequence[Victim] = ()
    chain: str = ""
    note: str = ""

    @cached_property
    def failed(self) -> list[Asked]:
        """Return the requests that got no right answer."""
        return [each for each in self.requests if each.fate not in (Fate.ANSWERED, Fate.MIXED)]

    @cached_property
    def unexcused(self) -> list[Asked]:
        """Return those that were not in flight on what was killed."""
        return [each for each in self.failed if not any(victim.takes(each) for victim in self.victims)]

    @cached_property
    def verdict(self) -> Verdict:
        """Return what the register's checker makes of the answers."""
        answers = [
            Request(each.start_ns, each.end_ns, Outcome.OK, each.claimed, each.routed, each.true, each.port)
            for each in self.requests
            if each.fate in (Fate.ANSWERED, Fate.MIXED)
        ]
        return judge(answers, self.switches)

    @property
    def stale(self) -> int:
        """Count the answers by a version that could not be live any more, or not yet."""
        return self.verdict.counts[Kind.STALE]

    @property
    def mixed(self) -> int:
        """Count the answers that were another request's or another version's than they said."""
        of_others = sum(each.fate is Fate.MIXED for each in self.requests)
        return of_others + self.verdict.counts[Kind.MISLABELLED]

    @cached_property
    def lost(self) -> list[str]:
        """Say of which receipts the journal has not exactly the entry that they acknowledge."""
        by_why: dict[str, list[Kept]] = {}
        for entry in self.entries:
            by_why.setdefault(entry.why, []).append(entry)
        wrong = []
        for receipt in self.receipts:
            revision, why = receipt["revision"], receipt["why"]
            found = by_why.get(why, [])
            if [(each.revision, each.change) for each in found] != [(revision, receipt["change"])]:
                there = ", ".join(str(each.revision) for each in found) or "nowhere"
                wrong.append(f"revision {revision} ({why}) is in the journal at {there}")
        return wrong

    @cached_property
    def gap_s(self) -> float:
        """Return the longest time between two answers from the fault on; to the end, if none came."""
        ends = sorted(each.end_ns for each in self.requests if each.fate is Fate.ANSWERED)
        over_ns = max((each.due_ns for each in self.requests), default=self.began_ns)
        if not ends or ends[-1] < self.began_ns:
            return (over_ns - self.began_ns) / 1e9
        whole = [min(ends[0], self.began_ns), *ends, max(ends[-1], over_ns)]
        return (gaps.longest_ns(whole, (self.began_ns, over_ns)) or 0) / 1e9

    @property
    def whole_s(self) -> float | None:
        """Return the seconds until everything was as before."""
        return None if self.whole_ns is None else max(0, self.whole_ns - self.healed_ns) / 1e9

    @property
    def memory_grown(self) -> int:
        """Return by how many bytes the gateway's memory grew at most."""
        return max(0, self.memory_high - self.memory_before)
