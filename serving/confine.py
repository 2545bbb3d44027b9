"""How is a process kept from harming the server that made it? Its environment, its rank, its limits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import serving

KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
PR_SET_PDEATHSIG = 1  # Of <linux/prctl.h>: the signal that comes when the thread that made this process ends.


def environment(*further: str) -> dict[str, str]:
    """Return what such a process may know of its parent's environment, the `further` variables included."""
    kept = {name: os.environ[name] for name in (*KEPT_ENVIRONMENT, *further) if name in os.environ}
    return kept | {
        "PYTHONPATH": str(Path(serving.__file__).parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # Each arena of malloc reserves address space, which is what is limited.
        "MALLOC_ARENA_MAX": "2",
    }


def step_back(rank: int = 19) -> None:
    """Let others go first, all of them at rank 19, and end with whoever made this process."""
    os.setpriority(os.PRIO_PROCESS, 0, max(rank, os.getpriority(os.PRIO_PROCESS, 0)))
    if sys.platform == "linux":
        # Whoever asked may be killed at any moment, after which this would run on for nobody.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        # If memory runs out on the machine, this process goes first, and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def write_no_files() -> None:
    """Write to no file from now on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def limit_memory(memory_bytes: int) -> None:
    """Allow so much more address space than is used so far."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes)


class Allowance:
    """A limit to the address space beyond what is used so far, that grows with what is meant to be used."""

    def __init__(self, memory_bytes: int) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
        self._bytes = pages * resource.getpagesize()
        self.add(memory_bytes)

    def add(self, memory_bytes: int) -> None:
        """Allow so much more."""
        self._bytes += memory_bytes
        if sys.platform == "linux":
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            limit = self._bytes if hard == resource.RLIM_INFINITY else min(self._bytes, hard)
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def lower(limit: int, value: int) -> None:
    """Set a limit that no later one can be above."""
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
