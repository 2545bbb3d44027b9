"""What is asked: requests with values of their own, each with an id that no other has.

They are made before the start. While load runs, one is only handed out, with the next id written into
its place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.drift.rows import BadRows, Wanted, open_rows, wanted
from serving.mistake import Mistake
from serving.wire import DATATYPES, TensorSpec

POOL_MAX = 16_384
"""Requests that differ in more than their id; more than any memo of a server holds."""
POOL_BYTES_MAX = 64 << 20
ID_BYTES = 16
NO_ID = b"0" * ID_BYTES
_OPENING = b'{"id":"'
_WORDS = 4096
Arrays = Mapping[str, NDArray[Any]]


class Encoding(StrEnum):
    """How tensors travel, both ways."""

    BINARY = "binary"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Manner:
    """How is asked: where, in which encoding, with which headers, and of how many callers.

    With `callers` each request names one of so many, in turn, in the header `caller_header`.
    """

    path: str
    host: str
    encoding: Encoding = Encoding.BINARY
    headers: Sequence[tuple[str, str]] = ()
    caller_header: str = ""
    callers: int = 0

    def question(self, arrays: Arrays, number: int = 0) -> Question:
        """Make one request, the `number`th."""
        body, json_bytes = _body(self.encoding, arrays)
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.callers:
            lines.append(f"{self.caller_header}: {caller(number, self.callers)}")
        if self.encoding is Encoding.BINARY:
            lines.append(f"Inference-Header-Content-Length: {json_bytes}")
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}"]).encode() + b"\r\n\r\n"
        return Question(bytearray(head + body), len(head) + len(_OPENING))


@dataclass(frozen=True, slots=True)
class Question:
    """A request's bytes; its id is the `ID_BYTES` from `id_at` on.

    Over gRPC they are the message with its prefix, and `more` what is packed behind the usual header block.
    """

    content: bytearray
    id_at: int
    more: bytes = b""


class Asking(Protocol):
    """A way to ask: what makes a request out of its inputs."""

    @property
    def callers(self) -> int:
        """How many of them take turns; 0 if none is named."""

    def question(self, arrays: Arrays, number: int, /) -> Question:
        """Make one request, the `number`th."""


def rows_of(specs: Sequence[TensorSpec], rows: int, source: Path | None, seed: int) -> Iterator[Arrays]:
    """Yield the inputs of one request after the other: out of a file, or at random, without end.

    Raises
    ------
    Mistake
        If the file has not got them, or a shape is not known.
    """
    if source is None:
        return _drawn(specs, rows, np.random.default_rng(seed))
    return _from_file(specs, rows, source)


def _drawn(specs: Sequence[TensorSpec], rows: int, rng: np.random.Generator) -> Iterator[Arrays]:
    needed = [each for each in specs if not each.optional]
    shapes = {each.name: (rows if each.shape[:1] == (-1,) else 1, *each.shape[1:]) for each in needed}
    fixed = {each.name: each.shape for each in needed if -1 not in each.shape}
    shapes.update(fixed)
    for name, shape in shapes.items():
        if -1 in shape:
            raise Mistake(f"input {name!r} is of shape {list(shape)}; --from FILE.npz says how large it is")
    if rows > 1 and fixed:
        raise Mistake(f"inputs {', '.join(map(repr, fixed))} are of fixed shapes, so --rows has to be 1")
    while True:
        yield {each.name: _random(each, shapes[each.name], rng) for each in needed}


def _random(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    own = spec.datatype.dtype
    if own.kind == "b":
        return rng.random(shape) < 0.5
    if own.kind in "iu":
        return rng.integers(0, 100, shape).astype(own)
    if own == np.object_:
        words = np.array([f"word {number}" for number in rng.integers(0, _WORDS, shape).reshape(-1)], object)
        return words.reshape(shape)
    return rng.standard_normal(shape, np.float32).astype(own)


def _from_file(specs: Sequence[TensorSpec], rows: int, source: Path) -> Iterator[Arrays]:
    inputs = wanted(specs)
    try:
        table = open_rows(source, inputs)
    except BadRows as error:
        raise Mistake(str(error)) from None
    return _slices(table.blocks(), inputs, {each.name: each for each in specs}, rows)


def _slices(
    blocks: Iterator[Arrays], inputs: Sequence[Wanted], specs: Mapping[str, TensorSpec], rows: int
) -> Iterator[Arrays]:
    try:
        for block in blocks:
            count = len(next(iter(block.values())))
            for start in range(0, count - rows + 1, rows):
                yield {
                    each.name: _shaped(block[each.name][start : start + rows], specs[each.name])
                    for each in inputs
                    if each.name in block
                }
    except BadRows as error:
        raise Mistake(str(error)) from None


def _shaped(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    # What has no open first dimension is one row of the file, and not one dimension more.
    return values if spec.shape[:1] == (-1,) else values[0]


def pool(manner: Asking, rows: Iterator[Arrays], count_max: int = POOL_MAX) -> list[Question]:
    """Make as many requests as there are rows for, within the bounds.

    Raises
    ------
    Mistake
        If there is not even one.
    """
    made: list[Question] = []
    size = 0
    for number, arrays in enumerate(islice(rows, min(count_max, POOL_MAX))):
        made.append(manner.question(arrays, number))
        size += len(made[-1].content)
        if size > POOL_BYTES_MAX:
            break
    if not made:
        raise Mistake("there are fewer rows than --rows takes for one request")
    if manner.callers > len(made):
        raise Mistake(f"{manner.callers} callers need as many different requests; there are {len(made)}")
    return made


def caller(number: int, callers: int) -> str:
    """Name who asks the `number`th request, of so many callers in turn."""
    return f"caller-{number % callers:07d}"


def _body(encoding: Encoding, arrays: Arrays) -> tuple[bytes, int]:
    parts = {name: raw(values) if encoding is Encoding.BINARY else b"" for name, values in arrays.items()}
    inputs = []
    for name, values in arrays.items():
        tensor: dict[str, Any] = {"name": name, "datatype": datatype(values), "shape": list(values.shape)}
        if encoding is Encoding.BINARY:
            tensor["parameters"] = {"binary_data_size": len(parts[name])}
        else:
            tensor["data"] = _plain(values)
        inputs.append(tensor)
    rest: dict[str, Any] = {"inputs": inputs}
    if encoding is Encoding.BINARY:
        rest["parameters"] = {"binary_data_output": True}
    text = _OPENING + NO_ID + b'",' + orjson.dumps(rest)[1:]
    return text + b"".join(parts.values()), len(text)


def datatype(values: NDArray[Any]) -> str:
    """Name the type of a tensor's elements."""
    return next(name for name, each in DATATYPES.items() if each.dtype == values.dtype)


def raw(values: NDArray[Any]) -> bytes:
    """Return a tensor's elements as they travel in binary."""
    if values.dtype != np.object_:
        return np.ascontiguousarray(values).tobytes()
    words = [str(each).encode() for each in values.reshape(-1)]
    return b"".join(struct.pack("<I", len(word)) + word for word in words)


def _plain(values: NDArray[Any]) -> list[Any]:
    if values.dtype.kind in "fV":
        values = values.astype(np.float64)
    flat: list[Any] = values.reshape(-1).tolist()
    return flat
