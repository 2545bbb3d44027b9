"""The process in which candidates are tried: how it is confined, and how it is spoken to.

It reads questions and writes answers, a line of JSON each. The parent kills it when it hangs; what it
may use is limited by itself, before it reads anything that it does not trust.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from serving import confine

CPU_SPARE_S = 5
"""The parent's deadline comes first; this limit is for a child whose parent is gone."""


def main() -> None:
    """Answer questions until there are no more."""
    out = _take_stdout()
    confine.step_back()
    confine.write_no_files()
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


def _limit(memory_bytes: int, cpu_s: float) -> None:
    """Allow so much more memory and time than this process has used so far."""
    confine.lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + cpu_s) + CPU_SPARE_S)
    confine.limit_memory(memory_bytes)


if __name__ == "__main__":
    main()
