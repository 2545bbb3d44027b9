"""May the weights that an ONNX file keeps in other files be read from there?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from onnx import TensorProto

from serving.regular import Refusal, check_regular

BITS = {
    TensorProto.DOUBLE: 64, TensorProto.INT64: 64, TensorProto.UINT64: 64, TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128, TensorProto.FLOAT: 32, TensorProto.INT32: 32, TensorProto.UINT32: 32,
    TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16, TensorProto.INT16: 16, TensorProto.UINT16: 16,
    TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip
"""Bits of an element, where they are not 8."""

KEYS = {"location", "offset", "length", "checksum"}
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\*]")
"""Control characters; the other system's separator; and `*`, with which ONNX Runtime marks
"locations" that are addresses in memory (``*/_ORT_MEM_ADDR_/*``)."""
NUMBER = re.compile(r"[0-9]{1,18}")


def check_external(model: Message, folder: Path) -> None:
    """Refuse `model` if a tensor anywhere in it is kept elsewhere than in regular files in `folder`.

    Raises
    ------
    Refusal
        That names the tensor.
    """
    whole = folder.resolve()
    for tensor in _tensors(model):
        if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
            shown = f"tensor {tensor.name[:80]!r}"
            _check_extent(tensor, _check_place(tensor, whole, shown), shown)


def _tensors(message: Message) -> Iterator[Any]:
    """Yield every tensor: initializers, sparse ones, attributes, in subgraphs and in functions.

    The walk follows the schema and not a list of places, so that no place is forgotten.
    """
    waiting: list[Any] = [message]
    while waiting:
        message = waiting.pop()
        if isinstance(message, TensorProto):
            yield message
            continue
        for name, repeated in _message_fields(message.DESCRIPTOR):
            if repeated:
                waiting.extend(getattr(message, name))
            elif message.HasField(name):
                waiting.append(getattr(message, name))


@cache
def _message_fields(descriptor: Any) -> tuple[tuple[str, bool], ...]:
    """Return those fields of a message type that hold messages, each with whether it is repeated."""
    return tuple((field.name, field.is_repeated) for field in descriptor.fields if field.message_type)


def _check_place(tensor: Any, folder: Path, shown: str) -> int:
    """Return the size of the file that holds `tensor`, in bytes."""
    entries = [entry.key for entry in tensor.external_data]
    # A key given twice is read differently by different readers.
    if len(set(entries)) != len(entries) or not set(entries) <= KEYS:
        raise Refusal(f"{shown}: external data described by {entries[:8]}, expected {sorted(KEYS)} once each")
    location = _described(tensor, "location")
    where = f"{shown}: external data in {location[:80]!r}"
    if not location or FORBIDDEN.search(location):
        raise Refusal(f"{where} is not a plain relative path")
    parts = location.split("/")
    if location.startswith(("/", "~")) or any(part in ("", ".", "..") for part in parts):
        raise Refusal(f"{where} leads out of the version's folder")
    path = folder / location
    if path.resolve() != path:
        raise Refusal(f"{where} leads through a symbolic link")
    return check_regular(path, where).st_size


def _check_extent(tensor: Any, file_bytes: int, shown: str) -> None:
    offset, length = _described(tensor, "offset"), _described(tensor, "length")
    if any(number and not NUMBER.fullmatch(number) for number in (offset, length)):
        raise Refusal(f"{shown}: offset {offset[:24]!r} and length {length[:24]!r} must be numbers of bytes")
    if any(size < 0 for size in tensor.dims):
        raise Refusal(f"{shown}: its shape {list(tensor.dims)[:8]} is negative")
    need = (math.prod(tensor.dims) * BITS.get(tensor.data_type, 8) + 7) // 8
    if length and int(length) != need:
        raise Refusal(f"{shown}: its shape needs {need} bytes, its external data has {length}")
    if int(offset or 0) + need > file_bytes:
        raise Refusal(f"{shown}: its external data ends after the file does, which has {file_bytes} bytes")


def _described(tensor: Any, key: str) -> str:
    return next((str(entry.value) for entry in tensor.external_data if entry.key == key), "")
