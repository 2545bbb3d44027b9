"""Which answers of a model are remembered, and which of them has this id? A bounded table, oldest out first.

Rows are kept in segments of arrays. New ones go into the open segment; a full one is sealed, that is sorted
by key once, so that a label is found in it by bisection. All of it belongs to one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.labels.decision import Classes, Decision, Scores

if TYPE_CHECKING:
    from serving.evidence.page import Page

Keys = NDArray[np.int64]
Places = NDArray[np.int64]

SEGMENT_ROWS_MAX = 1 << 16
"""So that two bytes tell a segment's rows apart, and its marks."""
SEGMENTS_MIN = 16
"""In how many parts at least what is remembered is forgotten."""
SEGMENT_ROWS_MIN = 1024
"""Of the first; each has twice what the one before had, so that a model with few requests takes little."""
SCANNED_MAX = 4
"""Up to so many keys are looked for in the open segment one by one; for more it is sorted."""
NO_SLOT = -1
ROW_STEP = -7046029254386353131
"""What rows of one request differ by in their keys: 2**64 divided by the golden ratio, as a signed number."""

COLUMNS: dict[str, Any] = {
    "keys": np.int64,
    "marks": np.uint16,
    "classes": np.int32,
    "scores": np.float32,
    "slots": np.int16,
    "at_us": np.int64,
    "labelled": np.bool_,
}
ROW_BYTES: int = sum(np.dtype(each).itemsize for each in COLUMNS.values())


class Mark(NamedTuple):
    """What rows have in common that were answered alike."""

    version: str
    revision: int
    """Of the routing table by which it was decided who answers; 0 if nothing says it."""
    decision: Decision
    page: Page | None = None
    """Where what becomes of them counts as evidence."""
    shadow: bool = False
    """Whether nobody got the answer."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Answers that are to be remembered.

    Attributes
    ----------
    keys : (n,) int64
    marks : sequence of Mark
    codes : (n,) int64
        Which of the marks each row has.
    classes, scores : (n,) int32 and float32
        As `serving.labels.decision.decide` returns them.
    slots : (n,) int64
        Where the callers' keys fell; `NO_SLOT` where none decided.
    at_us : int
        Unix time, of all.
    """

    keys: Keys
    marks: Sequence[Mark]
    codes: Places
    classes: Classes
    scores: Scores
    slots: Places
    at_us: int


class Segment:
    """Rows that are forgotten together.

    Attributes
    ----------
    rows : int
        How many there are so far.
    marks : list of Mark
        What the column of the same name points into.
    """

    __slots__ = (*COLUMNS, "_codes", "_order", "capacity", "marks_of", "rows")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows = 0
        self.keys: Keys = np.empty(capacity, np.int64)
        self.marks = np.empty(capacity, np.uint16)
        self.classes: Classes = np.empty(capacity, np.int32)
        self.scores: Scores = np.empty(capacity, np.float32)
        self.slots = np.empty(capacity, np.int16)
        self.at_us = np.empty(capacity, np.int64)
        self.labelled = np.zeros(capacity, np.bool_)
        self.marks_of: list[Mark] = []
        self._codes: dict[tuple[Any, ...], int] = {}
        self._order: NDArray[np.uint16] | None = None

    @property
    def newest_us(self) -> int:
        """When its last row was answered; there is one."""
        newest: int = self.at_us[self.rows - 1].item()
        return newest

    @property
    def bytes_total(self) -> int:
        """Its memory, marks aside."""
        order_bytes = 2 * self.capacity if self._order is not None else 0
        return self.capacity * ROW_BYTES + order_bytes

    def add(self, rows: Rows, start: int, stop: int) -> None:
        """Take rows `start` to `stop`; there is room for them."""
        at = slice(self.rows, self.rows + stop - start)
        codes = np.array([self._code(mark) for mark in rows.marks], np.uint16)
        self.keys[at] = rows.keys[start:stop]
        self.marks[at] = codes[rows.codes[start:stop]]
        self.classes[at] = rows.classes[start:stop]
        self.scores[at] = rows.scores[start:stop]
        self.slots[at] = rows.slots[start:stop]
        self.at_us[at] = rows.at_us
        self.rows = at.stop

    def _code(self, mark: Mark) -> int:
        # Both objects are kept, so that no others get their ids.
        key = (mark.version, mark.revision, id(mark.decision), id(mark.page))
        code: int = self._codes.setdefault(key, len(self.marks_of))
        if code == len(self.marks_of):
            self.marks_of.append(mark)
        return code

    def seal(self) -> None:
        """Sort it, as nothing is added any more."""
        order = np.argsort(self.keys, kind="stable")
        self.keys = self.keys[order]
        self._order = order.astype(np.uint16)

    def find(self, keys: Keys) -> Places:
        """Return the row of each key, of several the last; -1 where there is none."""
        if self._order is not None:
            return _bisected(self.keys, self._order, keys)
        here = self.keys[: self.rows]
        if len(keys) > SCANNED_MAX:
            order = np.argsort(here, kind="stable")
            return _bisected(here[order], order, keys)
        found = [np.flatnonzero(here == key) for key in keys]
        return np.array([rows[-1] if len(rows) else -1 for rows in found], np.int64)


