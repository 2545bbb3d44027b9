"""How are requests written down by the process that asks, and read by the one that judges?"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from loadtests.register import Outcome, Request

RECORD = struct.Struct("<qqBBBBH")
"""Start, end, outcome, claimed, routed, true, connection."""
REQUESTS_MAX = 20_000_000
"""440 MB; a run ends long before."""


class Notes:
    """Requests as they come, 22 bytes each."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes) // RECORD.size

    def add(self, request: Request) -> None:
        """Write one down. Beyond `REQUESTS_MAX` that is an error: a history with holes proves nothing."""
        if len(self) >= REQUESTS_MAX:
            raise OverflowError(f"more than {REQUESTS_MAX} requests")
        self._bytes += RECORD.pack(*request)

    def save(self, path: Path) -> None:
        """Write them to a file, which is there only when it is whole."""
        partial = path.with_suffix(".partial")
        partial.write_bytes(self._bytes)
        partial.rename(path)


def load(path: Path) -> Iterator[Request]:
    """Read what `Notes.save` wrote."""
    for start_ns, end_ns, outcome, *rest in RECORD.iter_unpack(path.read_bytes()):
        yield Request(start_ns, end_ns, Outcome(outcome), *rest)
