"""What is taken of the batches that a version answered, so that labels find them? Keys and what was decided.

On the event loop a batch is kept for a moment, and then many are made rows of the table together, at 0.2 to
0.4 µs a request; a thread puts these into the table. A thread that made them, too, cost twelve times as much:
it and the loop took the interpreter from each other. Where inputs are large, or nobody knows how large, what
is needed of a batch is taken out at once, so that no input is kept for it, and the thread does the rest.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.labels.answers import NO_SLOT, Mark, Rows, keys_of, row_keys, rows_in
from serving.labels.decision import By, Classes, Decision, Scores, decide
from serving.model import ModelSpec
from serving.track import Batch, Tap
from serving.wire import InferRequest

HELD_MAX = 16384
"""Batches, or rows of many, that wait for the thread; of what comes beyond nothing is remembered."""
HELD_BYTES_MAX = 16 << 20
"""Inputs that are kept for that; of what comes beyond only what is needed is."""
FOLDED_ROWS = 1024
"""What is made rows of the table at once, with the last batch's: with 256 it takes S twice as much."""
FOLDED_SCORES = 1 << 16
"""What these rows may have of scores, if it is more than one row: they take 3 ns each, and the loop waits."""
OUTPUT_BYTES_MAX = 64 << 10
"""What is needed of a batch; outputs beyond that are decided at once."""

Places = NDArray[np.int64]

log = logging.getLogger("turnout.labels")


@dataclass(slots=True)
class Kept:
    """What is left of a request whose inputs are not kept; it is its own layout, too."""

    id: bytes
    stamp: bytes
    page: Any
    slot: int
    rows: int
    dropped: bool
    layout: Kept = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.layout = self


@dataclass(slots=True)
class Glance:
    """What is needed of batches.

    Attributes
    ----------
    requests : sequence
        Of all of them.
    rows : list of int
        Of each; 0 for one that is no batch to the model.
    arrays : list of list of ndarray
        Of each output that is looked at, one for each batch.
    answered : bool
        Whether all requests got an answer.
    decided : tuple of ndarray, optional
        What was decided, in the place of the arrays.
    """

    requests: Sequence[InferRequest | Kept]
    rows: list[int]
    arrays: list[list[NDArray[Any]]]
    answered: bool
    decided: tuple[Classes, Scores] | None = None


