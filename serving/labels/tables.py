"""What is remembered of all models, live and of shadows, within one budget of memory? For one thread."""

from __future__ import annotations

from serving.config import Labels as Settings
from serving.labels.answers import Answers, Rows

FORGET_S = 5.0
"""How often it is looked for what is too old."""


class Tables:
    """Tables by model, and by the version that shadows, if it is of one.

    Parameters
    ----------
    settings : serving.config.Labels
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tables: dict[tuple[str, str], Answers] = {}
        self._forgot_us = 0

    def __repr__(self) -> str:
        return f"<Tables: {len(self._tables)} of {self.rows} rows, {self.bytes_total} bytes>"

    @property
    def rows(self) -> int:
        """How many answers are remembered. Any thread may ask."""
        return sum(len(each) for each in list(self._tables.values()))

    @property
    def bytes_total(self) -> int:
        """The memory that takes. Any thread may ask."""
        return sum(each.bytes_total for each in list(self._tables.values()))

    def live(self, model: str) -> Answers:
        """Return what is remembered of the answers that callers got; for whoever only looks."""
        return self._tables.get((model, ""), Answers(0, 0))

    def shadows(self, model: str) -> list[Answers]:
        """Return the same of each version that shadows."""
        return [each for (of, shadow), each in self._tables.items() if of == model and shadow]

    def remember(self, model: str, rows: Rows, shadow: str = "") -> None:
        """Take rows in, and let the oldest of any table go where there is no room."""
        table = self._tables.get((model, shadow))
        if table is None:
            made = Answers(self._settings.rows_max, int(self._settings.ttl_s * 1e6))
            table = self._tables[model, shadow] = made
        before = table.segments[-1] if table.segments else None
        table.add(rows)
        if table.segments[-1] is not before:
            self._bound()

    def _bound(self) -> None:
        while self.bytes_total > self._settings.bytes_max:
            full = [each for each in self._tables.values() if each.segments]
            oldest = min(full, key=lambda each: each.segments[0].newest_us)
            if sum(len(each.segments) for each in full) == 1:
                return
            oldest.segments.popleft()

    def forget(self, now_us: int) -> None:
        """Let go of what is too old, and of tables that have nothing."""
        self._forgot_us = now_us
        for key, table in list(self._tables.items()):
            table.forget(now_us)
            if not table.segments:
                del self._tables[key]

    def is_time(self, now_us: int) -> bool:
        """Say whether it is time to look for what is too old."""
        return not 0 <= now_us - self._forgot_us < FORGET_S * 1e6
