"""How do a lane's batches get to a device and back, the next one ready before the last one is done?

A batch is gathered straight into a slot's buffers, and copied to the device while the one before runs, by a
thread of the lane; the owner thread queues its run; the lane's thread waits for the end. A slot goes round:

    take ─▶ gather ─▶ stage ─▶ launch ─▶ wait ─▶ answered ─▶ release
    loop    track     track    owner     track   loop        loop
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from statistics import median
from time import monotonic_ns
from typing import Any

from numpy.typing import NDArray

from serving.errors import Expired
from serving.gpu.accelerator import Accelerator, Slot
from serving.gpu.gathering import Room
from serving.gpu.owner import Owner
from serving.gpu.pace import DEPTH_MAX, PATIENCE_NS, Pace, Ticket
from serving.gpu.times import Times
from serving.layout import Layout
from serving.session import Feeds, Stop
from serving.track import Batch, Runs
from serving.waiting import NEVER_NS, Waiting
from serving.wire import InferRequest

SLOTS = DEPTH_MAX
"""One runs, one is ready behind it, and one is being answered or gathered."""
EARLY_NS = 500_000
"""What comes so soon is now: the loop's timers tick in milliseconds."""
KEPT_BYTES_MAX = 1 << 20
"""Inputs of a batch up to here are copied for whoever looks at them later; larger ones are seen at once."""
ROUNDS, LONG_NS = 3, 10_000_000
"""How often a batch is run alone, and all slots behind each other, to see what runs take; once if long."""


