"""What elements are in an input's typed contents, the form that is not raw?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import elements
from serving.elements import described
from serving.expect import invalid
from serving.rpc.walk import CONTINUED
from serving.wire import Payload, TensorIn

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Which field has the elements of a datatype. FP16 and BF16 have none: V2 sends them raw."""
_AS_SENT = frozenset({"BOOL", "FP32", "FP64"})
"""Datatypes whose packed field is, byte for byte, the payload."""
FEW = 512
"""Up to so many whole numbers Python is faster: 64 take it 5 us and NumPy 21, a million 122 and 47 ms."""


def payload(contents: Any, tensor: TensorIn, where: str) -> Payload:
    """Return the elements in the InferTensorContents `contents`.

    Raises
    ------
    Invalid
        If they are in another field than the datatype's, or are not as many as the shape holds, or one
        of them is not of the datatype.
    """
    name = FIELDS.get(tensor.datatype.name)
    if name is None:
        raise invalid(f"{tensor.datatype.name} has no typed contents; send raw_input_contents", where)
    for field, _ in contents.ListFields():
        if field.name != name:
            message = f"expected {name} for {tensor.datatype.name}, got {field.name}"
            raise invalid(message, f"{where}.{field.name}")
    values = getattr(contents, name)
    where = f"{where}.{name}"
    if len(values) != tensor.elements:
        message = f"shape {list(tensor.shape)} holds {tensor.elements} elements, got {len(values)}"
        raise invalid(message, where)
    if tensor.datatype.name in _AS_SENT:
        return _packed(contents, len(values) * tensor.datatype.itemsize)
    if tensor.datatype.name == "BYTES":
        return elements.strings_array(_strings(values, where), tensor.shape)
    if len(values) <= FEW:
        return elements.from_json(list(values), tensor, where)
    return _whole(varints(contents.SerializeToString(), len(values)), tensor, where)


def _packed(contents: Any, size_bytes: int) -> bytes:
    """Return what protobuf writes of a packed field, which saves a Python object an element."""
    written: bytes = contents.SerializeToString()
    return written[len(written) - size_bytes :]


def varints(written: bytes, count: int) -> NDArray[np.uint64]:
    """Return the last `count` numbers of what protobuf wrote (its varints), modulo 2**64."""
    data = np.frombuffer(written, np.uint8)
    ends = np.flatnonzero(data < CONTINUED)
    starts = (ends[:-1] + 1)[-count:]  # The tag is a number too, and so is the length.
    ends = ends[-count:]
    values = (data[ends] & 0x7F).astype(np.uint64)
    for back in range(1, int((ends - starts).max()) + 1):
        longer = np.flatnonzero(ends - starts >= back)
        digit = data[ends[longer] - back] & 0x7F
        values[longer] = values[longer] << np.uint64(7) | digit
    return values


def _whole(values: NDArray[np.uint64], tensor: TensorIn, where: str) -> bytes:
    """Return whole numbers as the datatype has them; one that it cannot hold is an error with its place."""
    form = tensor.datatype.dtype
    wide = values.view(np.int64) if form.kind == "i" else values
    narrow = wide.astype(form)
    if not np.array_equal(narrow, wide):
        index = int(np.flatnonzero(narrow != wide)[0])
        raise invalid(f"expected {described(tensor.datatype)}, got {wide[index]}", f"{where}[{index}]")
    return narrow.tobytes()


def _strings(values: Any, where: str) -> list[str]:
    try:
        return [each.decode() for each in values]
    except UnicodeDecodeError:
        index = next(at for at, each in enumerate(values) if not _is_text(each))
        raise invalid(f"element {index} of BYTES is not UTF-8, as ONNX strings are", where) from None


def _is_text(each: bytes) -> bool:
    try:
        each.decode()
    except UnicodeDecodeError:
        return False
    return True
