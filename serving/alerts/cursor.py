"""How far has a receiver been told?

A file of its own for each, replaced whole after every delivery. If we end between a delivery and that, the
receiver is told once more: never less than once.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.alerts.durable import replace_durably
from serving.private import NotPrivate, read

log = logging.getLogger("turnout.alerts")


@dataclass(frozen=True, slots=True)
class Position:
    """What a receiver has, counted from the beginning.

    Attributes
    ----------
    revision, digest : int, str
        The last entry of the journal of which it has all events, and that entry's hash.
    part : int
        How many events of the entry after that it has.
    posted : int
        The number of the last event that it has of those that are in no journal.
    delivered, set_aside : int
        Events that it took, and that it did not.
    """

    revision: int = 0
    digest: str = ""
    part: int = 0
    posted: int = 0
    delivered: int = 0
    set_aside: int = 0


class Cursor:
    """A receiver's position, as it is on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Position | None:
        """Return it; None if there is none, or none that can be understood."""
        try:
            return Position(**json.loads(read(self._path)))
        except FileNotFoundError:
            return None
        except (NotPrivate, ValueError, TypeError) as error:
            log.error("event=alert_cursor_not_read file=%s reason=%r", self._path, str(error))
            return None

    def write(self, position: Position) -> None:
        """Have it on the disk when this returns; `OSError` if that cannot be."""
        replace_durably(self._path, json.dumps(asdict(position)))