def _bisected(ascending: Keys, order: NDArray[Any], keys: Keys) -> Places:
    at = np.searchsorted(ascending, keys, side="right") - 1
    rows = order[at].astype(np.int64)
    return np.where((at >= 0) & (ascending[at] == keys), rows, -1)


class Hits(NamedTuple):
    """What was found in one segment."""

    segment: Segment
    labels: Places
    """Which of the keys."""
    rows: Places
    """Their rows in the segment."""


class Answers:
    """What is remembered of one model.

    Parameters
    ----------
    rows_max : int
        At most; at least so many less an eighth.
    ttl_us : int
        How long at most.
    """

    def __init__(self, rows_max: int, ttl_us: int) -> None:
        self._rows_max = rows_max
        self._ttl_us = ttl_us
        self._largest = min(max(rows_max // SEGMENTS_MIN, 1), SEGMENT_ROWS_MAX)
        self.segments: deque[Segment] = deque()

    def __repr__(self) -> str:
        return f"<Answers: {len(self)} rows in {len(self.segments)} segments, {self.bytes_total} bytes>"

    def __len__(self) -> int:
        return sum(segment.rows for segment in self.segments)

    @property
    def bytes_total(self) -> int:
        """The memory that it has."""
        return sum(segment.bytes_total for segment in self.segments)

    def add(self, rows: Rows) -> None:
        """Remember rows, and forget what there is no room for."""
        start, count = 0, len(rows.keys)
        while start < count:
            segment = self.segments[-1] if self.segments else None
            if segment is None or segment.rows == segment.capacity:
                segment = self._open(segment)
            stop = min(count, start + segment.capacity - segment.rows)
            segment.add(rows, start, stop)
            start = stop

    def _open(self, full: Segment | None) -> Segment:
        capacity = min(SEGMENT_ROWS_MIN, self._largest)
        if full is not None:
            full.seal()
            capacity = min(2 * full.capacity, self._largest)
        while sum([each.capacity for each in self.segments]) + capacity > self._rows_max:
            self.segments.popleft()
        self.segments.append(Segment(capacity))
        return self.segments[-1]

    def forget(self, now_us: int) -> None:
        """Let go of segments that are too old."""
        while self.segments and self.segments[0].newest_us < now_us - self._ttl_us:
            self.segments.popleft()

    def find(self, keys: Keys, now_us: int) -> list[Hits]:
        """Return where these keys were answered last, by segment; a key that is not in it was not found."""
        found: list[Hits] = []
        left = np.arange(len(keys))
        for segment in reversed(self.segments):
            if not len(left):
                break
            rows = segment.find(keys[left])
            here = rows >= 0
            young = here.copy()
            young[here] = segment.at_us[rows[here]] >= now_us - self._ttl_us
            if young.any():
                found.append(Hits(segment, left[young], rows[young]))
            left = left[~here]
        return found


def keys_of(ids: Iterable[bytes], count: int) -> Keys:
    """Return the keys of so many ids, each as `InferRequest.id` has it: Python's hash, which is SipHash."""
    return np.fromiter(map(hash, ids), np.int64, count)


def row_key(key: Keys, row: Places) -> Keys:
    """Return the key of a row, counted from 0, of a request that has several."""
    with np.errstate(over="ignore"):
        return key + (row + 1) * np.int64(ROW_STEP)


def rows_in(sizes: Places) -> Places:
    """Return which row of its request each row is, for requests that have so many."""
    place: Places = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place


def row_keys(keys: Keys, sizes: Places) -> Keys:
    """Return the keys of rows, from those of their requests: of one that has a single row it is its own."""
    return np.where(np.repeat(sizes > 1, sizes), row_key(keys, rows_in(sizes)), keys)


def wire_id(text: str) -> bytes:
    """Return an id as `InferRequest.id` has it."""
    return orjson.dumps(text)[1:-1]