class Berth:
    """A slot, and the ways to write it."""

    __slots__ = ("rooms", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.rooms = {name: Room(array) for name, array in slot.inputs.items()}


@dataclass(slots=True, eq=False)
class Load:
    """A batch that was gathered: what runs, where it lies, and what the pace calls it."""

    feeds: dict[str, NDArray[Any]]
    rows: int
    berth: Berth | None
    ticket: Ticket | None


class Turns:
    """One lane's turns on a device.

    Between two events there, a lane asks at every tick that brings requests. So what it was told is kept:
    until when it waits, unless something happens, or so many rows wait.
    """

    __slots__ = ("_rows", "_session", "_state", "_until_ns", "waiting")

    def __init__(self, session: DeviceSession, waiting: Waiting) -> None:
        self._session = session
        self.waiting = waiting
        self._until_ns = self._state = self._rows = 0

    def wait(self, until_ns: int, state: int, rows: int) -> None:
        """Ask no more until then, while the session is in this state and fewer rows wait."""
        self._until_ns, self._state, self._rows = until_ns, state, rows

    def waits(self, now_ns: int) -> bool:
        """Say whether what it was told still holds."""
        if now_ns + EARLY_NS >= self._until_ns or self._state != self._session.state:
            return False
        return not self.waiting.fills(self._rows)

    def take(self, now_ns: int) -> list[InferRequest]:
        """Take the requests of the next batch; none if it is not time for it."""
        return [] if self.waits(now_ns) else self._session.take(self, now_ns)

    def wake_ns(self, now_ns: int, *, free: bool) -> int:
        """Return when to look again though nothing arrives."""
        if not free or not self.waiting.count:
            return self.waiting.wake_ns(now_ns, free=free)
        device_ns = self._until_ns if self.waits(now_ns) else self._session.wake_ns(self, now_ns)
        return min(self.waiting.wake_ns(now_ns, free=device_ns == NEVER_NS), device_ns)


class DeviceSession:
    """A version on a device: what a lane needs of a session, and of a pipeline.

    Parameters
    ----------
    accelerator : Accelerator
    plain : Runs
        Runs what does not fit a slot, and requests one by one after their batch failed; on the owner thread.
    owner : Owner
        Its thread, which ends with this.
    batch_ns_max : int
        See `Pace`.
    """

    def __init__(self, accelerator: Accelerator, plain: Runs, owner: Owner, batch_ns_max: int = 0) -> None:
        self._accelerator, self._plain, self._owner = accelerator, plain, owner
        self._end = weakref.finalize(self, owner.leave, accelerator.close)
        self._end.atexit = False
        self._free: SimpleQueue[Berth] = SimpleQueue()
        berths = [Berth(self._owner.do(accelerator.slot)) for _ in range(SLOTS)]
        for berth in berths:
            self._free.put(berth)
        inputs = berths[0].slot.inputs
        self._key = tuple(inputs), tuple(array.shape[1:] for array in inputs.values())
        self._lock = threading.Lock()
        self._batch_ns_max = batch_ns_max
        self.pace = Pace(Times({1: 1}, {}), batch_ns_max)
        self._tickets: dict[int, Ticket] = {}
        self._loads: dict[int, Load] = {}
        self._asking: dict[Turns, None] = {}
        """Whose requests were told to wait, in their order: two lanes of a version take turns."""
        self.state = 0
        """Another number whenever what a lane was told may be wrong."""

    def __repr__(self) -> str:
        return f"<DeviceSession {self._free.qsize()} of {SLOTS} slots free, {self.pace!r}>"

    def turns(self, waiting: Waiting) -> Turns:
        """Return who says when what waits there is taken."""
        return Turns(self, waiting)

    def take(self, turns: Turns, now_ns: int) -> list[InferRequest]:
        """Take the requests of the next batch, if it is time for it. On the loop."""
        waiting = turns.waiting
        with self._lock:
            if self._when_ns(turns, now_ns) > now_ns:
                self._asking.setdefault(turns)
                self.pace.refuse()
                return []
            self._asking.pop(turns, None)
            requests = waiting.take(now_ns, lambda first: self.pace.rows_now(now_ns, first.expires_ns))
            if requests:
                rows = sum([request.layout.rows for request in requests])
                self._tickets[id(requests)] = self.pace.take(now_ns, rows)
                self.state += 1
            return requests

    def wake_ns(self, turns: Turns, now_ns: int) -> int:
        """Return when to ask again if it is the device that they wait for; else never. On the loop."""
        with self._lock:
            when_ns = self._when_ns(turns, now_ns)
        return when_ns if when_ns > now_ns else NEVER_NS

    def _when_ns(self, turns: Turns, now_ns: int) -> int:
        rows = min(turns.waiting.rows_max, self.pace.rows_now(now_ns))
        full = turns.waiting.fills(rows)
        when_ns = self.pace.when_ns(now_ns, full=full)
        if when_ns > now_ns + EARLY_NS:
            turns.wait(when_ns, self.state, NEVER_NS if full else rows)
            return when_ns
        for other in list(self._asking):
            if other is turns:
                break
            if other.waiting.count:
                return now_ns + PATIENCE_NS
            del self._asking[other]
        return now_ns

    def gather(self, layout: Layout, requests: Sequence[InferRequest], rows: int) -> Feeds:
        """Write a batch into a free slot; what does not fit one becomes arrays as anywhere else.

        In a thread of the lane: there is a free slot, or will be as soon as the loop has answered a batch.
        """
        ticket = self._tickets.pop(id(requests), None)
        berth = None
        try:
            if ticket is not None and rows and layout.key == self._key and rows <= self._accelerator.rows_max:
                berth = self._free.get()
                for at, name in enumerate(layout.names):
                    berth.rooms[name].write([request.payloads[at] for request in requests])
                feeds = {name: array[:rows] for name, array in berth.slot.inputs.items()}
            else:
                feeds = layout.feeds(requests, rows)
        except BaseException:
            self._ended(ticket, learn=False)
            if berth is not None:
                self._free.put(berth)
            raise
        self._loads[id(feeds)] = Load(feeds, rows, berth, ticket)
        return feeds

    def run(self, feeds: Feeds, stop: Stop) -> list[NDArray[Any]]:
        """Run a batch that was gathered, or anything else as a plain session does.

        Raises
        ------
        Expired
            If `stop` was used before the run was queued; there is no way to end it later.
        Invalid, Failed
            As of a plain session.
        """
        load = self._loads.get(id(feeds))
        if load is None:
            return self._owner.do(self._plain.run, feeds, stop)
        ticket, load.ticket = load.ticket, None
        done = False
        try:
            if load.berth is None:
                return self._owner.do(self._run_plain, ticket, feeds, stop)
            if stop.used:
                raise Expired("the model did not get to run before the request's deadline")
            outputs = self._run_slot(load, load.berth.slot, ticket)
            done = True
            return outputs
        finally:
            self._ended(ticket, learn=done)

    def _run_slot(self, load: Load, slot: Slot, ticket: Ticket | None) -> list[NDArray[Any]]:
        self._accelerator.stage(slot, load.rows)
        self._owner.do(self._launch, slot, load.rows, ticket)
        for name, array in load.feeds.items():  # While the device works.
            if array.nbytes <= KEPT_BYTES_MAX:
                load.feeds[name] = array.copy()
        return self._accelerator.wait(slot, load.rows)

    def _launch(self, slot: Slot, rows: int, ticket: Ticket | None) -> None:
        self._accelerator.launch(slot, rows)
        self._launched(ticket)

    def _run_plain(self, ticket: Ticket | None, feeds: Feeds, stop: Stop) -> list[NDArray[Any]]:
        self._launched(ticket)
        return self._plain.run(feeds, stop)

    def _launched(self, ticket: Ticket | None) -> None:
        if ticket is not None:
            with self._lock:
                self.pace.launched(ticket, monotonic_ns())
                self.state += 1

    def _ended(self, ticket: Ticket | None, *, learn: bool) -> None:
        if ticket is not None:
            with self._lock:
                self.pace.ended(ticket, monotonic_ns(), learn=learn)
                self.state += 1

    def release(self, batch: Batch) -> None:
        """Let the slot of a batch be written again, which was answered and looked at."""
        for each in (batch, *batch.parts):
            load = self._loads.pop(id(each.feeds), None)
            if load is not None and load.berth is not None:
                self._free.put(load.berth)

    def tune(self, times: Times) -> None:
        """Expect runs to take so long. Before the first batch."""
        self.pace = Pace(times, self._batch_ns_max)

    def timed(self, rows: int, feeds: Feeds) -> tuple[int, int]:
        """Run a batch a few times; return how long a run takes, and how much longer one that is alone, in ns.

        Before the first batch, and by one thread.
        """
        berths = [self._free.get() for _ in range(SLOTS)]
        try:
            for berth in berths:
                for name, array in feeds.items():
                    berth.slot.inputs[name][:rows] = array
            self._together(berths[:1], rows)  # The first run of a shape allocates, and looks for algorithms.
            alone_ns = self._alone_ns(berths, rows)
            rounds = ROUNDS if alone_ns < LONG_NS else 1
            alone_ns = min([alone_ns, *[self._alone_ns(berths, rows) for _ in range(rounds - 1)]])
            ends = [self._together(berths, rows) for _ in range(rounds)]
            run_ns = int(median(after - end for each in ends for end, after in pairwise(each)))
            return min(run_ns, alone_ns), max(alone_ns - run_ns, 0)
        finally:
            for berth in berths:
                self._free.put(berth)

    def _alone_ns(self, berths: Sequence[Berth], rows: int) -> int:
        began_ns = monotonic_ns()
        return self._together(berths[:1], rows)[0] - began_ns

    def _together(self, berths: Sequence[Berth], rows: int) -> list[int]:
        """Queue a batch for each of these slots; return when each was done."""
        ends = []
        for berth in berths:
            self._accelerator.stage(berth.slot, rows)
            self._owner.do(self._accelerator.launch, berth.slot, rows)
        for berth in berths:
            self._accelerator.wait(berth.slot, rows)
            ends.append(monotonic_ns())
        return ends

    def alone_ns(self, rows: int) -> int:
        """Return how long a batch is under way if there is no other."""
        return self.pace.times.run_ns(rows) + self.pace.times.copy_ns(rows)

    def close(self) -> None:
        """Give everything back, when no lane needs it any more. Blocking; where it is forgotten, later."""
        if self._end.detach() is not None:
            self._owner.leave(self._accelerator.close)
            self._owner.join()