class Intake:
    """One version's answers on their way to the table.

    Parameters
    ----------
    spec : ModelSpec
    decision : Decision

    Attributes
    ----------
    answered, unnamed, misfits, full : int
        Rows: that are remembered, that had no id, that could not be told apart, for which there was no room.
    """

    def __init__(
        self,
        spec: ModelSpec,
        decision: Decision,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.spec = spec
        self._now_us = now_us
        self._ready: deque[Rows] = deque()
        self.decision = decision
        self.version = str(spec.artifact.version)
        self._held: list[Batch] = []
        self._glances: deque[Glance] = deque()
        self._broke = False
        self.answered = self.unnamed = self.misfits = self.full = 0
        self.tap: Tap = self._tap()
        """What is to be called with each batch, on the event loop."""

    def __repr__(self) -> str:
        waiting = len(self._held) + len(self._ready) + len(self._glances)
        return f"<Intake of {self.spec}: {self.answered} answers, {waiting} batches wait>"

    @property
    def waiting(self) -> bool:
        """Whether there is something to take."""
        return bool(self._ready or self._glances)

    def _tap(self) -> Tap:
        # A closure, as it is called for every batch.
        held, glances, whole_max = self._held, self._glances, _whole_max(self.spec)
        append, rows = held.append, 0
        rows_max = min(FOLDED_ROWS, FOLDED_SCORES // max(self.decision.classes, 1))

        def tap(batch: Batch) -> None:
            nonlocal rows
            if whole_max:
                append(batch)
                rows += batch.rows or 1
                if rows >= rows_max or len(held) >= whole_max:
                    rows = 0
                    self.fold()
            elif len(glances) < HELD_MAX:
                glances.append(self._taken_out(batch))
            else:
                self.full += batch.rows or 1

        return tap

    def fold(self) -> None:
        """Make rows of the table of what is held. On the event loop."""
        held = self._held[:]
        self._held.clear()
        if not held:
            return
        if len(self._ready) >= HELD_MAX:
            self.full += sum([batch.rows or 1 for batch in held])
            return
        self._ready += [each for each in self._rows_of_many(held, self._now_us()) if each is not None]

    def take(self, now_us: int) -> list[Rows]:
        """Return the next portion of what is to be remembered, if something waits. In the thread alone."""
        found: list[Rows | None] = []
        if self._ready:
            found.append(self._ready.popleft())
        if self._glances:
            found.append(self._rows_of_one(self._glances.popleft(), now_us))
        return [rows for rows in found if rows is not None]

    def _rows_of_many(self, batches: Sequence[Batch], now_us: int) -> list[Rows | None]:
        try:
            return [self._rows(self._glance(batches), now_us)]
        except ValueError:  # One of them is at fault.
            return [self._rows_of_one(self._glance([each]), now_us) for each in batches]

    def _rows_of_one(self, glance: Glance, now_us: int) -> Rows | None:
        try:
            return self._rows(glance, now_us)
        except ValueError as error:
            self.misfits += sum([request.layout.rows or 1 for request in glance.requests])
            if not self._broke:
                self._broke = True
                log.warning("version=%s event=answers_not_told_apart reason=%r", self.spec, str(error))
            return None

    def _glance(self, batches: Sequence[Batch]) -> Glance:
        requests = [request for batch in batches for request in batch.requests]
        arrays: list[list[Any]]
        arrays = [[batch.outputs[at] for batch in batches] for at in self.decision.outputs]  # type: ignore[index]
        answered = not [1 for batch in batches if batch.answered is not None]
        return Glance(requests, [batch.rows for batch in batches], arrays, answered)

    def _taken_out(self, batch: Batch) -> Glance:
        """Return what is needed of a batch, without its inputs."""
        glance = self._glance([batch])
        glance.requests = [
            Kept(each.id, each.stamp, each.page, each.slot, each.layout.rows, each.dropped)
            for each in batch.requests
        ]
        if sum([parts[0].nbytes for parts in glance.arrays]) > OUTPUT_BYTES_MAX:
            glance.decided = decide(self.decision, [parts[0] for parts in glance.arrays])
            glance.arrays = []
        return glance

    def _rows(self, glance: Glance, now_us: int) -> Rows | None:
        """Return the rows to be remembered; a `ValueError` if they cannot be told apart."""
        requests = glance.requests
        classes, scores, sizes = self._decided(glance)
        ids = [request.id for request in requests]
        chosen = self._chosen(glance, ids, sizes)
        if chosen is not None and not chosen.any():
            return None
        keys, codes = keys_of(ids, len(ids)), np.zeros(len(ids), np.int64)
        marks, slots = self._marked(requests, codes)
        if sizes is not None:
            codes, slots = np.repeat(codes, sizes), np.repeat(slots, sizes)
            keys = row_keys(np.repeat(keys, sizes), sizes)
            marks = _apart(rows_in(sizes), codes, marks)
        if chosen is not None:
            rows = chosen if sizes is None else np.repeat(chosen, sizes)
            keys, codes, slots = keys[rows], codes[rows], slots[rows]
            classes, scores = classes[rows], scores[rows]
        self.answered += len(keys)
        return Rows(keys, marks, codes, classes, scores, slots, now_us)

    def _chosen(self, glance: Glance, ids: list[bytes], sizes: Places | None) -> NDArray[np.bool_] | None:
        """Return which requests are remembered, None for all: those that were answered and have an id."""
        if glance.answered and all(ids):
            return None
        named = np.array([bool(each) for each in ids])
        answered = np.array([glance.answered or not request.dropped for request in glance.requests])
        without = answered & ~named
        self.unnamed += int(without.sum() if sizes is None else sizes[without].sum())
        chosen: NDArray[np.bool_] = answered & named
        return chosen

    def _decided(self, glance: Glance) -> tuple[Classes, Scores, Places | None]:
        """Return what was decided of each row, and how many each request has, None for one each."""
        decision, arrays = self.decision, glance.arrays
        if glance.decided is not None:
            classes, scores = glance.decided
            decided = [len(classes)]
        elif len(arrays[0]) == 1:
            classes, scores = decide(decision, [each[0] for each in arrays])
            decided = [len(classes)]
        elif decision.classes or (len(arrays) == 1 and decision.by is not By.SCORES):
            classes, scores = decide(decision, [_joined(each) for each in arrays])
            decided = [each.size // (decision.classes or 1) for each in arrays[0]] if self._free else []
        else:  # How many scores a row has differs from batch to batch.
            each = [decide(decision, list(parts)) for parts in zip(*arrays, strict=True)]
            classes, scores = (np.concatenate(part) for part in zip(*each, strict=True))
            decided = [len(part) for part, _ in each]
        return classes, scores, self._sizes(glance, decided, len(classes))

    @property
    def _free(self) -> bool:
        """Whether what a request has of rows is only to be seen in its answer."""
        return not self.spec.rows_max

    def _sizes(self, glance: Glance, decided: list[int], rows: int) -> Places | None:
        """Return how many rows each request has, None for one each; `ValueError` if that does not add up."""
        requests = glance.requests
        if rows == len(requests) == sum(glance.rows) and all(glance.rows):
            return None
        alone = len(requests) == 1 and not requests[0].layout.rows
        sizes = decided if self._free or alone else [request.layout.rows for request in requests]
        if sum(sizes) != rows or len(sizes) != len(requests):
            raise ValueError(f"{rows} rows of answers to {len(requests)} requests of {sum(sizes)}")
        return None if max(sizes) == min(sizes) == 1 else np.array(sizes, np.int64)

    def _marked(self, requests: Sequence[InferRequest | Kept], codes: Places) -> tuple[list[Mark], Places]:
        """Return the marks of requests, whose places go into `codes`, and where their callers' keys fell."""
        stamps, pages = {each.stamp for each in requests}, {each.page for each in requests}
        if pages == {None}:
            slots = np.full(len(requests), NO_SLOT, np.int64)
        else:
            slots = np.array([each.slot for each in requests], np.int64)
        if len(stamps) == len(pages) == 1:
            return [self._mark(requests[0])], slots
        found: dict[tuple[bytes, int], int] = {}
        marks: list[Mark] = []
        for at, each in enumerate(requests):
            code = found.setdefault((each.stamp, id(each.page)), len(marks))
            if code == len(marks):
                marks.append(self._mark(each))
            codes[at] = code
        return marks, slots

    def _mark(self, request: InferRequest | Kept) -> Mark:
        _, _, rest = request.stamp.partition(b";")
        revision, _, _ = rest.partition(b";")
        return Mark(self.version, int(revision or 0), self.decision, request.page)


def _whole_max(spec: ModelSpec) -> int:
    """Return how many batches are kept as they are; none if nobody knows how large they are."""
    total = 0
    for each in spec.inputs:
        row = each.shape[1:] if spec.rows_max else each.shape
        if -1 in row or not each.datatype.itemsize:
            return 0
        total += math.prod(row) * each.datatype.itemsize
    return min(HELD_BYTES_MAX // max(total * max(spec.rows_max, 1), 1), HELD_MAX)


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the elements of many small arrays, flat: as bytes, which takes a third of the time."""
    return np.frombuffer(b"".join(arrays), arrays[0].dtype)  # type: ignore[arg-type]  # Arrays are buffers.


def _apart(row: Places, codes: Places, marks: list[Mark]) -> list[Mark]:
    """Let a request of several rows count as evidence by its first alone: it was drawn as one.

    `codes` get the places of other marks, which are returned with those that there were.
    """
    if all(mark.page is None for mark in marks):
        return marks
    codes[row > 0] += len(marks)
    return [*marks, *[mark._replace(page=None) for mark in marks]]
