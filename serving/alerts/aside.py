"""What became of events that a receiver did not want? They are kept in a file that is bounded, to look at."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import orjson

from serving.alerts.event import Event
from serving.clock import utc

log = logging.getLogger("turnout.alerts")

FILE = "set-aside.jsonl"
FILE_BYTES_MAX = 4 << 20
"""As many are kept in the file before it."""


def keep(folder: Path, receiver: str, event: Event, why: str, now_us: int) -> None:
    """Write down an event that was set aside; that it cannot be written must not hold up the others."""
    path = folder / FILE
    head = orjson.dumps({"at": utc(now_us), "receiver": receiver, "why": why})
    line = b'%s,"event":%s}\n' % (head[:-1], event.line(FILE_BYTES_MAX // 4))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        file = os.open(path, flags, 0o600)
        try:
            os.write(file, line)
            full = os.fstat(file).st_size >= FILE_BYTES_MAX
        finally:
            os.close(file)
        if full:
            path.replace(path.with_suffix(".jsonl.1"))
    except OSError as error:
        log.error("event=alert_not_kept file=%s reason=%r", path, str(error))
