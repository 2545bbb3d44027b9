"""What happened, and when? Alarms that were raised and cleared, in memory and in a file that outlives us.

A line of JSON each. The file is rotated, so that it takes no more than twice its bound; the last line may be
torn if the machine fell over, and is passed over then.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger("turnout.drift")

FILE = "events.jsonl"
FILE_BYTES_MAX = 1 << 20
"""Some 3,000 events; as many are kept in the file before it."""
KEPT_MAX = 1000
"""In memory."""

Event = dict[str, Any]


class Events:
    """The latest events of all models, the newest last.

    Parameters
    ----------
    folder : Path
        Where the file is, which only the user can enter.
    """

    def __init__(self, folder: Path, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path = folder / FILE
        self._before = self._path.with_suffix(".jsonl.1")
        self._file_bytes_max = file_bytes_max
        self._kept: deque[Event] = deque(maxlen=KEPT_MAX)
        for path in (self._before, self._path):
            self._kept.extend(_read(path))

    def add(self, event: Event) -> None:
        """Write down what happened. That it cannot be written must not keep it from being told."""
        self._kept.append(event)
        try:
            self._write(json.dumps(event).encode() + b"\n")
        except OSError as error:
            log.error("event=drift_event_not_written file=%s reason=%r", self._path, str(error))

    def of(self, model: str) -> Iterable[Event]:
        """Return those of a model, the newest first."""
        return [event for event in reversed(self._kept) if event["model"] == model]

    def _write(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o600)
        try:
            if not _ends_a_line(self._path):
                line = b"\n" + line
            os.write(file, line)
            os.fdatasync(file)
            full = os.fstat(file).st_size >= self._file_bytes_max
        finally:
            os.close(file)
        if full:
            self._path.replace(self._before)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _read(path: Path) -> Iterable[Event]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            event = json.loads(line)
            if isinstance(event, dict) and isinstance(event["model"], str):
                yield event
        except (ValueError, KeyError):
            log.warning("event=drift_event_torn file=%s line=%r", path, line[:80])
