"""What does the process that counts for drift do? It looks at stream after stream, and counts what came.

All that it tells is in the shared memory, so that nothing it has counted ends with it.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import resource
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving import confine
from serving.drift import desk
from serving.drift.capture import Capture
from serving.drift.counting import Counting, warm
from serving.drift.measure import Measure
from serving.drift.ring import RowReader, Rows
from serving.drift.sheet import HEAD, Sheet
from serving.drift.view import Look

PAUSE_S_MIN, PAUSE_S_MAX = 0.005, 0.1
"""Between two looks: the more waits, the sooner."""
FULL_PART = 0.25
"""Of a ring that makes the next pause half as long."""
ASIDE_S = 0.0005
"""Between two portions, while there is room in the ring. A server on the same core would find it taken for 4
ms otherwise: whoever runs may go on until the scheduler's next tick."""
SHOW_S = 0.25
"""How late counts are shown that take long to copy."""
SHOWN_AT_ONCE_BYTES = 64 << 10
MESSAGE_BYTES_MAX = 16 << 10

log = logging.getLogger("turnout.drift")


@dataclass(frozen=True, slots=True)
class Task:
    """What the process is made for, as its only argument has it."""

    parent: int
    desk: int
    line: int
    memory_bytes_max: int


class Count:
    """One stream as this process has it."""

    def __init__(
        self, number: int, after: int, look: Look, measures: tuple[Measure, ...], fds: list[int]
    ) -> None:
        self.number = number
        self.after = after
        """The stream that used the same ring before, if one did."""
        self._look = look
        ring, sheet = fds
        self._sheet = Sheet(measures, sheet)
        page = self._sheet.read()
        self._ring = RowReader(ring, look.dtype, look.elements)
        self._counting = Counting(look, measures, page)
        self._words = page.words
        self._at_once = page.all.nbytes <= SHOWN_AT_ONCE_BYTES
        self._shown_s = 0.0
        self._shown = int(page.words[HEAD])
        self.until: int | None = None
        """The row that is not of this stream any more, once there is one."""
        self.capture: Capture | None = None

    def waiting(self) -> int:
        """Look, and return how many rows are there to be counted."""
        limit = self._ring.look()
        if self.until is not None:
            limit = min(limit, self.until)
        waiting = limit - int(self._words[HEAD])
        if waiting > self._ring.capacity:  # Whoever writes went mad: there never can be so many.
            self._words[HEAD] = limit
            return 0
        return max(waiting, 0)

    def count(self, waiting: int) -> None:
        """Count so many rows, in portions."""
        head = int(self._words[HEAD])
        until, aside = head + waiting, self.fill(waiting) <= FULL_PART
        while head < until:
            rows = self._ring.take(head, until, self._counting.rows_max)
            self._counting.count(rows)
            if self.capture is not None:
                self._keep(self.capture, rows)
            head += len(rows)
            if aside:
                time.sleep(ASIDE_S)

    def _keep(self, capture: Capture, rows: Rows) -> None:
        try:
            if not capture.take(rows):
                return
        except OSError as error:  # No room, or the folder is gone: counting goes on.
            log.error("event=not_captured reason=%r", str(error))
            capture.give_up()
        self.capture = None

    def show(self, now_s: float, *, full: float) -> None:
        """Show what is counted, unless that can wait."""
        head = int(self._words[HEAD])
        late = self._at_once or full > FULL_PART or now_s - self._shown_s >= SHOW_S or self.over
        if head != self._shown and late:
            self._sheet.show(self._counting.settle())
            self._ring.say(head)
            self._shown, self._shown_s = head, now_s

    def fill(self, waiting: int) -> float:
        """Return how full the ring is, 0 to 1, were nothing of it counted since it was last said."""
        return (int(self._words[HEAD]) - self._shown + waiting) / self._ring.capacity

    @property
    def over(self) -> bool:
        """Whether all of it is counted."""
        return self.until is not None and int(self._words[HEAD]) >= self.until

    def keep(self, path: str, rows: int) -> None:
        """Write the next rows into a file, or none any more."""
        if self.capture is not None:
            self.capture.give_up()
        self.capture = Capture(path, rows) if rows else None

    def finish(self) -> None:
        """Say that it is over."""
        self._sheet.finish()
        if self.capture is not None:
            self.capture.give_up()


class Rounds:
    """The loop."""

    def __init__(self, task: Task) -> None:
        self._line = socket.socket(fileno=task.line)
        self._desk = np.frombuffer(mmap.mmap(task.desk, 0), np.int64)
        self._counts: dict[int, Count] = {}
        self._poll = select.poll()
        self._poll.register(self._line, select.POLLIN)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        warm()
        self._memory = confine.Allowance(task.memory_bytes_max)
        self._desk[desk.READY] = 1

    def serve(self) -> None:
        """Count until the parent leaves."""
        pause_s = PAUSE_S_MAX
        while self._listen(pause_s):
            full = self._round()
            pause_s = max(pause_s / 2, PAUSE_S_MIN) if full > FULL_PART else min(pause_s * 1.5, PAUSE_S_MAX)

    def _round(self) -> float:
        """Count what has come, and return how full the fullest ring was."""
        fullest = 0.0
        for count in list(self._counts.values()):
            if count.after in self._counts:
                continue
            waiting = count.waiting()
            full = count.fill(waiting)
            if waiting:
                self._desk[desk.STREAM], self._desk[desk.USED_NS] = count.number, time.process_time_ns()
                self._desk[desk.SINCE_NS] = time.monotonic_ns()
                count.count(waiting)
                self._desk[desk.SINCE_NS] = 0
            count.show(time.monotonic(), full=full)
            if count.over:
                count.finish()
                del self._counts[count.number]
            fullest = max(fullest, full)
        return fullest

    def _listen(self, pause_s: float) -> bool:
        """Wait for word from the parent, but not longer; say whether it is still there."""
        wait_s = pause_s
        while self._poll.poll(wait_s * 1000):
            message, fds, _, _ = socket.recv_fds(self._line, MESSAGE_BYTES_MAX, 3, socket.MSG_CMSG_CLOEXEC)
            if not message:
                return False
            self._hear(json.loads(message), fds)
            wait_s = 0.0
        return True

    def _hear(self, said: dict[str, Any], fds: list[int]) -> None:
        try:
            match said:
                case {"say": "watch", "stream": number, "after": after}:
                    if number not in self._counts:
                        self._memory.add(sum(os.fstat(fd).st_size for fd in fds))
                        self._counts[number] = _count(number, after, fds)
                case {"say": "end", "stream": number, "until": until} if number in self._counts:
                    self._counts[number].until = until
                case {"say": "capture", "stream": number, **rest} if number in self._counts:
                    self._counts[number].keep(rest["path"], rest["rows"])
        finally:
            for fd in fds:
                os.close(fd)


def _count(number: int, after: int, fds: list[int]) -> Count:
    *memory, terms = fds
    with open(os.dup(terms), "rb") as file:  # noqa: PTH123 - A descriptor, not a path.
        file.seek(0)
        document = json.loads(file.read())
    measures = tuple(Measure.from_json(each) for each in document["measures"])
    return Count(number, after, Look.from_json(document["look"]), measures, memory)
