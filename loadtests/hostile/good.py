"""What do good clients get, while somebody else may be attacking?

    python -m loadtests.hostile.good PORT MODEL

Takes rounds as lines of JSON, such as ``{"rate": 2000, "seconds": 1}``, and answers each with a line.
Requests are due at a constant rate, whatever became of those before, each with an id and a value of its own,
over connections that are kept, and some over new ones. At rate 0 some connections ask again and again, which
measures capacity.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from loadtests.hostile.models import WIDTH
from serving.bench.arrivals import constant
from serving.bench.hdr import Histogram

ANSWER_S_MAX = 10.0
"""What is not answered by then is late."""
KEPT = 16
"""Connections that are kept, and used in turn."""
KEPT_MAX = 512
"""So many requests may be under way at once; further ones wait, and their time runs."""
FRESH_EVERY = 25
"""Every so-manieth request comes over a new connection, which is part of its time."""
CLOSED = 32
"""Connections of the closed loop."""
CHORE_NS = 50_000_000
READ_BYTES = 1 << 16
ID_BYTES = 16
PRIORITY = 10
"""Of the measuring process, where that may be chosen: attackers shall not hold it up, but the gateway."""
REFUSALS = 429, 503
HEAD = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,12})\r", re.IGNORECASE)
RETRY = re.compile(rb"\r\nretry-after: *[0-9]{1,9}\r", re.IGNORECASE)
LAST = re.compile(rb"\r\nconnection: *close\r", re.IGNORECASE)
clock = time.perf_counter_ns


class Fate(StrEnum):
    """What became of a good request."""

    GOOD = "good"
    REFUSED = "refused"
    """With 429 or 503, and when to come again."""
    BARE = "bare"
    """With 429 or 503, and not when to come again."""
    ERROR = "error"
    """With another status."""
    MIXED = "mixed"
    """With another request's id, or another's values."""
    LOST = "lost"
    """The connection ended, or was not made."""
    LATE = "late"


class Line:
    """A connection with at most one request under way."""

    __slots__ = ("asked", "due_ns", "fresh", "id", "made", "parts", "raw", "socket", "waiting")

    def __init__(self, port: int, *, fresh: bool) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(("127.0.0.1", port))
        self.made = self.asked = False
        self.fresh = fresh
        self.parts = self.waiting = self.id = self.raw = b""
        self.due_ns = 0

    def ask(self, content: bytes, id_: bytes, due_ns: int) -> bool:
        """Send a request, or note it for when the connection is made; False if it has ended."""
        self.asked, self.id, self.raw, self.due_ns = True, id_, content[-4 * WIDTH :], due_ns
        self.parts = b""
        if not self.made:
            self.waiting = content
            return True
        try:
            return self.socket.send(content) == len(content)
        except OSError:
            return False

    def connected(self) -> bool:
        """Send what waited for the connection."""
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return False
        self.made = True
        if not self.asked:
            return True
        content, self.waiting = self.waiting, b""
        return self.ask(content, self.id, self.due_ns)

    def read(self) -> tuple[Fate, bool] | None:
        """Read what is there; return what it says, and whether the connection is of use; None is not yet."""
        try:
            got = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return Fate.LOST, False
        if not got:
            return Fate.LOST, False
        if self.parts:
            got = self.parts + got
        end = got.find(b"\r\n\r\n") + 4
        head = _heads.get(got[:end]) or _read(got[:end]) if end >= 4 else None
        if head is None or len(got) < end + head[1]:
            self.parts = got
            return None
        fate, length, usable = head
        if fate is Fate.GOOD and not (self.id in got and got.endswith(self.raw)):
            fate = Fate.MIXED
        return fate, usable and len(got) == end + length


def question(model: str, path: str = "infer") -> tuple[bytearray, int]:
    """Return a request of one row in binary, zeros at its end, and where its id is to be written."""
    size, opening = 4 * WIDTH, b'{"id":"'
    tensor = f'"shape":[1,{WIDTH}],"datatype":"FP32","parameters":{{"binary_data_size":{size}}}'
    wanted = '"outputs":[{"name":"y","parameters":{"binary_data":true}}]'
    text = opening + b"0" * ID_BYTES + f'","inputs":[{{"name":"x",{tensor}}}],{wanted}}}'.encode()
    head = (
        f"POST /v2/models/{model}/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\nContent-Length: {len(text) + size}\r\n\r\n"
    ).encode()
    return bytearray(head + text + bytes(size)), len(head) + len(opening)


_heads: dict[bytes, tuple[Fate, int, bool]] = {}


def _read(head: bytes) -> tuple[Fate, int, bool]:
    status, length = HEAD.match(head), LENGTH.search(head)
    if status is None or length is None:
        return Fate.ERROR, 0, False
    code = int(status[1])
    fate = Fate.GOOD if code == 200 else Fate.ERROR
    if code in REFUSALS:
        fate = Fate.REFUSED if RETRY.search(head) else Fate.BARE
    if len(_heads) > 4096:
        _heads.clear()
    found = _heads[head] = fate, int(length[1]), LAST.search(head) is None
    return found


class Callers:
    """All good clients together."""

    def __init__(self, port: int, model: str, lines_max: int = KEPT_MAX) -> None:
        self._port, self._lines_max = port, lines_max
        self._content, self._id_at = question(model)
        self._number = int.from_bytes(os.urandom(3), "big") << 24
        self._poll = select.epoll()
        self._lines: dict[int, Line] = {}
        self._idle: deque[Line] = deque()
        self._waiting: deque[int] = deque()
        self._begin()

    def _begin(self) -> None:
        self.fates: Counter[Fate] = Counter()
        """What became of the requests of the round so far; another thread may look."""
        self._latency = Histogram()
        self._took: list[int] = []
        self._in_time = 0
        self._end_ns = 0
        self._closed = self._cut = False

    def round(self, rate: float, seconds: float, connections: int = CLOSED) -> dict[str, Any]:
        """Ask for so long, wait for what is under way, and return what came of it."""
        self._begin()
        begin_ns = clock()
        self._end_ns = begin_ns + int(seconds * 1e9)
        self._closed = not rate
        if self._closed:
            for _ in range(connections):
                self._ask(clock())
            self._go_on(iter(()))
        else:
            due = (begin_ns + at for at in constant(rate))
            self._go_on(_until(due, self._end_ns))
        self._latency.record_many(self._took)
        return {
            "count": self.fates.total(),
            "fates": {str(fate): count for fate, count in self.fates.items()},
            "good_per_s": self._in_time / seconds,
            "p50_ms": _ms(self._latency, 0.5),
            "p99_ms": _ms(self._latency, 0.99),
            "max_ms": _ms(self._latency, 1.0),
        }

    def stop(self) -> None:
        """End the round now, and every connection; called by another thread."""
        self._cut = True

    def _go_on(self, dues: Iterator[int]) -> None:
        due, chore_ns = next(dues, None), clock() + CHORE_NS
        while due is not None or self._waiting or any(each.asked for each in self._lines.values()):
            now = clock()
            while due is not None and due <= now:
                self._ask(due)
                due = next(dues, None)
            if now > chore_ns:
                self._give_up(now)
                chore_ns = now + CHORE_NS
            until = min(due or chore_ns, chore_ns)
            if until > now:
                select.select([self._poll], [], [], (until - now) / 1e9)
            for fd, event in self._poll.poll(0):
                self._happened(self._lines[fd], event)
            if self._cut:
                for line in [*self._lines.values()]:
                    self._drop(line)
                self._idle.clear()
                return

    def _ask(self, due_ns: int) -> None:
        number = self._number = self._number + 1
        fresh = not self._closed and number % FRESH_EVERY == 0
        line = None if fresh else self._kept()
        if line is None:
            if len(self._lines) >= self._lines_max:
                self._number -= 1
                self._waiting.append(due_ns)
                return
            line = Line(self._port, fresh=fresh)
            self._lines[line.socket.fileno()] = line
            self._poll.register(line.socket, select.EPOLLOUT)
        id_, content = b"%016x" % number, self._content
        content[self._id_at : self._id_at + ID_BYTES] = id_
        struct.pack_into("<2f", content, len(content) - 4 * WIDTH, number & 0xFFFFF, number >> 20)
        if not line.ask(bytes(content), id_, due_ns):
            self._over(line, Fate.LOST, usable=False)

    def _kept(self) -> Line | None:
        return self._idle.popleft() if self._idle else None

    def _happened(self, line: Line, event: int) -> None:
        if not line.made:
            if not line.connected():
                self._over(line, Fate.LOST, usable=False)
                return
            self._poll.modify(line.socket, select.EPOLLIN)
        elif line.asked:
            if (found := line.read()) is not None:
                self._over(line, found[0], usable=found[1])
        elif event:  # An idle connection speaks: it ends.
            self._idle.remove(line)
            self._drop(line)

    def _over(self, line: Line, fate: Fate, *, usable: bool) -> None:
        now = clock()
        self.fates[fate] += 1
        line.asked = False
        if fate is Fate.GOOD:
            self._took.append(now - line.due_ns)
            self._in_time += now <= self._end_ns
        if usable and not line.fresh and len(self._idle) < max(KEPT, CLOSED):
            self._idle.append(line)
        else:
            self._drop(line)
        if self._waiting:
            self._ask(self._waiting.popleft())
        elif self._closed and now < self._end_ns:
            self._ask(now)

    def _drop(self, line: Line) -> None:
        del self._lines[line.socket.fileno()]
        with contextlib.suppress(OSError):
            line.socket.close()

    def _give_up(self, now: int) -> None:
        late_ns = now - int(ANSWER_S_MAX * 1e9)
        for line in [each for each in self._lines.values() if each.asked and each.due_ns < late_ns]:
            self._over(line, Fate.LATE, usable=False)
        while self._waiting and self._waiting[0] < late_ns:
            self._waiting.popleft()
            self.fates[Fate.LATE] += 1


def _until(dues: Iterator[int], end_ns: int) -> Iterator[int]:
    for due in dues:
        if due >= end_ns:
            return
        yield due


def _ms(latency: Histogram, q: float) -> float | None:
    return round(latency.quantile_ms(q), 4) if latency.count else None


def main() -> None:
    """Do rounds until the input ends."""
    with contextlib.suppress(PermissionError, OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    callers = Callers(int(sys.argv[1]), sys.argv[2])
    for line in sys.stdin:
        print(json.dumps(callers.round(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
