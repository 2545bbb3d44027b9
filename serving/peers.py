"""What have all replicas of this node counted together, those included that are gone?

Each replica listens on a Unix socket in the deployment's private folder and tells whoever asks
what it has counted, having written it down beside the socket first. Whoever is scraped asks all the
others. One that does not answer counts with what it told last, without its gauges; when its socket
refuses it is gone, and its file is merged into one that holds all such counts. So no total goes
down: a replica that drains writes a last time when everything is answered, and one that is killed
takes along only what it counted since it was last asked.
"""

from __future__ import annotations

import fcntl
import logging
import os
import selectors
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from threading import Lock, Thread

import orjson

from serving import sockets
from serving.evidence.reading import most
from serving.metrics import Reading, VersionReading

log = logging.getLogger("turnout.peers")

ANSWERS_S_MAX = 1.0
"""How long a scrape waits for the answers of all others together."""
ANSWER_BYTES_MAX = 16 << 20
"""What one replica may tell: 400 versions of which every bin and batch size was seen, else thousands."""
ASKED_MAX = 128
"""Twice the replicas that there may be: in a rolling restart old and new ones overlap."""
VERSIONS_MAX = 1024
"""Versions whose counts are kept when their replicas are gone; beyond it those go that are idle longest."""
SHADOWS_MAX = 256
"""Shadows of which the same holds."""
NAMES_MAX = 256
"""Names kept of those merged: more replicas than can be merged while a single scrape is looking."""
VISIT_S_MAX = 1.0
"""How long one visitor can hold up the next."""
RETRY_S = 0.1

ASK = b"?"
# Not .sock: in the same folder those hand out listening sockets.
DOOR, COUNTS, MERGED = ".peer", ".counts", "gone.json"


