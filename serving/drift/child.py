"""The process that counts for drift: it steps back behind the server, and ends with it.

What it does is in `serving.drift.rounds`, which takes a second to import, kernels included: at the lower
rank, too, while the server loads its models.
"""

from __future__ import annotations

import json
import os
import sys

from serving import confine

RANK = 10
"""So that it gets a tenth of a core that the server wants all of, and not nothing: rows wait for it."""


def main() -> None:
    """Do the task that is the only argument, until the parent leaves."""
    task = json.loads(sys.argv[1])
    out = os.dup(1)
    os.dup2(2, 1)  # For libraries that print.
    confine.step_back(RANK)
    if os.getppid() != task["parent"]:
        return  # It was gone before its end could be noticed.
    from serving.drift.rounds import Rounds, Task
    from serving.shadow.working import say

    try:
        Rounds(Task(**task)).serve()
    except Exception as error:  # noqa: BLE001 - Whatever it was, the parent logs it and starts anew.
        say(out, error)
        os._exit(1)


if __name__ == "__main__":
    main()
