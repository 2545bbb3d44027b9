"""What is written down of each request that was due, and how is it kept?"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

RECORD = struct.Struct("<qqqBHBBBH")


class Fate(IntEnum):
    """What became of a request."""

    ANSWERED = 0
    REFUSED = 1
    """Nobody took its connection."""
    ERROR = 2
    """It was answered with another status than 200, or unreadably."""
    LOST = 3
    """Its connection ended before the answer was there."""
    LATE = 4
    """No answer came in time."""
    MIXED = 5
    """It was answered with another request's id or values."""
    UNSENT = 6
    """So many were waiting for answers that it was not sent."""


class Asked(NamedTuple):
    """A request. Times are of `time.monotonic_ns`; versions are 0 where there was none.

    `claimed` is the answer's ``model_version``, `routed` what its ``turnout-route`` says, `true` what the
    model computed. `port` is the client's own, 0 of a request that had no connection.
    """

    due_ns: int
    start_ns: int
    end_ns: int
    fate: Fate
    status: int = 0
    claimed: int = 0
    routed: int = 0
    true: int = 0
    port: int = 0


def save(path: Path, history: Iterable[Asked]) -> None:
    """Write a history to a file."""
    path.write_bytes(b"".join(RECORD.pack(*each) for each in history))


def load(path: Path) -> Iterator[Asked]:
    """Read what `save` wrote."""
    for due_ns, start_ns, end_ns, fate, *rest in RECORD.iter_unpack(path.read_bytes()):
        yield Asked(due_ns, start_ns, end_ns, Fate(fate), *rest)
