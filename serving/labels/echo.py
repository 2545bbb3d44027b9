"""What did a shadow decide about requests that have an id? Rows in shared memory, from its process to ours.

With a sample of a batch go the keys of its rows (`serving.shadow.sample`), by which the shadow's decisions
are remembered beside the answers that callers got; so one label says something about both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.drift.ring import MISFIT, RowReader, RowRing
from serving.labels.answers import NO_SLOT, Keys, Mark, Rows, keys_of, row_keys
from serving.labels.decision import By, Decision, decide
from serving.model import ModelSpec
from serving.track import Batch

RING_BYTES = 1 << 20
"""Decisions that wait to be taken, some 40,000; what does not fit is not remembered."""
TAKEN_MAX = 4096
"""Rows that are taken in one go."""
WORD = np.dtype(np.int64)
KEY, CLASS, SCORE, WORDS = 0, 1, 2, 3
"""What a row has: its key, the class, and the bits of the score."""
NO_KEY = 0
"""Python's hash of no id."""


class Echo:
    """Our side of one shadow.

    Parameters
    ----------
    spec, decision : ModelSpec and Decision
        The shadow's.
    """

    def __init__(self, spec: ModelSpec, decision: Decision) -> None:
        self.spec = spec
        self.decision = decision
        self._ring = RowRing(WORD, WORDS, RING_BYTES)
        self._reader = RowReader(self._ring.fd, WORD, WORDS)
        self._head = 0
        self._mark = Mark(str(spec.artifact.version), 0, decision, shadow=True)

    def __repr__(self) -> str:
        return f"<Echo of {self.spec}: {self._ring!r}>"

    @property
    def answered(self) -> int:
        """Rows that were taken."""
        return self._head

    @property
    def lost(self) -> int:
        """Rows that were not remembered. Any thread may ask."""
        return sum(self._ring.dropped)

    @property
    def fds(self) -> tuple[int, ...]:
        """The memory."""
        return (self._ring.fd,)

    def task(self) -> dict[str, Any]:
        """Return what `Echoing` is made from, in another process, as plain values."""
        return {"fd": self._ring.fd, "decision": asdict(self.decision)}

    def keys(self, batch: Batch, rows: int) -> Keys | None:
        """Return the keys of a batch's rows, of which there are so many; None if they have none."""
        ids = [request.id for request in batch.requests]
        if not any(ids):
            return None
        keys = keys_of(ids, len(ids))
        if len(ids) == max(rows, 1):
            return keys
        sizes = np.array([request.layout.rows for request in batch.requests], np.int64)
        if sizes.sum() != rows:
            return None
        of_request = np.repeat(keys, sizes)
        return np.where(of_request == NO_KEY, NO_KEY, row_keys(of_request, sizes))

    def take(self, now_us: int) -> list[Rows]:
        """Return what was written, up to what was there at the look before. In one thread, and no other's."""
        found: list[Rows] = []
        until = self._reader.look()
        while self._head < until:
            rows = self._reader.take(self._head, until, TAKEN_MAX)
            found.append(self._rows(rows, now_us))
            self._head += len(rows)
            self._reader.say(self._head)
        return found

    def _rows(self, rows: NDArray[np.int64], now_us: int) -> Rows:
        named = rows[:, KEY] != NO_KEY
        kept = rows[named]
        nothing = np.zeros(len(kept), np.int64)
        return Rows(
            kept[:, KEY].copy(),
            [self._mark],
            nothing,
            kept[:, CLASS].astype(np.int32),
            kept[:, SCORE].copy().view(np.float64).astype(np.float32),
            nothing + NO_SLOT,
            now_us,
        )

    def close(self) -> None:
        """Give the memory back."""
        self._ring.close()


class Echoing:
    """The process's side."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self._decision = Decision(**{**task["decision"], "by": By(task["decision"]["by"])})
        self._ring = RowRing(WORD, WORDS, RING_BYTES, task["fd"])

    def put(self, keys: Keys, outputs: Sequence[NDArray[Any]]) -> None:
        """Write what was decided about these rows, or count them as misfits."""
        try:
            classes, scores = decide(self._decision, [outputs[at] for at in self._decision.outputs])
        except ValueError:
            classes, scores = np.empty(0, np.int32), np.empty(0, np.float32)
        if len(classes) != len(keys):
            self._ring.refuse(MISFIT, len(keys))
            return
        rows = np.empty((len(keys), WORDS), np.int64)
        rows[:, KEY], rows[:, CLASS] = keys, classes
        rows[:, SCORE] = scores.astype(np.float64).view(np.int64)
        self._ring.put(rows)
