"""Which replicas of this node live, whatever became of those who talk to them?

A member holds a lock on a file of its own (flock, which the kernel frees with the last process that has
the file open, however that ends). So who lives can be told without asking anybody: neither a control that
has just started nor one that lost all its connections can overlook a replica that still answers requests.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".member"
LOOK_S = 0.001


class Membership:
    """A place of this process's own among the members, until `leave` or its end.

    Parameters
    ----------
    folder : Path
        The deployment's, which only this user can enter.
    name : str
        What no other member ever was called in this folder.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._path = folder / f"{name}{SUFFIX}"
        unfinished = self._path.with_suffix(".joining")
        self._file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(self._file, json.dumps({"pid": os.getpid()}).encode())
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unfinished.rename(self._path)  # It is never seen without its lock, unless its process is dead.

    def leave(self) -> None:
        """Be a member no more: nothing is answered from here on."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


@dataclass(frozen=True, slots=True)
class Member:
    """A member that lives."""

    name: str
    pid: int


def living(folder: Path) -> dict[str, Member]:
    """Return the members that live, by name; what the dead left is removed."""
    found = {}
    for path in folder.glob(f"*{SUFFIX}"):
        member = _look(path)
        if member is not None:
            found[member.name] = member
    return found


def _look(path: Path) -> Member | None:
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None  # It has just left.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Member(path.stem, int(json.loads(os.pread(file, 256, 0))["pid"]))
    else:
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(file)


def kill(folder: Path, member: Member, s_max: float) -> bool:
    """End a member's process and return whether it is dead for certain.

    It blocks for at most `s_max`. Its process is this one's: then it lives on, and the answer is False.
    """
    path = folder / f"{member.name}{SUFFIX}"
    if member.pid == os.getpid():
        return False
    try:
        process = os.pidfd_open(member.pid)
    except OSError:
        return _look(path) is None
    try:
        # Only now: the lock is held, so the process id still means the process that this is about.
        if _look(path) is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        until_s = time.monotonic() + s_max
        while _look(path) is not None:
            if time.monotonic() > until_s:
                return False
            time.sleep(LOOK_S)
    finally:
        os.close(process)
    return True
