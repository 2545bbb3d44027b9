"""How does a batch travel to a shadow? As bytes: its inputs, and what was made of them for the answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import methodcaller
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.elements import strings_from_bytes, strings_to_bytes
from serving.wire import TensorIn, TensorSpec

HEAD = Struct("<qqIHHI")
"""Nanoseconds of the clock when the run ended and of the run itself, rows, arm, whether these are all rows of
the run, and the length of the plan."""
STRINGS = Struct("<Q")
"""In front of the elements of BYTES: their bytes."""
COPIED_ONCE_BYTES = 16384
"""Arrays from this size on are copied straight to where they go; smaller ones are joined first."""
PLANS_MAX = 1024
RAW = methodcaller("tobytes")

Arrays = Sequence[NDArray[Any]]


class Misfit(Exception):
    """What one version takes or gives, the other does not."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is taken of all batches of one form.

    `outputs` are the indices of the primary's outputs that are compared, and `text` says to the reader which
    tensors of the shadow inputs and outputs are, and of which shape; without the rows, if there are any.
    """

    outputs: tuple[int, ...]
    text: bytes
    size: int
    """Bytes of an entry with all rows, its head included; 0 if the elements of some tensor vary in theirs."""


def plan(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    feeds: Mapping[str, NDArray[Any]],
    made: Arrays,
    names: Sequence[str],
    rows: int,
) -> Plan:
    """Return what to take of batches like this one.

    Parameters
    ----------
    inputs, outputs
        The shadow's signature.
    feeds, made
        What the primary ran on, and its outputs, whose names are `names`.
    rows : int
        The first dimension of all of them; 0 if they are not rows.

    Raises
    ------
    Misfit
        If the shadow cannot run on it, or none of the outputs can be compared.
    """
    wanted = {each.name: (at, each) for at, each in enumerate(inputs)}
    missing = [each.name for each in inputs if not each.optional and each.name not in feeds]
    if missing:
        raise Misfit(f"the shadow takes an input {missing[0]!r}, which the version that answers does not")
    taken = []
    for name, array in feeds.items():
        at, spec = wanted.get(name, (0, None))
        if spec is None or spec.datatype.dtype != array.dtype or not spec.admits(array.shape):
            raise Misfit(f"the shadow takes no input {name!r} of {array.dtype} {list(array.shape)}")
        taken.append((at, array.shape[1:] if rows else array.shape))
    by_name = {name: at for at, name in enumerate(names)}
    chosen = []
    for at, spec in enumerate(outputs):
        of = by_name.get(spec.name, -1)
        if of >= 0 and made[of].dtype == spec.datatype.dtype and len(made[of].shape) == len(spec.shape):
            chosen.append((of, at, made[of].shape[1:] if rows else made[of].shape))
    if not chosen:
        raise Misfit(
            "no output of the shadow has the name, datatype and rank of one of the version that answers"
        )
    text = json.dumps([taken, [(at, shape) for _, at, shape in chosen]]).encode()
    arrays = [*feeds.values(), *[made[of] for of, _, _ in chosen]]
    size = HEAD.size + len(text) + sum(array.nbytes for array in arrays)
    varies = any(array.dtype == np.object_ for array in arrays)
    return Plan(tuple(of for of, _, _ in chosen), text, 0 if varies else size)


def write(
    plan: Plan, head: bytes, arrays: Arrays, chosen: NDArray[np.int64] | None
) -> Sequence[bytes | memoryview]:
    """Return the parts of an entry: all rows, or the `chosen` ones, of inputs, outputs and perhaps keys.

    Raises
    ------
    Failed
        If a string is not Unicode.
    """
    if chosen is not None:
        arrays = [array.take(chosen, 0) for array in arrays]
    if 0 < plan.size <= COPIED_ONCE_BYTES:
        return (b"".join((head, plan.text, *map(RAW, arrays))),)
    parts: list[bytes | memoryview] = [head, plan.text]
    for array in arrays:
        if array.dtype == np.object_:
            blob = strings_to_bytes(array, "")
            parts += (STRINGS.pack(len(blob)), blob)
        else:
            parts.append(_bytes(array))
    return parts


def _bytes(array: NDArray[Any]) -> bytes | memoryview:
    if array.nbytes >= COPIED_ONCE_BYTES and array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8).data
    return array.tobytes()


@dataclass(frozen=True, slots=True)
class Sample:
    """An entry read back. `rows` 0 means that the arrays are no rows; `whole` that none was left out."""

    ended_ns: int
    run_ns: int
    rows: int
    arm: int
    whole: bool
    feeds: dict[str, NDArray[Any]]
    made: list[tuple[int, NDArray[Any]]]
    """The shadow's index of each output, and what the primary made of it."""
    keys: NDArray[np.int64] | None = None
    """By what the rows are known to whoever wants to know of them; see `serving.labels.echo`."""


def head(entry: memoryview) -> tuple[int, int, int, int]:
    """Return only when the run ended, its rows, arm, and whether they are all rows."""
    ended_ns, _, rows, arm, whole, _ = HEAD.unpack_from(entry)
    return ended_ns, rows, arm, whole


def read(entry: memoryview, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Sample:
    """Read an entry into arrays of its own; `inputs` and `outputs` are the shadow's."""
    ended_ns, run_ns, rows, arm, whole, length = HEAD.unpack_from(entry)
    at = HEAD.size + length
    taken, chosen = _parse(bytes(entry[HEAD.size : at]))
    feeds: dict[str, NDArray[Any]] = {}
    made: list[tuple[int, NDArray[Any]]] = []
    for index, shape in taken:
        feeds[inputs[index].name], at = _array(entry, at, inputs[index], (rows, *shape) if rows else shape)
    for index, shape in chosen:
        array, at = _array(entry, at, outputs[index], (rows, *shape) if rows else shape)
        made.append((index, array))
    keys = np.frombuffer(bytes(entry[at:]), np.int64) if at < len(entry) else None
    return Sample(ended_ns, run_ns, rows, arm, bool(whole), feeds, made, keys)


@lru_cache(PLANS_MAX)
def _parse(text: bytes) -> tuple[list[tuple[int, tuple[int, ...]]], ...]:
    return tuple([(at, tuple(shape)) for at, shape in part] for part in json.loads(text))


def _array(entry: memoryview, at: int, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[NDArray[Any], int]:
    if spec.datatype.itemsize == 0:
        (length,) = STRINGS.unpack_from(entry, at)
        at += STRINGS.size
        tensor = TensorIn(spec.name, spec.datatype, shape)
        return strings_from_bytes(entry[at : at + length], tensor, spec.name), at + length
    elements = math.prod(shape)
    # Its own memory, aligned, whatever stands in front of it.
    array = np.frombuffer(entry, spec.datatype.dtype, elements, at).reshape(shape).copy()
    return array, at + elements * spec.datatype.itemsize
