"""How are inputs kept that versions answered? Those of one form together, as arrays of a known size."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.labels.answers import row_key
from serving.track import Batch
from serving.wire import InferRequest

BLOCK_BYTES = 2048
"""What a block takes beside what is in its arrays."""
UNIT_BYTES = 24
"""Beside its elements: who answered, who asked, and when."""
STRINGS_MAX = 1024
"""Of a run: each is looked at, at 50 ns, to know how large it is. Rows beyond that are left out."""
NO_ID = 0

Arrays = Mapping[str, NDArray[Any]]
Integers = NDArray[np.int64]
Form = tuple[bool, tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]]
"""Whether units are whole runs, and of each tensor its name, its type and the shape of a unit."""


@dataclass(frozen=True, eq=False)
class Block:
    """Inputs in the order in which they were answered.

    Attributes
    ----------
    form : Form
        A unit is a row, or a whole run where its rows cannot be told apart.
    arrays : mapping of str to ndarray
        By the input's name, [units, *the unit's shape]; nobody changes them any more.
    versions : int64[units]
        Which answered.
    ids : int64[units]
        The key of the request's id, or of its row where it has several, as `serving.labels.answers` has it:
        made of Python's hash, so `NO_ID` where there is none.
    arrived_ns : int64[units]
        By the monotonic clock.
    nbytes : int
        All of its memory.
    """

    form: Form
    arrays: Arrays
    versions: Integers
    ids: Integers
    arrived_ns: Integers
    nbytes: int

    def __repr__(self) -> str:
        return f"<Block: {self.units} units, {self.nbytes} bytes>"

    @cached_property
    def units(self) -> int:
        """How many inputs are in it."""
        return len(self.ids)

    @property
    def whole(self) -> bool:
        """Whether a unit is a whole run."""
        return self.form[0]

    def newest(self, units: int) -> Block:
        """Return the last so many units of it, without copying them."""
        arrays = {name: array[-units:] for name, array in self.arrays.items()}
        versions, ids, arrived_ns = self.versions[-units:], self.ids[-units:], self.arrived_ns[-units:]
        return Block(self.form, arrays, versions, ids, arrived_ns, self.nbytes)

    def joined(self, later: Block) -> Block:
        """Return the units of both, which have one form."""
        arrays = {name: np.concatenate([array, later.arrays[name]]) for name, array in self.arrays.items()}
        versions = np.concatenate([self.versions, later.versions])
        ids = np.concatenate([self.ids, later.ids])
        arrived_ns = np.concatenate([self.arrived_ns, later.arrived_ns])
        return Block(self.form, arrays, versions, ids, arrived_ns, self.nbytes + later.nbytes - BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Room:
    """What one block may have."""

    units: int
    nbytes: int


def blocks(version: int, held: Sequence[Batch], room: Room) -> Iterator[Block]:
    """Yield what is to be kept of batches that a version answered; no block is beyond the room.

    Of a batch that is too large by itself the first rows are kept, if one has room at all.
    """
    for form, group in _by_form(held):
        yield from _fitting(version, form, group, room)


def _by_form(held: Sequence[Batch]) -> Iterator[tuple[Form, list[Batch]]]:
    """Yield batches that follow each other and have one form."""
    group: list[Batch] = []
    form = last = None
    for batch in held:
        # Most have the layout of the one before, which says all but whether they were rows: 30 ns, not 500.
        alike = (batch.requests[0].layout if batch.requests else batch, not batch.rows)
        if last is None or alike[0] is not last[0] or alike[1] != last[1]:
            own = _form(batch)
            if group and form is not None and own != form:
                yield form, group
                group = []
            form, last = own, alike
        group.append(batch)
    if group and form is not None:
        yield form, group


def _form(batch: Batch) -> Form:
    whole = not batch.rows
    feeds = batch.feeds or {}
    if whole:
        return True, tuple([(name, array.dtype, array.shape) for name, array in feeds.items()])
    return False, tuple([(name, array.dtype, array.shape[1:]) for name, array in feeds.items()])


def _fitting(version: int, form: Form, group: list[Batch], room: Room) -> Iterator[Block]:
    units = len(group) if form[0] else sum([batch.rows for batch in group])
    if not units or not form[1]:
        return
    if units <= _units_max(form, room):
        made = _block(version, form, group, units)
        if made.nbytes <= room.nbytes:
            yield made
            return
    if len(group) > 1:
        half = len(group) // 2
        yield from _fitting(version, form, group[:half], room)
        yield from _fitting(version, form, group[half:], room)
    elif units > 1:
        some = max(min(_units_max(form, room), units // 2), 1)
        feeds = {name: array[:some] for name, array in (group[0].feeds or {}).items()}
        shorter = Batch(group[0].requests, some, group[0].taken_ns, feeds=feeds)
        yield from _fitting(version, form, [shorter], room)


def _units_max(form: Form, room: Room) -> int:
    """Return how many units have room at most; there may be less where strings are long."""
    unit_bytes, strings = UNIT_BYTES, 0
    for _, dtype, shape in form[1]:
        unit_bytes += prod(shape) * dtype.itemsize
        strings += prod(shape) * (dtype.kind == "O")
    by_bytes = (room.nbytes - BLOCK_BYTES) // unit_bytes
    return min(room.units, by_bytes, STRINGS_MAX // strings if strings else by_bytes)


def _block(version: int, form: Form, group: list[Batch], units: int) -> Block:
    arrays, nbytes = {}, BLOCK_BYTES + UNIT_BYTES * units
    for name, dtype, shape in form[1]:
        parts = [batch.feeds[name] for batch in group]  # type: ignore[index]  # They were answered.
        arrays[name], held_bytes = _joined(parts, dtype, (units, *shape))
        nbytes += held_bytes
    return Block(form, arrays, np.full(units, version), *_asked(group, units), nbytes)


def _joined(parts: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[NDArray[Any], int]:
    """Return the elements of all parts as one array of its own, and its memory.

    Always a copy: a request's body that is held counts among those that are under way.
    """
    if dtype.kind == "O":
        texts = np.concatenate([part.reshape(-1) for part in parts])
        return texts.reshape(shape), texts.nbytes + sum(map(sys.getsizeof, texts.tolist()))
    if dtype.kind == "V":  # BF16 knows no buffers.
        parts = [part.view(np.uint16) for part in parts]
    joined = b"".join(parts)
    # Not from the bytes themselves, which may be none.
    return np.ndarray(shape, dtype, joined), len(joined)


def _asked(group: list[Batch], units: int) -> tuple[Integers, Integers]:
    """Return of each unit who asked, and when."""
    requests = [request for batch in group for request in batch.requests]
    # Of a batch whose end was left out, as many requests as units need not have one each.
    if len(requests) == units and (len(group) > 1 or all([each.layout.rows < 2 for each in requests])):
        ids = [hash(request.id) for request in requests]
        return np.array(ids, np.int64), np.array([request.arrived_ns for request in requests], np.int64)
    keys = [_keys(request) for request in requests]
    arrived_ns = [np.full(len(of), request.arrived_ns) for of, request in zip(keys, requests, strict=True)]
    return np.concatenate(keys)[:units], np.concatenate(arrived_ns)[:units]


def _keys(request: InferRequest) -> Integers:
    rows, key = request.layout.rows, np.full(request.layout.rows, hash(request.id))
    return key if rows == 1 or not request.id else row_key(key, np.arange(rows))
