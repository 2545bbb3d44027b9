"""When may the next batch be taken, so that a device never waits and requests share runs as late as possible?

A value in, a decision out: no clock, no lock, no thread. While a batch runs or is queued, the next is taken
only as long before the expected end of what is queued as it takes to get it there. Whoever comes while the
device works then waits for the run under way and for the one that takes it along. This is the continuous
batching of Orca (Yu et al., OSDI 2022, https://www.usenix.org/conference/osdi22/presentation/yu) for models
that answer in one run, where the next batch is the next iteration.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from serving.gpu.times import Times
from serving.waiting import NEVER_NS

DEPTH_MAX = 3
"""Batches under way: one that runs, one behind it, and one whose end nobody has told of yet."""
LEAD_NS_MIN, LEAD_NS_FIRST, LEAD_NS_MAX = 500_000, 2_000_000, 50_000_000
"""How long before the device would be idle the next batch is taken: at least, at first, at most."""
SHARE, SHARE_OF_SPREAD, SPREADS = 8, 4, 2
"""The lead is what the way to the device takes, smoothed, and two of its mean deviations (RFC 6298's way)."""
LATE_SHARE = 2
"""By which part of how late a batch was the next ones are earlier; that wears off by one part in 16 each."""
LATE_WEARS_OFF = 16
PATIENCE_NS = 1_000_000
"""How soon to look again where only somebody else's word can change anything. Timers tick in milliseconds."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A batch under way, from when it is taken until the device is done with it."""

    rows: int
    taken_ns: int
    follows: bool
    """Whether it was taken while others were under way."""
    launched_ns: int = 0


class Pace:
    """The clockwork of one device session, which may have several lanes.

    Parameters
    ----------
    times : Times
    batch_ns_max : int
        How long a run may take if fewer rows would take less; 0 for no limit.

    Attributes
    ----------
    lead_ns : int
        How long before the expected end of what is queued the next batch may be taken.
    late, late_ns : int
        How often, and for how long in all, the device was idle although somebody waited.
    """

    def __init__(self, times: Times, batch_ns_max: int = 0) -> None:
        self.times = times
        self._batch_ns_max = batch_ns_max or NEVER_NS
        self._under_way: deque[Ticket] = deque()
        self._idle_ns = 0
        self._refused = False
        self._way_ns = self._spread_ns = self._sooner_ns = 0
        self._expected: tuple[int, int] | None = None
        """What `_last` returns until something happens, if it does not depend on the time."""
        self.lead_ns = LEAD_NS_FIRST
        self.late = self.late_ns = 0

    def __repr__(self) -> str:
        lead_ms, late_ms = self.lead_ns / 1e6, self.late_ns / 1e6
        return f"<Pace: {len(self._under_way)} under way, lead {lead_ms:.1f} ms, {late_ms:.0f} ms late>"

    def when_ns(self, now_ns: int, *, full: bool = False) -> int:
        """Return when the next batch may be taken: a moment that is over by now, or is to come.

        One that is `full` already waits for nobody: only for the one ahead of it to run.
        """
        if not self._under_way:
            return 0
        start_ns, end_ns = self._last(now_ns)
        when_ns = start_ns - self._way_ns
        if not full:
            when_ns = max(when_ns, end_ns - self.lead_ns)
        if len(self._under_way) >= DEPTH_MAX:
            when_ns = max(when_ns, now_ns + PATIENCE_NS)
        return when_ns

    def refuse(self) -> None:
        """Note that somebody would have had a batch, and was told to wait."""
        self._refused = True

    def take(self, now_ns: int, rows: int) -> Ticket:
        """Note that a batch is on its way."""
        if not self._under_way and self._refused:  # It was kept waiting until the device had nothing to do.
            self._was_late(now_ns - self._idle_ns, rows)
            self._set_lead()
        self._refused = False
        ticket = Ticket(rows, now_ns, bool(self._under_way))
        self._under_way.append(ticket)
        self._expected = None
        return ticket

    def launched(self, ticket: Ticket, now_ns: int) -> None:
        """Note that a batch is queued on the device, and learn how long it takes to get there."""
        ticket.launched_ns = now_ns
        self._expected = None
        way_ns = min(now_ns - ticket.taken_ns + self.times.copy_ns(ticket.rows), LEAD_NS_MAX)
        if not self._way_ns:
            self._way_ns = way_ns
        self._spread_ns += (abs(way_ns - self._way_ns) - self._spread_ns) // SHARE_OF_SPREAD
        self._way_ns += (way_ns - self._way_ns) // SHARE
        self._sooner_ns -= self._sooner_ns // LATE_WEARS_OFF
        if ticket.follows and self._under_way[0] is ticket:  # The one before ended meanwhile.
            self._was_late(now_ns + self.times.copy_ns(ticket.rows) - self._idle_ns, ticket.rows)
        self._set_lead()

    def ended(self, ticket: Ticket, now_ns: int, *, learn: bool = True) -> None:
        """Note that the device is done with a batch; `learn` from it unless it failed."""
        self._expected = None
        if ticket in self._under_way:
            self._under_way.remove(ticket)
        before_ns, self._idle_ns = self._idle_ns, now_ns
        if not learn or not ticket.launched_ns:
            return
        if ticket.launched_ns + self.times.copy_ns(ticket.rows) <= before_ns:
            self.times.note(ticket.rows, now_ns - before_ns)
        else:
            self.times.bound(ticket.rows, now_ns - ticket.launched_ns)

    def rows_now(self, now_ns: int, expires_ns: int = 0) -> int:
        """Return how many rows a batch that is taken now may have.

        Fewer than there is room for where more would take longer than a batch may, or than the first of
        its requests can wait, if fewer would be in time.
        """
        rows_max = self.times.rows_max
        if self._batch_ns_max < NEVER_NS:
            rows_max = max(self.times.rows_within(self._batch_ns_max), 1)
        if not expires_ns:
            return rows_max
        free_ns = self._last(now_ns)[1] if self._under_way else 0
        start_ns = max(now_ns + self.lead_ns, free_ns)
        return min(self.times.rows_within(expires_ns - start_ns) or rows_max, rows_max)

    def _last(self, now_ns: int) -> tuple[int, int]:
        """Return when the last batch under way is expected to start, and to end."""
        if self._expected is not None:
            return self._expected
        start_ns, free_ns = 0, self._idle_ns
        for ticket in self._under_way:
            start_ns = max(self._ready_ns(ticket, now_ns), free_ns)
            free_ns = start_ns + self.times.run_ns(ticket.rows)
        if all([ticket.launched_ns for ticket in self._under_way]):
            self._expected = start_ns, free_ns
        return start_ns, free_ns

    def _ready_ns(self, ticket: Ticket, now_ns: int) -> int:
        """Return when a batch would start on a device that has nothing else to do."""
        if ticket.launched_ns:
            return ticket.launched_ns + self.times.copy_ns(ticket.rows)
        return max(ticket.taken_ns + self._way_ns, now_ns)

    def _was_late(self, by_ns: int, rows: int) -> None:
        """Note that the device had nothing to do for so long though somebody waited, and be sooner."""
        if by_ns > 0:
            by_ns = min(by_ns, self.times.run_ns(rows))  # They may have given up, and others come later.
            self.late += 1
            self.late_ns += by_ns
            self._sooner_ns = min(self._sooner_ns + by_ns // LATE_SHARE, LEAD_NS_MAX)

    def _set_lead(self) -> None:
        lead_ns = self._way_ns + SPREADS * self._spread_ns + self._sooner_ns
        self.lead_ns = min(max(lead_ns, LEAD_NS_MIN), LEAD_NS_MAX)
