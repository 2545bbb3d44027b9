"""Where is it kept what labels counted, so that a control that starts goes on where the last one was?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import orjson

from serving.private import NotPrivate, private, read_bytes, replace

FOLDER, FILE = "labels", "quality.json"
BYTES_MAX = 1 << 30

log = logging.getLogger("turnout.labels")


class Store:
    """One file, written whole or not at all.

    Parameters
    ----------
    folder : Path
        The control's private folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = private(folder / FOLDER)
        self.path = self.folder / FILE
        self._changes = 0
        self._at_us = 0

    def read(self) -> Any:
        """Return what is in the file, None if nothing can be read; why is told."""
        try:
            return orjson.loads(read_bytes(self.path, BYTES_MAX))
        except FileNotFoundError:
            return None
        except (NotPrivate, ValueError, OSError) as error:
            log.error("event=quality_not_read file=%s reason=%r", self.path, str(error))
            return None

    def due(self, changes: int, now_us: int, every_s: float, *, at_once: bool) -> bool:
        """Say whether it is time to write: when `changes` went up at once, otherwise every so often."""
        if not at_once and changes == self._changes and 0 <= now_us - self._at_us < every_s * 1e6:
            return False
        self._changes, self._at_us = changes, now_us
        return True

    def write(self, document: Any) -> None:
        """Write it in the place of what was there. That it cannot be written is only told."""
        try:
            replace(self.path, orjson.dumps(document))
        except OSError as error:
            log.error("event=quality_not_written file=%s reason=%r", self.path, str(error))
