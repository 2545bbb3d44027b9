"""What is the process that counts for drift given, and told? `serving.keeper` keeps it alive."""

from __future__ import annotations

import json
import logging
import mmap
import os
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress
from threading import Lock

import numpy as np
import orjson
from numpy.typing import NDArray

from serving import confine
from serving.drift import desk
from serving.drift.flow import Flow
from serving.keeper import Death, Keeper, Turn
from serving.shadow.ring import shared

START_S_MAX = 120.0
"""Processor time until it counts, the kernels compiled if need be."""
ROUND_S_MAX = 20.0
"""Processor time that it may be at one stream."""
MEMORY_BYTES_MAX = 1 << 30
"""Beyond what it has when it begins, and beside rings and sheets."""

log = logging.getLogger("turnout.drift")


class DriftProcess:
    """The process. What it is told waits here until it reads it; all of it is told anew to its successor."""

    def __init__(self) -> None:
        self._desk_fd = shared(8 * desk.WORDS)
        self._desk: NDArray[np.int64] = np.frombuffer(mmap.mmap(self._desk_fd, 0), np.int64)
        self._keeper = Keeper(self, "event=drift", log, START_S_MAX)
        self._flows: dict[int, Flow] = {}
        self._captures: dict[int, tuple[int, str]] = {}
        self._untold: deque[tuple[bytes, Flow | None]] = deque()
        self._telling = Lock()
        self._fatal: dict[int, int] = {}
        """By stream: at which row a process died of it."""

    def __repr__(self) -> str:
        return f"<DriftProcess: {len(self._flows)} streams, {self._keeper!r}>"

    @property
    def pid(self) -> int:
        """The process's id; 0 while there is none."""
        return self._keeper.pid

    @property
    def ready(self) -> bool:
        """Whether there is a process that counts."""
        return self._keeper.pid != 0 and bool(self._desk[desk.READY])

    @property
    def restarts(self) -> dict[Death, int]:
        """How often it was started anew, by the death before."""
        return self._keeper.restarts

    def start(self) -> None:
        """Begin. Nothing waits for the process."""
        self._keeper.start()

    def stop(self) -> None:
        """End the process, and wait until it is gone."""
        self._keeper.stop()
        os.close(self._desk_fd)

    def watch(self, flow: Flow) -> None:
        """Have a stream counted."""
        with self._telling:
            self._flows[flow.number] = flow
            self._untold.append(_watch(flow))
        self._tell(self._keeper.line)

    def end(self, flow: Flow) -> None:
        """Have the rest of a stream counted that has ended."""
        with self._telling:
            self._untold.append(_end(flow))
        self._tell(self._keeper.line)

    def capture(self, flow: Flow, rows: int, path: str) -> None:
        """Have the next rows of a stream kept in a file, there once it is whole; with 0 rows, no more."""
        with self._telling:
            self._captures[flow.number] = rows, path
            if not rows:
                del self._captures[flow.number]
            self._untold.append(_capture(flow, rows, path))
        self._tell(self._keeper.line)

    def forget(self, flow: Flow) -> None:
        """Speak of a stream no more that is counted to its end."""
        with self._telling:
            self._flows.pop(flow.number, None)
            self._captures.pop(flow.number, None)
            self._fatal.pop(flow.number, None)
            self._untold = deque(each for each in self._untold if each[1] is not flow)

    def spawn(self, line: socket.socket) -> subprocess.Popen[bytes]:
        """Start a process. For the keeper, as all that follows."""
        self._desk[:] = 0
        fds = (self._desk_fd, line.fileno())
        task = dict(zip(("desk", "line"), fds, strict=True))
        task |= {"parent": os.getpid(), "memory_bytes_max": MEMORY_BYTES_MAX}
        return subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "serving.drift.child", json.dumps(task)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Where the kernels' machine code is kept.
            env=confine.environment("HOME", "XDG_CACHE_HOME"),
            cwd="/",
            pass_fds=fds,
            # As for admission: in a session of its own its rank would count for nothing.
            process_group=0,
        )

    def greet(self, line: socket.socket) -> None:
        """Tell it of all streams."""
        with self._telling:
            self._untold.clear()
            for flow in self._flows.values():
                self._untold.append(_watch(flow))
                if flow.until is not None:
                    self._untold.append(_end(flow))
                if flow.number in self._captures:
                    self._untold.append(_capture(flow, *self._captures[flow.number]))
        self._tell(line)

    def look(self, line: socket.socket) -> None:
        """Tell what there was no room to be told."""
        self._tell(line)

    def turn(self) -> Turn | None:
        """Return which stream it is at."""
        if not self._desk[desk.READY]:
            return None
        since_ns, used_ns = int(self._desk[desk.SINCE_NS]), int(self._desk[desk.USED_NS])
        return Turn("a stream", since_ns, used_ns, ROUND_S_MAX)

    def bury(self, _death: Death, *, killed: bool) -> None:
        """Leave out what it died of, where the one before had died of it, too."""
        flow = self._flows.get(int(self._desk[desk.STREAM]))
        if flow is None or killed or not self._desk[desk.SINCE_NS]:
            return
        head = flow.sheet.head
        if self._fatal.get(flow.number) == head:
            flow.skip()
            log.error("event=drift_skipped stream=%r rows=%d", flow, flow.skipped)
        self._fatal[flow.number] = head

    def _tell(self, line: socket.socket | None) -> None:
        """Tell as much as there is room for, without waiting."""
        with self._telling, suppress(OSError):  # It is dead, or has enough to read.
            while line is not None and self._untold:
                message, flow = self._untold[0]
                _send(line, message, flow)
                self._untold.popleft()


def _watch(flow: Flow) -> tuple[bytes, Flow]:
    return orjson.dumps({"say": "watch", "stream": flow.number, "after": flow.after}), flow


def _end(flow: Flow) -> tuple[bytes, None]:
    return orjson.dumps({"say": "end", "stream": flow.number, "until": flow.until}), None


def _capture(flow: Flow, rows: int, path: str) -> tuple[bytes, None]:
    return orjson.dumps({"say": "capture", "stream": flow.number, "rows": rows, "path": path}), None


def _send(line: socket.socket, message: bytes, flow: Flow | None) -> None:
    if flow is None:
        line.send(message)
        return
    # In memory of its own: a profile is longer than a message may be.
    terms = os.memfd_create("turnout", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(terms), "wb") as file:
            file.write(flow.terms)
        socket.send_fds(line, [message], [flow.ring.fd, flow.sheet.fd, terms])
    finally:
        os.close(terms)
