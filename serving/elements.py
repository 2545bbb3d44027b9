"""How one tensor's elements are written: as JSON values, as bytes, and the way between them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import ml_dtypes
import numpy as np
import orjson
from numpy.typing import NDArray

from serving.errors import Failed
from serving.expect import EXACT_FLOAT_MAX, invalid, shown
from serving.wire import Datatype, Payload, TensorIn

# The struct module refuses what overflows, where NumPy would wrap or say infinity, and is faster:
# 16 floats take it 0.37 us (0.18 us with the format prepared), NumPy 0.58 us; for many they are even.
CODES = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_WHOLE_CODES = frozenset("BHIQbhiq")
_NUMBERS = frozenset({int, float})
_INTS = frozenset({int})
_FLOATS_MAX = {"FP16": "65504", "BF16": "3.38e38", "FP32": "3.40e38", "FP64": "1.79e308"}
_LENGTH = struct.Struct("<I")
LENGTH_BYTES = 4
"""The little-endian length in front of each element of BYTES."""


def exact_types(datatype: Datatype) -> frozenset[type]:
    """Return the types of JSON values that `struct` packs as the datatype demands, without a look at each."""
    return _INTS if CODES[datatype.name] in _WHOLE_CODES else _NUMBERS


def from_json(data: Any, tensor: TensorIn, where: str) -> Payload:
    """Return the elements that JSON gives, flat or nested as the shape says.

    Raises
    ------
    Invalid
        If they do not agree with the shape, or one of them is not of the datatype.
    """
    values, nested = _flatten(data, tensor, where)
    payload = _pack(values, tensor.datatype)
    if payload is None:
        index = _first_misfit(values, tensor.datatype)
        sizes = tensor.shape if nested else (len(values),)
        message = f"expected {described(tensor.datatype)}, got {shown(values[index])}"
        raise invalid(message, _place(where, index, sizes))
    if isinstance(payload, bytes):
        return payload
    return strings_array(payload, tensor.shape)


def _flatten(data: Any, tensor: TensorIn, where: str) -> tuple[list[Any], bool]:
    """Return the values in row-major order, and whether they were nested."""
    shape = tensor.shape
    if type(data) is not list:
        if shape or type(data) is dict:
            raise invalid(f"expected an array, got {shown(data)}", where)
        return [data], True  # A scalar, as bare as its shape.
    if not data or type(data[0]) is not list:
        if len(data) != tensor.elements:
            message = f"shape {list(shape)} holds {tensor.elements} elements, got {len(data)}"
            raise invalid(message, where)
        return data, False
    level: list[Any] = [data]
    for axis, size in enumerate(shape):
        if set(map(type, level)) - {list} or set(map(len, level)) - {size}:
            index = next(i for i, each in enumerate(level) if type(each) is not list or len(each) != size)
            message = f"expected an array of {size} for shape {list(shape)}, got {shown(level[index])}"
            raise invalid(message, _place(where, index, shape[:axis]))
        level = list(chain.from_iterable(level))
    return level, True


def _place(where: str, index: int, sizes: Sequence[int]) -> str:
    """Return the position of the element that is at `index` in row-major order."""
    indices = []
    for size in reversed(sizes):
        index, within = divmod(index, size)
        indices.append(f"[{within}]")
    return where + "".join(reversed(indices))


def _pack(values: list[Any], datatype: Datatype) -> bytes | list[str] | None:
    """Return the values as bytes, or as they are for BYTES; None if one is not of the datatype."""
    kinds = set(map(type, values))
    match datatype.name:
        case "BYTES":
            return values if kinds <= {str} else None
        case "BOOL":
            # 1 and 1.0 are true: clients generated from the protocol's schema make floats of all.
            fits = kinds <= {bool, int, float} and set(values) <= {0, 1}
            return bytes(map(bool, values)) if fits else None
        case "BF16":
            return _pack_bf16(values) if kinds <= _NUMBERS else None
    code = CODES[datatype.name]
    if not kinds <= _NUMBERS:
        return None
    if float in kinds and code in _WHOLE_CODES:
        whole = list(map(int, values))
        floats = [each for each in values if type(each) is float]
        if whole != values or max(map(abs, floats)) > EXACT_FLOAT_MAX:
            return None
        values = whole
    try:
        return struct.pack(f"<{len(values)}{code}", *values)
    except (struct.error, OverflowError):
        return None


def _pack_bf16(values: list[Any]) -> bytes | None:
    with np.errstate(over="ignore"):
        array = np.array(values, np.float64).astype(ml_dtypes.bfloat16)
    return array.tobytes() if bool(np.isfinite(array).all()) else None


def _first_misfit(values: list[Any], datatype: Datatype) -> int:
    """Return the index of the first value that is not of the datatype, by halving: linear, at C speed."""
    start, stop = 0, len(values)
    while stop - start > 1:
        middle = (start + stop) // 2
        if _pack(values[start:middle], datatype) is None:
            stop = middle
        else:
            start = middle
    return start


def described(datatype: Datatype) -> str:
    """Say what an element of JSON, or of typed contents, has to be."""
    name, kind = datatype.name, datatype.dtype.kind
    if kind in "iu":
        span = np.iinfo(datatype.dtype)
        return f"{name}, a whole number from {span.min} to {span.max}"
    if name == "BYTES":
        return "BYTES, a string"
    if name == "BOOL":
        return "BOOL, true or false"
    return f"{name}, a number of at most {_FLOATS_MAX[name]} either way"


def strings_array(values: Sequence[str], shape: tuple[int, ...]) -> NDArray[np.object_]:
    """Return `values` as an array of `shape`, the payload of BYTES."""
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array.reshape(shape)


def strings_from_bytes(blob: bytes | memoryview, tensor: TensorIn, where: str) -> NDArray[np.object_]:
    """Return the elements of BYTES, each of which is UTF-8 behind its length, and nothing else.

    Raises
    ------
    Invalid
        If a length points beyond the end, bytes are left over, or an element is not UTF-8.
    """
    data = bytes(blob)
    count, size = tensor.elements, len(data)
    if count * LENGTH_BYTES > size:
        message = f"{count} elements of BYTES take {count * LENGTH_BYTES} bytes or more, got {size}"
        raise invalid(message, where)
    values = []
    stop = 0
    for index in range(count):
        start = stop + LENGTH_BYTES
        if start > size:
            raise invalid(f"element {index} has no length: the {size} bytes end before it", where)
        stop = start + int.from_bytes(data[stop:start], "little")
        if stop > size:
            message = f"element {index} says {stop - start} bytes, of which {size - start} are there"
            raise invalid(message, where)
        try:
            values.append(data[start:stop].decode())
        except UnicodeDecodeError:
            raise invalid(f"element {index} of BYTES is not UTF-8, as ONNX strings are", where) from None
    if stop != size:
        raise invalid(f"{size - stop} bytes are left after the last of {count} elements", where)
    return strings_array(values, tensor.shape)


def check_bools(blob: bytes | memoryview, where: str) -> None:
    """Refuse bytes of BOOL that are neither 0 nor 1, for which C++ has no meaning."""
    if bytes(blob).translate(None, b"\x00\x01"):
        index = next(index for index, value in enumerate(blob) if value > 1)
        raise invalid(f"expected BOOL, a byte of 0 or 1, got {blob[index]} in element {index}", where)


def strings_to_bytes(array: NDArray[np.object_], name: str) -> bytes:
    """Return the elements of the output `name`, BYTES, each behind its length."""
    parts: list[bytes] = []
    try:
        for value in array.ravel().tolist():
            encoded = value.encode()
            parts += (_LENGTH.pack(len(encoded)), encoded)
    except UnicodeEncodeError:
        raise Failed(f"the model's output {name!r} holds a string that is not Unicode") from None
    return b"".join(parts)


def to_json(array: NDArray[Any], datatype: Datatype, name: str) -> bytes:
    """Return the elements of the output `name` as a flat JSON array.

    Raises
    ------
    Failed
        If one of them is NaN or infinite, for which JSON has no word.
    """
    flat = array.reshape(-1)
    if datatype.name == "BYTES":
        try:
            return orjson.dumps(flat.tolist())
        except TypeError:
            raise Failed(f"the model's output {name!r} holds a string that is not Unicode") from None
    if datatype.name == "BF16":
        flat = flat.astype(np.float32)
    text = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    # orjson writes null for them, and nothing else in an array of numbers has an n.
    if datatype.dtype.kind in "fV" and b"n" in text:
        raise Failed(
            f"the model's output {name!r} holds NaN or infinity, which JSON cannot say; "
            "ask for it in binary (binary_data of the output, or binary_data_output of the request)"
        )
    return text
