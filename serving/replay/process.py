"""Does the process that replays come to an end? It is started, watched, and ended if it takes too long."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any

from serving import confine
from serving.keeper import _cause
from serving.replay.parcel import AT, SINCE_NS, USED_NS, Parcel, Words

PERIOD_S = 0.1
"""How often somebody looks whether a run takes too long."""
ANSWER_BYTES_MAX = 8 << 20


class Unreplayable(Exception):
    """There is no report. The message says why, for whoever asked."""


class Died(Exception):
    """The process ended, or had to be, when it was at a version: counted from 0."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at, self.reason = at, reason


class Stopped(Exception):
    """Somebody said stop."""


def replayed(parcel: Parcel, run_s_max: float, until_s: float, stop: int) -> dict[str, Any]:
    """Have inputs replayed, and return what came of it. Blocks, in a thread that lasts: it is ended with it.

    Parameters
    ----------
    run_s_max : float
        Processor time of one run, or of opening one version.
    until_s : float
        By the monotonic clock.
    stop : int
        An eventfd that says so when it can be read.

    Raises
    ------
    Died
        If a version ended the process, or hung.
    Unreplayable
        If there is no report for another reason.
    Stopped
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-s", "-m", "serving.replay.child", _task(parcel)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=confine.environment(),
        cwd="/",
        pass_fds=(parcel.fd,),
        # As for admission: in a session of its own its rank would count for nothing.
        process_group=0,
    )
    try:
        said = _watch(process, parcel.desk, run_s_max, until_s, stop)
        at = int(parcel.desk[AT])
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    return _read(process, said, at)


def _task(parcel: Parcel) -> str:
    return json.dumps({"parent": os.getpid(), "fd": parcel.fd})


def _watch(
    process: subprocess.Popen[bytes], desk: Words, run_s_max: float, until_s: float, stop: int
) -> bytes:
    """Return all that the process said, once it has ended by itself."""
    assert process.stdout is not None
    words = process.stdout.fileno()
    pidfd = os.pidfd_open(process.pid)
    said: list[bytes] = []
    try:
        poll = select.poll()
        for fd in (pidfd, words, stop):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(PERIOD_S * 1000)}
            if stop in ready:
                raise Stopped
            if words in ready:
                part = os.read(words, 1 << 20)
                said.append(part)
                if not part:
                    poll.unregister(words)
                elif sum(map(len, said)) > ANSWER_BYTES_MAX:
                    raise Unreplayable("the process said more than any report has")
            elif pidfd in ready:  # And nothing is left to be read.
                process.wait()
                return b"".join(said)
            _check_time(process.pid, desk, run_s_max, until_s)
    finally:
        os.close(pidfd)


def _check_time(pid: int, desk: Words, run_s_max: float, until_s: float) -> None:
    if time.monotonic() > until_s:
        raise Unreplayable(
            "it did not finish in time: others go first, and there may be no time left on this machine; "
            "ask for fewer --rows, or raise replay.deadline_s"
        )
    at, since_ns, used_ns = (int(desk[each]) for each in (AT, SINCE_NS, USED_NS))
    if not at or not since_ns:
        return
    try:
        # The processor time of another process, by its id: <linux/posix-timers.h>.
        computed_s = (time.clock_gettime_ns((~pid << 3) | 2) - used_ns) / 1e9
    except OSError:
        return  # It is just dying.
    if computed_s > run_s_max:
        raise Died(at - 1, f"a run did not end after {computed_s:.3g} s of computing")


def _read(process: subprocess.Popen[bytes], said: bytes, at: int) -> dict[str, Any]:
    """Return the report, or raise why there is none."""
    try:
        told = json.loads(said)
        report, error = told.get("report"), told.get("error", "")
    except (ValueError, AttributeError):
        report, error = None, ""
    if isinstance(report, dict):
        return report
    reason = str(error) or _cause(process.returncode, b"")
    if at:
        raise Died(at - 1, f"it ended the process: {reason}")
    raise Unreplayable(f"the process that replays ended: {reason}")
