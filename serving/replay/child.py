"""The process in which inputs are replayed: it steps back before it does anything, as a shadow's does.

It says one line: the report, or what went wrong. Its parent kills it when it takes too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

from serving import confine

REASON_CHARACTERS_MAX = 400


def main() -> None:
    """Do the task that is the only argument."""
    task = json.loads(sys.argv[1])
    out = os.dup(1)
    os.dup2(2, 1)  # For libraries that print.
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    confine.step_back()
    confine.write_no_files()
    if os.getppid() != task["parent"]:
        return  # It was gone before its end could be noticed.
    from serving.replay.working import Working

    try:
        said = json.dumps({"report": Working(task["fd"]).do()}, allow_nan=False)
    except Exception as error:  # noqa: BLE001 - Whatever it was, the parent says so.
        text = " ".join(f"{type(error).__name__}: {error}".split())[:REASON_CHARACTERS_MAX]
        said = json.dumps({"error": text})
    with open(out, "wb", closefd=False) as file:
        file.write(said.encode() + b"\n")


if __name__ == "__main__":
    main()
