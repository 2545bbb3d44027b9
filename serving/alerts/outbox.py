"""Where do events wait that are in no journal, so that they outlive us?

In a file of lines, each of which is on the disk before anybody is told. It is bounded in number and bytes: if
receivers are away for too long the oldest go, which is counted, and said by each event that follows.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from serving.alerts.durable import replace_durably
from serving.alerts.event import Event, parse
from serving.private import NotPrivate, read_bytes

log = logging.getLogger("turnout.alerts")

FILE = "outbox.jsonl"
FILE_BYTES_MAX = 1 << 30
LINES_FACTOR = 3
"""The file is written anew when it has so many times what may wait; what was delivered stays until then."""


@dataclass(frozen=True, slots=True)
class Posted:
    """An event that waits. `dropped` is how many did not fit before it, since there is an outbox."""

    number: int
    dropped: int
    line: bytes

    def event(self) -> Event:
        """Return the event; it says how many before it are missing."""
        event = parse(orjson.loads(self.line))
        if not self.dropped:
            return event
        data = {**event.data, "dropped_so_far": self.dropped}
        return Event(event.kind, event.id, event.subject, event.at_us, data)


class Outbox:
    """What waits, the oldest first. Any thread may look; one adds and forgets.

    Parameters
    ----------
    folder : Path
        A private folder.
    """

    def __init__(self, folder: Path, events_max: int, bytes_max: int) -> None:
        self._path = folder / FILE
        self._events_max, self._bytes_max = events_max, bytes_max
        self._lock = threading.Lock()
        self._waiting: deque[Posted] = deque()
        self._bytes = self._file_bytes = 0
        self.last = self.dropped = 0
        self._read()

    def __repr__(self) -> str:
        return f"<Outbox: {len(self._waiting)} wait, {self._bytes} bytes, {self.dropped} dropped>"

    def __len__(self) -> int:
        return len(self._waiting)

    def after(self, number: int) -> Posted | None:
        """Return the first that comes after `number`."""
        with self._lock:
            return next((each for each in self._waiting if each.number > number), None)

    def events(self) -> list[Event]:
        """Return all that is there; until `begin` also some that everybody has."""
        with self._lock:
            return [each.event() for each in self._waiting]

    def begin(self, lowest: int, highest: int) -> None:
        """Go on: everybody has all up to `lowest`, and numbers go on after `highest`."""
        self.last = max(self.last, highest)
        self.forget(lowest)
        self._make_room(deque(), 0)

    def add(self, lines: list[bytes]) -> None:
        """Have events wait, each written by `Event.line`. That they cannot be written must not keep them."""
        before = self.dropped
        added: deque[Posted] = deque()
        for line in lines:
            self._make_room(added, len(line))
            self.last += 1
            added.append(Posted(self.last, self.dropped, line))
        if self.dropped > before:
            log.warning("event=alerts_dropped count=%d in_all=%d", self.dropped - before, self.dropped)
        try:
            self._write(added)
        except OSError as error:
            log.error("event=alerts_not_written file=%s reason=%r", self._path, str(error))
        with self._lock:
            self._waiting.extend(added)
            self._bytes += _size(added)

    def forget(self, number: int) -> None:
        """Let go of what everybody has."""
        with self._lock:
            while self._waiting and self._waiting[0].number <= number:
                self._bytes -= len(self._waiting.popleft().line)

    def _make_room(self, added: deque[Posted], size: int) -> None:
        """Drop the oldest until one of that size fits, those included that are just being added."""
        with self._lock:
            while self._is_full(added, size):
                if self._waiting:
                    self._bytes -= len(self._waiting.popleft().line)
                else:
                    added.popleft()
                self.dropped += 1

    def _is_full(self, added: deque[Posted], size: int) -> bool:
        count = len(self._waiting) + len(added)
        return bool(count) and (
            count + bool(size) > self._events_max or self._bytes + _size(added) + size > self._bytes_max
        )

    def _write(self, added: Iterable[Posted]) -> None:
        if self._file_bytes > LINES_FACTOR * self._bytes_max or not self._path.exists():
            content = self._header() + self._lines([*self._waiting, *added])
            replace_durably(self._path, content)
            self._file_bytes = len(content)
            return
        content = self._lines(added)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path, flags)
        try:
            while content:  # Less than all is written where the disk is full.
                count = os.write(file, content)
                self._file_bytes += count
                content = content[count:]
            os.fdatasync(file)
        finally:
            os.close(file)

    def _lines(self, posted: Iterable[Posted]) -> bytes:
        """Return lines, each begun anew so that one that was torn before it does not take it along."""
        posted = list(posted)
        first = next((each.number for each in (*self._waiting, *posted)), 0)
        return b"".join(
            b'\n{"n":%d,"first":%d,"dropped":%d,"event":%s}' % (each.number, first, each.dropped, each.line)
            for each in posted
        )

    def _header(self) -> bytes:
        return json.dumps({"last": self.last, "dropped": self.dropped}).encode()

    def _read(self) -> None:
        first = 0
        for document in self._documents():
            try:
                self.last = max(self.last, int(document.get("last", document.get("n", 0))))
                self.dropped = max(self.dropped, int(document["dropped"]))
                if "event" in document:
                    parse(document["event"])
                    first = max(first, int(document["first"]))
                    line = orjson.dumps(document["event"])
                    self._waiting.append(Posted(int(document["n"]), self.dropped, line))
                    self._bytes += len(line)
            except (ValueError, KeyError, TypeError) as error:
                log.error("event=alert_not_read file=%s reason=%r", self._path, repr(error))
        self.forget(first - 1)

    def _documents(self) -> Iterator[Mapping[str, Any]]:
        try:
            content = read_bytes(self._path, FILE_BYTES_MAX)
        except FileNotFoundError:
            return
        except (NotPrivate, OSError) as error:
            log.error("event=alerts_not_read file=%s reason=%r", self._path, str(error))
            return
        self._file_bytes = len(content)
        for line in filter(None, content.split(b"\n")):
            try:
                document = orjson.loads(line)
            except (
                orjson.JSONDecodeError
            ):  # Torn when the machine fell over: nobody was told that it is there.
                continue
            if isinstance(document, dict):
                yield document


def _size(posted: Iterable[Posted]) -> int:
    return sum(len(each.line) for each in posted)
