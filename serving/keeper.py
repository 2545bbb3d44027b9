"""Is a process beside the server alive and at work? It is started, watched, ended if it hangs, begun anew."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from enum import StrEnum
from threading import Thread
from typing import Protocol

PATIENCE, PATIENCE_S_MIN = 10, 60.0
"""How many times as long as it may compute a turn may last, and no less: others go first, it may wait."""
PERIOD_S = 0.1
"""How often somebody looks whether a turn lasts too long."""
BACKOFF_S, BACKOFF_S_MAX = 0.2, 30.0
"""How long nobody starts it anew after the first death, and after many."""
RECOVERED_S = 300.0
"""Who has lived for so long is forgiven the deaths before."""
REASON_BYTES_MAX = 4096
KILLED = "it was killed, by the system if memory ran out"


class Death(StrEnum):
    """Why a process had to be started anew."""

    CRASHED = "crashed"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Turn:
    """What a process is at, since when by the clock and by its own processor time, and how long it may."""

    what: str
    since_ns: int
    used_ns: int
    limit_s: float


class Ward(Protocol):
    """What is particular to a process that is kept."""

    def spawn(self, line: socket.socket) -> subprocess.Popen[bytes]:
        """Start it, with its end of the line and a pipe as its standard output."""

    def greet(self, line: socket.socket) -> None:
        """Tell it, through our end of the line, what it has to know."""

    def look(self, line: socket.socket) -> None:
        """Do what is to be done every now and then while it lives."""

    def turn(self) -> Turn | None:
        """Return what it is at; None where it waits for something to do, or is yet to get ready."""

    def bury(self, death: Death, *, killed: bool) -> None:
        """Clear up behind it; `killed` says that somebody else ended it."""


class Keeper:
    """A process in the care of a thread.

    The thread makes the process, and the process ends with it: so it must last, and does until `stop`.

    Parameters
    ----------
    ward : Ward
    name, log : str, logging.Logger
        What the process is in the log, such as ``version=m@7 event=shadow``, and where that is.
    start_s_max : float
        Processor time that it may take until it is ready.
    restarts_max : int, optional
        How often in a row it is started anew when it dies; None is for ever.
    """

    def __init__(
        self, ward: Ward, name: str, log: logging.Logger, start_s_max: float, restarts_max: int | None = None
    ) -> None:
        self._ward, self._name, self._log = ward, name, log
        self._start_s_max, self._restarts_max = start_s_max, restarts_max
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self.line: socket.socket | None = None
        """Our end of the line, while there is a process."""
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._thread = Thread(target=self._keep, name="turnout-keeper", daemon=True)
        self.given_up = ""
        """Why there will be no process any more."""
        self.restarts = dict.fromkeys(Death, 0)

    def __repr__(self) -> str:
        restarts = sum(self.restarts.values())
        return f"<Keeper {self._name}: pid {self.pid}, {restarts} restarts {self.given_up!r}>"

    @property
    def pid(self) -> int:
        """The process's id; 0 while there is none."""
        process = self._process
        return process.pid if process is not None else 0

    def start(self) -> None:
        """Begin. Nothing waits for the process."""
        self._thread.start()

    def stop(self) -> None:
        """End the process, and wait until it is gone."""
        os.eventfd_write(self._stop, 1)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stop)

    def _keep(self) -> None:
        """Have a process until told otherwise. The thread's body."""
        try:
            self._keep_alive()
        except Exception as error:  # noqa: BLE001 - It is logged, and said to whoever asks.
            self._log.exception("%s_unkept", self._name)
            self.given_up = f"it could not be kept: {error}"

    def _keep_alive(self) -> None:
        deaths = 0
        while True:
            began_s = time.monotonic()
            death, reason = self._live()
            if death is None:
                return
            killed = death is Death.CRASHED and reason == KILLED
            deaths = 1 if time.monotonic() - began_s > RECOVERED_S else deaths + 1
            self._ward.bury(death, killed=killed)
            if self._restarts_max is not None and deaths > self._restarts_max:
                self.given_up = f"it died {deaths} times in a row, at last so: {reason}"
                self._log.error("%s_given_up deaths=%d reason=%r", self._name, deaths, reason)
                return
            self._log.warning("%s_died death=%s reason=%r", self._name, death, reason)
            if self._wait(min(BACKOFF_S * 2 ** min(deaths - 1, 30), BACKOFF_S_MAX)):
                return
            self.restarts[death] += 1

    def _live(self) -> tuple[Death | None, str]:
        """Start a process and watch it to its end; no death is one that was asked for."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs:
                process = self._ward.spawn(theirs)
            self._process, self.line = process, ours
            try:
                self._ward.greet(ours)
                return self._watch(process, ours)
            finally:
                self.line = self._process = None
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()

    def _watch(self, process: subprocess.Popen[bytes], line: socket.socket) -> tuple[Death | None, str]:
        """Look after a process until it ends, or has to."""
        began_ns = time.monotonic_ns()
        said = b""
        assert process.stdout is not None
        words = process.stdout.fileno()
        pidfd = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            for fd in (pidfd, words, self._stop):
                poll.register(fd, select.POLLIN)
            while True:
                ready = {fd for fd, _ in poll.poll(PERIOD_S * 1000)}
                if self._stop in ready:
                    return None, ""
                if words in ready:
                    if heard := os.read(words, REASON_BYTES_MAX):
                        said = heard
                        self._log.warning("%s_said reason=%r", self._name, _plain(said))
                    else:
                        poll.unregister(words)
                if pidfd in ready:
                    return Death.CRASHED, _cause(process.wait(), said)
                self._ward.look(line)
                if late := self._late(process.pid, began_ns):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    return Death.HUNG, late
        finally:
            os.close(pidfd)

    def _late(self, pid: int, began_ns: int) -> str:
        """Say what takes too long, if something does."""
        turn = self._ward.turn() or Turn("its start", began_ns, 0, self._start_s_max)
        if not turn.since_ns:
            return ""
        try:
            # The processor time of another process, by its id: <linux/posix-timers.h>.
            computed_s = (time.clock_gettime_ns((~pid << 3) | 2) - turn.used_ns) / 1e9
        except OSError:
            return ""  # It is just dying.
        lasted_s = (time.monotonic_ns() - turn.since_ns) / 1e9
        if computed_s <= turn.limit_s and lasted_s <= max(PATIENCE * turn.limit_s, PATIENCE_S_MIN):
            return ""
        return f"{turn.what} did not end after {computed_s:.3g} s of computing and {lasted_s:.3g} s in all"

    def _wait(self, wait_s: float) -> bool:
        """Wait, and say whether somebody said stop."""
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))


def _plain(said: bytes) -> str:
    return said.decode(errors="replace").strip()


def _cause(code: int, said: bytes) -> str:
    match -code:
        case signal.SIGKILL:
            return KILLED
        case number if number > 0:
            return signal.strsignal(number) or f"signal {number}"
    return _plain(said) or f"it ended with exit code {code}"
