"""What if one of Ray's daemons dies that nothing goes on without?"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

WATCH_S = 0.2
DAEMONS = ("raylet", "gcs_server")


@contextlib.contextmanager
def watched(say: Callable[[str, str], None]) -> Iterator[None]:
    """End this process when a daemon dies that nothing goes on without; Ray's calls would hang instead."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_S):
            dead = dead_child()
            if dead in DAEMONS and not over.is_set():
                say("failed", f"Ray's {dead} has died")
                os._exit(1)  # No thread of Ray's can hold this up; the launcher sees to what is left.

    threading.Thread(target=watch, name="turnout-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def dead_child() -> str | None:
    """Return the name of a child process that has ended, without taking its exit code from Ray."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None  # The cluster is not ours.
    return Path(f"/proc/{found.si_pid}/comm").read_text().strip() if found else None
