"""When is memory given back that was taken for large bodies and answers, and is free again?

What is freed is kept by malloc, since it is usually wanted again soon (`cli.MALLOC_THRESHOLDS`). Once much of
it was in use, and hardly anything is any more, it goes back: else what an attack took would be held for good.
"""

from __future__ import annotations

MUCH_BYTES = 64 << 20
PART = 4
"""Of what was in use at most, a fourth or less still is."""


class Ebb:
    """Sees when much that was in use is so no longer."""

    def __init__(self) -> None:
        self._most_bytes = 0

    def look(self, bytes_now: int) -> bool:
        """Say whether it is time to give back. Called about once a second."""
        self._most_bytes = max(self._most_bytes, bytes_now)
        over = self._most_bytes >= MUCH_BYTES and bytes_now <= self._most_bytes // PART
        if over:
            self._most_bytes = 0
        return over
