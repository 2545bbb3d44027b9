"""Which rows of a tensor are counted, and against what? One stream, as those have it who write the rows."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from serving.drift.measure import Measure
from serving.drift.reading import Drop, Key, StreamReading
from serving.drift.ring import RowRing
from serving.drift.sheet import HEAD, ROWS, Sheet
from serving.drift.view import Look

DROPS = (Drop.FULL, Drop.MISFIT, Drop.BROKEN)
"""As `RowRing.dropped` has them."""


class Flow:
    """One stream. Several may use a ring, one after the other.

    Parameters
    ----------
    number : int
        That of `StreamReading.stream`.
    key, look, profile, measures
        What is counted, and against what.
    ring : RowRing
        Where the rows wait; it is about those from here on.
    after : Flow, optional
        Whose ring it was until now.
    """

    def __init__(
        self,
        number: int,
        key: Key,
        look: Look,
        profile: str,
        measures: Sequence[Measure],
        ring: RowRing,
        after: Flow | None = None,
    ) -> None:
        self.number, self.key, self.look, self.profile = number, key, look, profile
        self.ring = ring
        self.after = after.number if after is not None else 0
        self.sheet = Sheet(measures, head=ring.written)
        self.terms = orjson.dumps({"look": look.to_json(), "measures": [each.to_json() for each in measures]})
        """What the process must know of it."""
        self.until: int | None = None
        """The row that is not part of it any more, once there is one."""
        self.skipped = 0
        """Rows that the process died of."""
        self._before = ring.dropped
        self._after = self._before
        self._last: StreamReading | None = None

    def __repr__(self) -> str:
        model, version, role, tensor = self.key
        return f"<Flow {self.number} of {model}@{version} {role} {tensor!r}: {self.ring!r}>"

    def end(self) -> None:
        """Let what is written from now on be no part of it."""
        self.until = self.ring.written
        self._after = self.ring.dropped

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that were not counted, by why."""
        now = self.ring.dropped if self.until is None else self._after
        counts = [more - less for more, less in zip(now, self._before, strict=True)]
        counts[-1] += self.skipped
        return {str(drop): count for drop, count in zip(DROPS, counts, strict=True) if count}

    def reading(self) -> StreamReading:
        """Return what was counted until now. Any thread may call it."""
        if self._last is not None:
            return self._last
        page = self.sheet.read()
        rows = int(page.words[ROWS])
        panels = {name: counts.tally(rows) for name, counts in page.panels.items()}
        return StreamReading(self.number, self.profile, self.look, rows, self.dropped, panels)

    def skip(self) -> int:
        """Leave out what waits, and return where it began. Only while no process counts."""
        page = self.sheet.read()
        head = int(page.words[HEAD])
        page.words[HEAD] = self.ring.written if self.until is None else self.until
        self.skipped += int(page.words[HEAD]) - head
        self.sheet.show(page)
        return head

    def close(self) -> None:
        """Give its memory back, but for what it counted."""
        self._last = self.reading()
        self.sheet.close()
