"""How much is remembered of what clients repeat: a mapping bounded in entries and in bytes.

What is asked for again stays, what was asked for once is forgotten. There are two generations: an
entry found in the earlier one moves to the recent one, and a full recent one becomes the earlier.
A flood of keys that never come back thus costs an entry in use one more lookup a turn, and nothing
grows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memo(Generic[Key, Value]):
    """A bounded mapping. Its values are never None.

    Parameters
    ----------
    entries_max : int
        Of both generations together.
    entry_bytes_max : int
        What an entry may weigh, by the word of who keeps it; heavier ones are not kept.

    Attributes
    ----------
    get : callable
        Looks in the recent generation alone, as fast as a dict; after a miss there is `recall`.
    """

    __slots__ = ("_earlier", "_entry_bytes_max", "_recent", "_recent_max", "get")

    def __init__(self, entries_max: int, entry_bytes_max: int) -> None:
        self._recent_max = max(1, entries_max // 2)
        self._entry_bytes_max = entry_bytes_max
        self._recent: dict[Key, Value] = {}
        self._earlier: dict[Key, Value] = {}
        # The dict is emptied at a turn, never replaced, so that its method can be handed out.
        self.get: Callable[[Key], Value | None] = self._recent.get

    def __len__(self) -> int:
        """Return how many keys are held."""
        return len(self._recent.keys() | self._earlier.keys())

    def recall(self, key: Key) -> Value | None:
        """Return what is kept for `key` in either generation, and make it recent."""
        value = self._recent.get(key)
        if value is None:
            value = self._earlier.get(key)
            if value is not None:
                self._add(key, value)
        return value

    def keep(self, key: Key, value: Value, entry_bytes: int) -> None:
        """Remember `value`, which together with its key takes about `entry_bytes`."""
        if entry_bytes <= self._entry_bytes_max:
            self._add(key, value)

    def _add(self, key: Key, value: Value) -> None:
        if len(self._recent) >= self._recent_max:
            self._earlier = self._recent.copy()
            self._recent.clear()
        self._recent[key] = value
