"""What is copied of a version's batches to be counted, and when? Bytes, many batches at once, a moment later.

Batches that were answered are kept for a moment, as a reference each, and then written together: of requests
that run alone that costs 0.2 µs each instead of 1. It is soon in a busy server, and otherwise when somebody
sweeps. Nobody uses their arrays again meanwhile: the lane marks what it shows to a tap.

Whatever the version ran is counted, also for a client that has left; what failed is not. Where the model does
not take batches, a tensor whose first dimension is free is as many rows, and any other is one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from serving.drift import features
from serving.drift.features import Misfit
from serving.drift.flow import Flow
from serving.drift.ring import BROKEN, FULL, MISFIT
from serving.drift.view import View
from serving.track import Batch, Tap
from serving.wire import DATATYPES

HELD_MAX = 256
"""Batches that are held at most."""
HELD_ROWS_MAX = 256
"""Rows that they are to have together: what one more costs is then a copy."""
HELD_BYTES_MAX = 256 << 10
"""What they have at most, unless a single one has more."""
STRINGS_MAX = 4096
"""Strings of one batch that are hashed, at 0.1 to 1 µs each; rows beyond that count as ones without room."""

log = logging.getLogger("turnout.drift")


class Inlet:
    """One tensor of a version.

    Attributes
    ----------
    at : str or int
        The input's name, or the output's place.
    flow : Flow
        Whose rows it writes; another one takes its place when the profile changes.
    times : int
        How many rows a row of the batch is here; 0 if that varies.
    row_bytes : int
        Of a row that can be written as it is; 0 where rows have to be made first.
    """

    __slots__ = ("_shape", "at", "flow", "input", "look", "ring", "row_bytes", "times")

    def __init__(self, at: str | int, flow: Flow, declared: tuple[int, ...]) -> None:
        self.at = at
        self.input = isinstance(at, str)
        self.flow, self.look, self.ring = flow, flow.look, flow.ring
        look = self.look
        self.times = 0 if -1 in declared else math.prod(declared) // math.prod(look.shape)
        plain = look.step == 1 and DATATYPES[look.datatype].dtype.kind not in "OV"
        free = look.loose or (look.view is View.SCORES and declared[-1] > 0)
        self.row_bytes = look.row_bytes if plain and (self.times or free) else 0
        self._shape = look.shape if plain and len(look.shape) == 1 and not look.loose else None

    def arrays(self, held: Sequence[Batch]) -> list[Any]:
        """Return the tensor of each batch that has it: an input may be left out."""
        at: Any = self.at
        try:
            if self.input:
                return [batch.feeds[at] for batch in held]  # type: ignore[index]  # They were answered.
            return [batch.outputs[at] for batch in held]  # type: ignore[index]
        except KeyError:
            return [batch.feeds[at] for batch in held if at in batch.feeds]  # type: ignore[index,operator]

    def put(self, array: NDArray[Any]) -> None:
        """Write a tensor, or count it as a misfit."""
        if array.shape[1:] == self._shape:  # By far the most; what follows takes five times as long.
            self.ring.put(array)
            return
        try:
            taken = features.rows(self.look, self._bounded(array))
        except Misfit:
            self.ring.refuse(MISFIT, len(array) if array.ndim > len(self.look.shape) else 1)
            return
        self.ring.put(taken)

    def _bounded(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return as much of a tensor as may be taken, where taking it is work."""
        if array.dtype.kind != "O" or array.size <= STRINGS_MAX or not array.ndim:
            return array
        rows = STRINGS_MAX * len(array) // array.size
        self.ring.refuse(FULL, (len(array) - rows) * (array.size // len(array)) // self.look.elements)
        return array[:rows]


class Intake:
    """All of a version's tensors that are counted.

    Parameters
    ----------
    name : str
        The version, for the log.
    inlets : sequence of Inlet
    rows_max : int
        Of a batch.
    """

    def __init__(self, name: str, inlets: Sequence[Inlet], rows_max: int) -> None:
        self._name = name
        self.inlets = list(inlets)
        self._held: list[Batch] = []
        self._held_max = _held_max(inlets, max(rows_max, 1))
        self._broke = False
        self._closed = False
        self.tap: Tap = self._tap()
        """What is to be called with each batch, on the event loop."""

    def __repr__(self) -> str:
        return f"<Intake of {self._name}: {len(self.inlets)} tensors, {self._held_max} batches at once>"

    def _tap(self) -> Tap:
        # A closure: 50 ns a batch, where a method that looks all of this up in its object takes 70.
        held, most, flush = self._held, self._held_max, self.flush
        append = held.append

        def tap(batch: Batch) -> None:
            nonlocal most
            append(batch)
            if len(held) >= most:
                most = flush()

        return tap

    def flush(self) -> int:
        """Write what is held, and return how many batches like these are to be held at once."""
        held = self._held[:]
        self._held.clear()
        if not held or self._closed:
            return self._held_max
        # Of many a tensor is joined, at 28 ns each, before it is written; of one that is a copy too many.
        many = len(held) > 1
        rows = sum([batch.rows for batch in held])
        for inlet in self.inlets:
            try:
                if many:
                    self._write(inlet, held, rows)
                else:
                    for array in inlet.arrays(held):
                        inlet.put(array)
            except Exception:  # The other tensors are none the worse for it.
                inlet.ring.refuse(BROKEN, rows or len(held))
                if not self._broke:
                    self._broke = True
                    log.exception("version=%s event=drift_broke", self._name)
        return min(max(HELD_ROWS_MAX * len(held) // max(rows, 1), 1), self._held_max)

    def _write(self, inlet: Inlet, held: Sequence[Batch], rows: int) -> None:
        arrays, row_bytes = inlet.arrays(held), inlet.row_bytes
        if row_bytes and len(arrays) == len(held):
            joined = b"".join(arrays)
            count, rest = divmod(len(joined), row_bytes)
            if not rest and (count == rows * inlet.times or not inlet.times or not rows):
                inlet.ring.put_bytes(joined, count)
                return
        for array in arrays:
            inlet.put(array)

    def close(self) -> None:
        """Write what is held, and nothing any more."""
        self.flush()
        self._closed = True
        # It holds this object, and with it all memory of the streams: until the collector comes, otherwise.
        self.tap = _nothing


def _nothing(_batch: Batch) -> None:
    """Take no more batches."""


def _held_max(inlets: Sequence[Inlet], rows_max: int) -> int:
    """Return how many batches are held at once."""
    if not all(inlet.times for inlet in inlets):
        return 1  # Nobody knows how large they are.
    row_bytes = sum(inlet.times * math.prod(inlet.look.shape) * inlet.look.dtype.itemsize for inlet in inlets)
    return min(max(HELD_BYTES_MAX // max(row_bytes * rows_max, 1), 1), HELD_MAX)
