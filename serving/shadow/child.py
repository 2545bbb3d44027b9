"""The process in which a shadow runs: it is made to lose, and steps back before it does anything.

It has the lowest rank there is, its memory is limited, and its parent kills it when it hangs. What it does
is in `serving.shadow.working`, which takes half a second to import: at the lowest rank, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

from serving import confine


def main() -> None:
    """Do the task that is the only argument, until the parent leaves."""
    task = json.loads(sys.argv[1])
    out = os.dup(1)
    os.dup2(2, 1)  # For libraries that print.
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    confine.step_back()
    if os.getppid() != task["parent"]:
        return  # It was gone before its end could be noticed.
    from serving.shadow.working import Shadowing, Task, say

    try:
        Shadowing(Task(**task), out).serve()
    except Exception as error:  # noqa: BLE001 - Whatever it was, the parent logs it and starts anew.
        say(out, error)
        os._exit(1)


if __name__ == "__main__":
    main()
