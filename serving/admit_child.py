"""The process in which candidates are tried: how it is confined, and how it is spoken to.

It reads questions and writes answers, a line of JSON each. The parent kills it when it hangs; what it
may use is limited by itself, before it reads anything that it does not trust.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

CPU_SPARE_S = 5
"""The parent's deadline comes first; this limit is for a child whose parent is gone."""
PR_SET_PDEATHSIG = 1  # Of <linux/prctl.h>: the signal that comes when the thread that made this process ends.


def main() -> None:
    """Answer questions until there are no more."""
    out = _take_stdout()
    _confine()
    from serving.regular import Refusal
    from serving.trial import attempt

    def say(**answer: Any) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    say(ready=True)
    for line in sys.stdin:
        question = json.loads(line)
        _limit(question["memory_bytes_max"], question["deadline_s"])
        try:
            note = attempt(Path(question["path"]), question["file_bytes_max"], lambda stage: say(stage=stage))
        except Refusal as refusal:
            say(reason=str(refusal))
        else:
            say(reason=None, note=note)


def _take_stdout() -> Any:
    """Keep standard output for the answers alone: libraries that print go to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def _confine() -> None:
    os.nice(19)
    if sys.platform == "linux":
        # Whoever asked may be killed in the middle of a trial, which would then run on for nobody.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        # If memory runs out on the machine, this process goes first, and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _limit(memory_bytes: int, cpu_s: float) -> None:
    """Allow so much more memory and time than this process has used so far."""
    used_s = math.ceil(time.process_time() + cpu_s) + CPU_SPARE_S
    _lower(resource.RLIMIT_CPU, used_s)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    main()
