"""Is a shadow's process alive and at work? It is started, watched, ended when it hangs, and started anew."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

from serving import confine
from serving.config import Shadow as Settings
from serving.model import ModelSpec
from serving.shadow import board as b
from serving.shadow.board import ARMS_MAX, Board
from serving.shadow.comparison import Death, Drop
from serving.shadow.ring import TAIL, Ring, Torn

START_S_MAX = 60.0
"""Processor time until the version is loaded, the comparison compiled if need be."""
PATIENCE, PATIENCE_S_MIN = 10, 60.0
"""How many times as long as it may compute a run may last, and no less: others go first, it may wait long."""
PERIOD_S = 0.1
"""How often somebody looks whether a run lasts too long."""
BACKOFF_S, BACKOFF_S_MAX = 0.2, 30.0
"""How long nobody starts it anew after the first death, and after many."""
RECOVERED_S = 300.0
"""Who has lived for so long is forgiven the deaths before."""
REASON_BYTES_MAX = 4096

log = logging.getLogger("turnout.shadow")


class ShadowProcess:
    """The process of one shadow, in the care of a thread.

    The thread makes the process, and the process ends with it: so it must last, and does until `stop`.

    Parameters
    ----------
    spec : ModelSpec
        The shadow's version.
    sides : sequence of int
        See `serving.shadow.board.Form`.
    settings, ring, board
        What it may use, where it takes from, and where it writes to.
    """

    def __init__(
        self, spec: ModelSpec, sides: Sequence[int], settings: Settings, ring: Ring, board: Board
    ) -> None:
        self._spec, self._sides, self._settings = spec, sides, settings
        self._ring, self._board = ring, board
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = Thread(target=self._keep, name=f"turnout-shadow-{spec}", daemon=True)
        self.given_up = ""
        """Why there will be no process any more."""
        self.restarts = dict.fromkeys(Death, 0)
        self.lost: list[dict[Drop, int]] = [{} for _ in range(ARMS_MAX)]
        """Of each arm the rows that were with a process when it died."""

    def __repr__(self) -> str:
        restarts = sum(self.restarts.values())
        return f"<ShadowProcess {self._spec}: pid {self.pid}, {restarts} restarts {self.given_up!r}>"

    @property
    def pid(self) -> int:
        """The process's id; 0 while there is none."""
        process = self._process
        return process.pid if process is not None else 0

    @property
    def ready(self) -> bool:
        """Whether there is a process that has the version loaded."""
        return self._process is not None and bool(self._board.desk[b.READY])

    def start(self) -> None:
        """Begin. Nothing waits for the process."""
        self._thread.start()

    def tell(self, tail: int) -> None:
        """Say how far the ring is written; never waits."""
        line = self._line
        if line is not None:
            with suppress(OSError):  # It is dead, or has enough to read: the next word holds for all before.
                line.send(TAIL.pack(tail))

    def stop(self) -> None:
        """End the process, and wait until it is gone."""
        os.eventfd_write(self._stop, 1)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stop)

    def _keep(self) -> None:
        """Have a process until told otherwise. The thread's body."""
        try:
            self._ring.prepare()
            self._keep_alive()
        except Exception as error:
            log.exception("version=%s event=shadow_unkept", self._spec)
            self.given_up = f"it could not be kept: {error}"

    def _keep_alive(self) -> None:
        deaths = 0
        while True:
            began_s = time.monotonic()
            death, reason = self._live()
            if death is None:
                return
            deaths = 1 if time.monotonic() - began_s > RECOVERED_S else deaths + 1
            self._bury(death)
            if deaths > self._settings.restarts_max:
                self.given_up = f"it died {deaths} times in a row, at last so: {reason}"
                log.error("version=%s event=shadow_given_up deaths=%d reason=%r", self._spec, deaths, reason)
                return
            log.warning("version=%s event=shadow_died death=%s reason=%r", self._spec, death, reason)
            if self._wait(min(BACKOFF_S * 2 ** (deaths - 1), BACKOFF_S_MAX)):
                return
            self.restarts[death] += 1

    def _live(self) -> tuple[Death | None, str]:
        """Start a process and watch it to its end; no death is one that was asked for."""
        self._board.desk[: b.LOST + 1] = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs:
                process = self._spawn(theirs)
            self._process, self._line = process, ours
            try:
                # What was written before, and while, there was nobody to tell.
                self.tell(self._ring.tail)
                return self._watch(process)
            finally:
                self._line = self._process = None
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()

    def _spawn(self, line: socket.socket) -> subprocess.Popen[bytes]:
        fds = (self._ring.fd, self._board.fd, line.fileno())
        return subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "serving.shadow.child", json.dumps(self._task(*fds))],
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

    def _task(self, ring: int, board: int, line: int) -> dict[str, object]:
        spec = self._spec
        return {
            "parent": os.getpid(),
            "ring": ring,
            "board": board,
            "line": line,
            "path": str(spec.artifact.path),
            "graph_level": spec.config.graph_level,
            "inputs": [(each.name, each.datatype.name, each.optional) for each in spec.inputs],
            "outputs": [(each.name, each.datatype.name, each.shape) for each in spec.outputs],
            "sides": self._sides,
            "rows_max": spec.rows_max,
            "age_ns_max": int(self._settings.age_s_max * 1e9),
            "memory_bytes_max": self._settings.memory_bytes_max,
        }

    def _watch(self, process: subprocess.Popen[bytes]) -> tuple[Death | None, str]:
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
                    if line := os.read(words, REASON_BYTES_MAX):
                        said = line
                        log.warning("version=%s event=shadow_said reason=%r", self._spec, _plain(said))
                    else:
                        poll.unregister(words)
                if pidfd in ready:
                    return Death.CRASHED, _cause(process.wait(), said)
                if late := self._late(process.pid, began_ns):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    return Death.HUNG, late
        finally:
            os.close(pidfd)

    def _late(self, pid: int, began_ns: int) -> str:
        """Say what takes too long, if something does."""
        desk = self._board.desk
        since_ns, used_ns = int(desk[b.SINCE_NS]), int(desk[b.USED_NS])
        limit_s, what = self._settings.run_s_max, "a run"
        if not desk[b.READY]:
            since_ns, used_ns, limit_s, what = began_ns, 0, START_S_MAX, "its start"
        if not since_ns:
            return ""
        try:
            # The processor time of another process, by its id: <linux/posix-timers.h>.
            computed_s = (time.clock_gettime_ns((~pid << 3) | 2) - used_ns) / 1e9
        except OSError:
            return ""  # It is just dying.
        lasted_s = (time.monotonic_ns() - since_ns) / 1e9
        if computed_s <= limit_s and lasted_s <= max(PATIENCE * limit_s, PATIENCE_S_MIN):
            return ""
        return f"{what} did not end after {computed_s:.3g} s of computing and {lasted_s:.3g} s in all"

    def _bury(self, death: Death) -> None:
        """Leave out what the dead one was at, which the next one would die of, too."""
        arm, lost = int(self._board.desk[b.ARM]), int(self._board.desk[b.LOST])
        try:
            held = self._ring.skip()
        except Torn:
            log.warning("version=%s event=shadow_ring_emptied", self._spec)
            held = True
        if held and 0 <= arm < ARMS_MAX:
            drop = Drop(death.value)
            self.lost[arm][drop] = self.lost[arm].get(drop, 0) + max(lost, 1)

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
            return "it was killed, by the system if memory ran out"
        case number if number > 0:
            return signal.strsignal(number) or f"signal {number}"
    return _plain(said) or f"it ended with exit code {code}"