class Peers:
    """One replica's place among those of its node.

    Parameters
    ----------
    folder : Path
        The deployment's, which only this user can enter.
    name : str
        What no other replica ever was called in this folder: a process id alone comes back.
    """

    def __init__(self, folder: Path, name: str) -> None:
        sockets._check_private(folder)
        self._folder = folder
        self._name = name
        self._uid = os.geteuid()
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._read: Callable[[], Reading] = Reading
        self._thread: Thread | None = None
        self._telling = Lock()
        self._left = False
        self._silent: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<Peers of {self._name}: {len(self._others())} files of others>"

    def open(self, read: Callable[[], Reading]) -> None:
        """Answer from now on with what `read` returns, in a thread of its own."""
        self._read = read
        # It gets its name when it already listens: a door that refuses is taken for a dead one.
        unfinished = self._path(DOOR + ".tmp")
        self._door.bind(sockets._reachable(unfinished))
        unfinished.chmod(0o600)
        self._door.listen(ASKED_MAX)
        unfinished.rename(self._path(DOOR))
        self._thread = Thread(target=self._answer_all, name="turnout-peers", daemon=True)
        self._thread.start()
        # Not only at scrapes: without any, replicas that die again and again would leave more and more.
        lines, gone = self._knock(self._others())
        for line in lines.values():
            line.close()
        self._merge(gone)

    def total(self) -> Reading:
        """Return what all have counted, and the gauges of those that answer. Any thread may call it."""
        others = self._others()
        told = {self._name: self._tell()[0]}
        lines, gone = self._knock(others)
        for name, raw in _hear(lines, time.monotonic() + ANSWERS_S_MAX).items():
            reading = _parse(raw)
            if reading is not None:
                told[name] = reading
        self._note(others - told.keys() - gone)
        for name in others - told.keys():
            told[name] = self._last(name)
        # Read after all else: who was merged meanwhile is in it, by name, and not counted twice.
        merged = self._merged()
        self._merge(gone)
        return reduce(add, (told[name] for name in told.keys() - merged.names), merged.reading)

    def leave(self) -> None:
        """Write the final counts down for the others, and answer no more."""
        if self._thread is None:
            self._door.close()
            return
        self._tell(final=True)
        self._path(DOOR).unlink(missing_ok=True)
        if self._thread.is_alive():
            self._door.shutdown(socket.SHUT_RDWR)  # Wakes `accept`, which close alone does not.
            self._thread.join(2 * VISIT_S_MAX)
        self._door.close()

    def _path(self, suffix: str, name: str = "") -> Path:
        return self._folder / f"{name or self._name}{suffix}"

    def _others(self) -> set[str]:
        found = {path.stem for suffix in (COUNTS, DOOR) for path in self._folder.glob(f"*{suffix}")}
        return found - {self._name}

    def _tell(self, *, final: bool = False) -> tuple[Reading, bytes]:
        """Return what this replica has counted; it is written down before anybody sees it."""
        with self._telling:
            reading = self._read()
            raw = orjson.dumps(reading.to_json())
            if not self._left:  # Who has left may be merged already.
                self._left = final
                try:
                    _write(self._path(COUNTS), raw)
                except OSError as error:  # A full disk, or the end of the whole deployment.
                    log.warning("event=counts_not_written replica=%s reason=%r", self._name, str(error))
        return reading, raw

    def _answer_all(self) -> None:
        while True:
            try:
                visitor, _ = self._door.accept()
            except OSError:
                if self._left:
                    return  # Closed: the only way out.
                time.sleep(RETRY_S)  # No file descriptor is left at the moment.
                continue
            with visitor:
                try:
                    self._answer(visitor)
                except OSError:
                    continue  # The visitor went away or dawdled: its loss alone.
                except Exception:  # Else nobody would be answered any more.
                    log.exception("event=counts_not_told replica=%s", self._name)

    def _answer(self, visitor: socket.socket) -> None:
        visitor.settimeout(VISIT_S_MAX)
        raw = visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, sockets._CREDENTIALS.size)
        _, uid, _ = sockets._CREDENTIALS.unpack(raw)
        if uid == self._uid and visitor.recv(1) == ASK:  # Who only looks who lives closes without asking.
            visitor.sendall(self._tell()[1])

    def _knock(self, names: Collection[str]) -> tuple[dict[str, socket.socket], set[str]]:
        """Return lines to those that live, and who is gone; who is in neither was too busy."""
        lines: dict[str, socket.socket] = {}
        gone = set()
        for name in sorted(names):
            try:
                line = _connect(self._path(DOOR, name))
            except (ConnectionRefusedError, FileNotFoundError):
                gone.add(name)  # It listened before there was anything of it here, so it ended.
            except OSError as error:
                log.debug("event=replica_busy replica=%s error=%r", name, error)
            else:
                if len(lines) < ASKED_MAX:
                    lines[name] = line
                else:
                    line.close()
        return lines, gone

    def _note(self, silent: set[str]) -> None:
        """Say once of each that is silent that it is."""
        for name in sorted(silent - self._silent):
            log.warning(
                "event=replica_silent replica=%s: no answer within %g s; it counts as of its last one",
                name,
                ANSWERS_S_MAX,
            )
        self._silent = frozenset(silent)

    def _last(self, name: str) -> Reading:
        """Return the counts that a replica told last, none if it never did or another release wrote them."""
        try:
            raw = self._path(COUNTS, name).read_bytes()
        except FileNotFoundError:
            return Reading()  # Or it is merged meanwhile.
        return counters(_parse(raw) or Reading())

    def _merged(self) -> Merged:
        try:
            raw = (self._folder / MERGED).read_bytes()
        except FileNotFoundError:
            return Merged()
        return Merged.from_bytes(raw)

    def _merge(self, gone: set[str]) -> None:
        """Move the counts of those that are gone to the one file for all of them."""
        if not gone:
            return
        try:
            with _claimed(self._folder) as ours:
                if ours:  # Else another replica is doing it, or will at its next scrape.
                    self._move(gone)
        except OSError as error:
            log.warning("event=counts_not_merged reason=%r", str(error))

    def _move(self, gone: set[str]) -> None:
        merged = self._merged()
        # Who is in it although its file is still there: whoever merged it was killed in between.
        new = {name: self._last(name) for name in gone - set(merged.names)}
        if new:
            _write(self._folder / MERGED, merged.plus(new).to_bytes())
        for name in gone:
            for suffix in (DOOR, COUNTS, COUNTS + ".tmp"):
                self._path(suffix, name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Merged:
    """What those counted that are gone, and who is in it, the latest last."""

    reading: Reading = field(default_factory=Reading)
    names: tuple[str, ...] = ()

    def plus(self, last: Mapping[str, Reading]) -> Merged:
        """Return the sum with further ones, within `VERSIONS_MAX`, `SHADOWS_MAX` and `NAMES_MAX`."""
        total = reduce(add, last.values(), self.reading)
        versions = sorted(total.versions.items(), key=lambda item: item[1].counts.last_ns, reverse=True)
        shadows = sorted(total.shadows.items(), key=lambda item: item[1].last_ns, reverse=True)
        kept = dict(versions[:VERSIONS_MAX]), total.server, dict(shadows[:SHADOWS_MAX])
        reading = Reading(*kept, total.drift.counters(), most(total.evidence), total.labels.counters())
        return Merged(reading, (*self.names, *sorted(last))[-NAMES_MAX:])

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return orjson.dumps({"names": self.names, "reading": self.reading.to_json()})

    @classmethod
    def from_bytes(cls, raw: bytes) -> Merged:
        """Read what `to_bytes` wrote; what another release wrote counts nothing."""
        try:
            document = orjson.loads(raw)
            return cls(Reading.from_json(document["reading"]), tuple(document["names"]))
        except UNREADABLE as error:
            log.warning("event=counts_unreadable of=gone reason=%r", str(error))
            return cls()


UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""What reading the document of another release, or half of one, can raise."""


def counters(reading: Reading) -> Reading:
    """Return what is still true of a replica that is gone: its counts, and no gauge."""
    versions = {key: VersionReading(each.counts, share=each.share) for key, each in reading.versions.items()}
    shadows = {key: each.counters() for key, each in reading.shadows.items()}
    kept = reading.drift.counters(), most(reading.evidence), reading.labels.counters()
    return Reading(versions, reading.server.counters(), shadows, *kept)


def _parse(raw: bytes) -> Reading | None:
    try:
        return Reading.from_json(orjson.loads(raw))
    except UNREADABLE as error:
        log.debug("event=counts_unreadable reason=%r", str(error))
        return None


def _connect(door: Path) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.setblocking(False)  # To a Unix socket, connect succeeds or fails at once.
        line.connect(sockets._reachable(door))
    except OSError:
        line.close()
        raise
    return line


def _hear(lines: Mapping[str, socket.socket], until_s: float) -> dict[str, bytes]:
    """Return what comes from each until it closes, or time or patience are up; the lines are closed."""
    heard = {name: bytearray() for name in lines}
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for name, line in lines.items():
            selector.register(stack.enter_context(line), selectors.EVENT_READ, (line, heard[name]))
            with suppress(OSError):  # It has died: there is nothing to read either.
                line.send(ASK)
        while selector.get_map() and (left_s := until_s - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                line, answer = key.data
                part = _receive(line)
                answer += part
                if not part or len(answer) > ANSWER_BYTES_MAX:
                    selector.unregister(line)
    return {name: bytes(answer) for name, answer in heard.items()}


def _receive(line: socket.socket) -> bytes:
    try:
        return line.recv(1 << 16)
    except OSError:
        return b""  # It died; half an answer is none.


def _write(path: Path, content: bytes) -> None:
    """Replace a file by one of this user alone, in a single step."""
    unfinished = path.with_name(path.name + ".tmp")
    opened = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.write(content)
    unfinished.replace(path)


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Say whether what was left in `folder` is this thread's to merge; if so, nobody else's meanwhile."""
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Freed with the process, however it ends.
    except BlockingIOError:
        os.close(here)
        yield False
        return
    try:
        yield True
    finally:
        os.close(here)
