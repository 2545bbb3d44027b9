"""How do inputs get to the process that replays them? As bytes in memory that both ends map."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.elements import strings_from_bytes, strings_to_bytes
from serving.replay.block import Block
from serving.wire import DATATYPES, TensorIn

DESK_BYTES = 4096
"""In front: what the process is at, in words of 64 bits."""
AT, SINCE_NS, USED_NS = range(3)
"""The version, from 1 on, and since when it opens or runs it, by the clock and by the process's own time."""
LENGTH = Struct("<Q")
ALIGNED_BYTES = 64

NAMES = {each.dtype: each.name for each in DATATYPES.values()}
Document = dict[str, Any]
Words = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Inputs of one form, [units, *the unit's shape] each, and the label of each, where it is known."""

    whole: bool
    arrays: Mapping[str, NDArray[Any]]
    labels: Sequence[str | None]

    @property
    def units(self) -> int:
        """How many inputs there are."""
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """Inputs of one form in the order of their arrival; see `Block`."""

    whole: bool
    arrays: Mapping[str, NDArray[Any]]
    versions: NDArray[np.int64]
    ids: NDArray[np.int64]
    arrived_ns: NDArray[np.int64]


def by_form(blocks: Iterable[Block]) -> list[Sorted]:
    """Return blocks joined by their form."""

    def key(block: Block) -> str:
        return repr((block.whole, sorted((name, str(dtype), shape) for name, dtype, shape in block.form[1])))

    groups = []
    for _, group in groupby(sorted(blocks, key=key), key):
        alike = list(group)
        # From all versions, which only come in turns.
        order = np.argsort(np.concatenate([each.arrived_ns for each in alike]), kind="stable")
        arrays = {
            name: np.concatenate([each.arrays[name] for each in alike])[order] for name in alike[0].arrays
        }
        versions, ids, arrived_ns = (
            np.concatenate([getattr(each, name) for each in alike])[order]
            for name in ("versions", "ids", "arrived_ns")
        )
        groups.append(Sorted(alike[0].whole, arrays, versions, ids, arrived_ns))
    return groups


class Parcel:
    """What a process is given, until it is closed.

    Parameters
    ----------
    document : dict
        Plain values.
    groups : sequence of Group
    """

    def __init__(self, document: Document, groups: Sequence[Group]) -> None:
        self.fd = os.memfd_create("turnout-replay", os.MFD_CLOEXEC)
        try:
            with open(self.fd, "wb", closefd=False) as file:
                file.writelines(_parts(document, groups))
            self._map = mmap.mmap(self.fd, DESK_BYTES)
        except BaseException:
            os.close(self.fd)
            raise
        self.desk: Words = np.frombuffer(self._map, np.int64)

    def close(self) -> None:
        """Let it go. Its first page lives as long as somebody looks at the desk."""
        del self.desk, self._map
        os.close(self.fd)


def _parts(document: Document, groups: Sequence[Group]) -> Iterable[bytes | memoryview]:
    described: list[Document] = []
    blobs: list[bytes | memoryview] = []
    at = 0
    for group in groups:
        tensors = []
        for name, array in group.arrays.items():
            blob = _bytes(array)
            tensors.append([name, NAMES[array.dtype], array.shape, at, len(blob)])
            padding = -len(blob) % ALIGNED_BYTES
            blobs += (blob, bytes(padding))
            at += len(blob) + padding
        known = any(each is not None for each in group.labels)
        labels = list(group.labels) if known else group.units
        described.append({"whole": group.whole, "labels": labels, "tensors": tensors})
    head = json.dumps({**document, "groups": described}).encode()
    head += b" " * (-(LENGTH.size + len(head)) % ALIGNED_BYTES)
    return [bytes(DESK_BYTES), LENGTH.pack(len(head)), head, *blobs]


def _bytes(array: NDArray[Any]) -> bytes | memoryview:
    if array.dtype == np.object_:
        return strings_to_bytes(array, "")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def opened(fd: int) -> tuple[Words, Document, list[Group]]:
    """Return desk, document and groups of a parcel, in the process that was given it."""
    whole = mmap.mmap(fd, 0)
    view = memoryview(whole)
    (length,) = LENGTH.unpack_from(view, DESK_BYTES)
    at = DESK_BYTES + LENGTH.size
    document = json.loads(bytes(view[at : at + length]))
    groups = [_group(each, view, at + length) for each in document.pop("groups")]
    return np.frombuffer(view, np.int64, DESK_BYTES // 8), document, groups


def _group(described: Document, view: memoryview, base: int) -> Group:
    arrays = {}
    for name, datatype, shape, at, nbytes in described["tensors"]:
        kind, part = DATATYPES[datatype], view[base + at : base + at + nbytes]
        if kind.itemsize:
            array = np.frombuffer(part, np.uint8).view(kind.dtype) if nbytes else np.empty(0, kind.dtype)
            assert array.size == prod(shape)
            arrays[name] = array.reshape(shape)
        else:
            arrays[name] = strings_from_bytes(part, TensorIn(name, kind, tuple(shape)), name)
    labels = described["labels"]
    return Group(described["whole"], arrays, [None] * labels if isinstance(labels, int) else labels)
