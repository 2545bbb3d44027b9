"""How is a process ended with all that it started, and how does it end with the one that started it?"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

KILLED_S_MAX = 5.0
"""How long what was killed may take to be gone, with the sockets that it held."""


def end(leader: subprocess.Popen[bytes], s_max: float) -> None:
    """Ask the leader of a session to drain and end, kill it if it takes too long, and all that it leaves."""
    if leader.poll() is None:
        leader.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        leader.wait(s_max)
    # Stopped halfway, Ray forgets some processes, each of which has a group of its own: replicas that would
    # go on to hold the sockets, so that nobody could start the gateway again.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
    until_s = time.monotonic() + KILLED_S_MAX
    while (left := session(leader.pid)) and time.monotonic() < until_s:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def session(leader: int) -> list[int]:
    """Return the processes of a session that have not ended; none where there is no ``/proc``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (comm) state ppid pgrp session: proc_pid_stat(5); a name may have blanks and brackets.
            state, _, _, sid, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(sid) == leader and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def outlive_nobody() -> None:
    """Have the kernel end this process with SIGTERM when its parent dies, however it dies."""
    import ctypes

    pr_set_pdeathsig = 1
    libc: Any = ctypes.CDLL(None)
    parent = os.getppid()
    if libc.prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0) != 0 or os.getppid() != parent:
        raise OSError("the launcher has ended already")
