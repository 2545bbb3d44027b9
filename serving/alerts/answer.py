"""What did a receiver say to an event, and what follows from that?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver said. `status` is 0 where it said nothing; `words` say why, without its URL."""

    status: int
    words: str = ""
    retry_after_s: float = 0.0

    @property
    def taken(self) -> bool:
        """Whether the event has arrived."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether this event, rather than any just now, is not wanted."""
        return 400 <= self.status < 500 and self.status not in (408, 429)
