"""What a V2 request's JSON document asks for, checked field by field."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import numpy as np
import orjson

from serving import calls, expect, parameters
from serving.config import Limits
from serving.errors import Invalid, TooLarge
from serving.expect import JsonObject
from serving.wire import DATATYPES, Call, TensorIn, TensorOut, Window

DIMENSIONS_MAX = 64
"""NumPy has no more."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_STEP = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKET = bytes(set(range(256)) - set(b"[{]}"))
PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))
"""The bytes that a JSON string holds as they are: printable ASCII without quote and backslash."""


class Declared(NamedTuple):
    """A request as its JSON declares it.

    For each of ``call.inputs``, `sizes_bytes` has its `binary_data_size`, or None where `data` has
    its elements, or shared memory.
    """

    call: Call
    id: bytes
    sizes_bytes: list[int | None]
    data: list[Any]


def split_id(text: bytes, start: int = 0) -> tuple[bytes, int]:
    """Cut a simple id off the front of a request's JSON: return it, and where the rest begins.

    The JSON begins at `start`. Clients put a new id in front of what they repeat (tritonclient does).
    Where the id needs no unescaping, the rest behind its closing quote can be looked up; ``b"", start``
    says that it cannot be. Whoever looks up must have stored only rests for which `head_of` returned a
    document.
    """
    begin = start + 7
    if text[start:begin] != b'{"id":"':
        begin += 1
        if text[start:begin] != b'{"id": "':
            return b"", start
    end = text.find(b'"', begin)
    id_ = text[begin:end]
    if end < 0 or id_.translate(None, PLAIN):
        return b"", start
    return id_, end + 1


def head_of(rest: bytes) -> JsonObject | None:
    """Return the document of which `rest` is all but a leading id, unless it has another id.

    ``{"id":"x"`` + rest is the same document plus an id, whatever simple id x is: what follows a
    comma behind a member is what follows the opening brace. A rest without a comma in front is a
    whole document, of which no id was cut.
    """
    if rest.startswith(b","):
        rest = b"{" + rest[1:]
    try:
        document = orjson.loads(rest)
    except orjson.JSONDecodeError:
        return None
    return document if type(document) is dict and "id" not in document else None


def parse(text: bytes | memoryview, limits: Limits) -> JsonObject:
    """Return the JSON object in `text`, which nests no deeper than allowed."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the request's JSON does not parse: {error}") from None
    if type(document) is not dict:
        raise expect.invalid(f"expected an object, got {expect.shown(document)}", "$")
    body = bytes(text)
    if body.count(b"[") + body.count(b"{") > limits.json_depth_max:
        depth = _depth(body)
        if depth > limits.json_depth_max:
            raise Invalid(f"the request's JSON nests {depth} deep; the limit is {limits.json_depth_max}")
    return document


def _depth(text: bytes) -> int:
    """Return how deep valid JSON nests, in a few passes at C speed."""
    brackets = _STRING.sub(b"", text).translate(_STEP, _NO_BRACKET)
    # The parser refuses more than 1,024 levels, so 16 bits hold the running depth.
    return int(np.frombuffer(brackets, np.int8).cumsum(dtype=np.int16).max(initial=0))


def read(document: JsonObject, limits: Limits) -> Declared:
    """Check `document` against the protocol."""
    id_ = document.get("id")
    if id_ is not None and type(id_) is not str:
        raise expect.invalid(f"expected a string, got {expect.shown(id_)}", "$.id")
    about = parameters.of_request(document)
    listed = expect.array(document, "inputs", "$")
    _check_count(listed, limits, "$.inputs")
    inputs: list[TensorIn] = []
    sizes_bytes: list[int | None] = []
    data: list[Any] = []
    for index, each in enumerate(listed):
        where = f"$.inputs[{index}]"
        tensor = _input(each, limits, where)
        size_bytes, window = parameters.of_input(each, where)
        if window is not None:
            tensor = _in_window(tensor, window, each, where)
        elif size_bytes is None and "data" not in each:
            message = "expected the elements, here or as binary data (parameters.binary_data_size)"
            raise expect.invalid(message, f"{where}.data")
        if size_bytes is not None and each.get("data") is not None:
            raise expect.invalid("expected no data beside parameters.binary_data_size", f"{where}.data")
        inputs.append(tensor)
        sizes_bytes.append(size_bytes)
        data.append(each.get("data"))
    _check_names([each.name for each in inputs], "$.inputs")
    call = calls.intern(
        tuple(inputs),
        _outputs(document, limits, about.binary),
        binary=about.binary,
        timeout_us=about.timeout_us,
        priority=about.priority,
        parameters=about.others,
    )
    return Declared(call, orjson.dumps(id_)[1:-1] if id_ else b"", sizes_bytes, data)


def _input(each: Any, limits: Limits, where: str) -> TensorIn:
    _check_object(each, where)
    name = expect.string(each, "name", where)
    datatype = DATATYPES.get(expect.string(each, "datatype", where))
    if datatype is None:
        message = f"unknown datatype {expect.shown(each['datatype'])}; known: {', '.join(DATATYPES)}"
        raise expect.invalid(message, f"{where}.datatype")
    return TensorIn(name, datatype, _shape(each, limits, where))


def _in_window(tensor: TensorIn, window: Window, each: JsonObject, where: str) -> TensorIn:
    """Return the tensor as one whose elements are in shared memory."""
    exact = tensor.elements * tensor.datatype.itemsize
    if tensor.datatype.itemsize and window.size_bytes != exact:
        message = f"{tensor.datatype.name} of shape {list(tensor.shape)} takes {exact} bytes"
        inside = f"{where}.parameters.shared_memory_byte_size"
        raise expect.invalid(f"{message}, got {window.size_bytes}", inside)
    if each.get("data"):
        raise expect.invalid("expected no data beside shared memory", f"{where}.data")
    return TensorIn(tensor.name, tensor.datatype, tensor.shape, window)


def _shape(each: JsonObject, limits: Limits, where: str) -> tuple[int, ...]:
    given = expect.array(each, "shape", where)
    if len(given) > DIMENSIONS_MAX:
        raise expect.invalid(f"{len(given)} dimensions; the limit is {DIMENSIONS_MAX}", f"{where}.shape")
    if set(map(type, given)) - {int} or (given and min(given) < 0):
        given = [_dimension(value, index, where) for index, value in enumerate(given)]
    # A dimension of 0 must not hide others that no array can have.
    if math.prod([size or 1 for size in given]) > limits.elements_max:
        message = f"the shape holds too many elements; the limit is {limits.elements_max}"
        raise TooLarge(f"{message} - at `{where}.shape`")
    return tuple(given)


def _dimension(value: Any, index: int, where: str) -> int:
    size = expect.is_whole(value)
    if size is None:
        message = f"expected a whole number, 0 or more, got {expect.shown(value)}"
        raise expect.invalid(message, f"{where}.shape[{index}]")
    return size


def _outputs(document: JsonObject, limits: Limits, binary: bool) -> tuple[TensorOut, ...] | None:
    """Read which outputs are asked for; none asked for is all of them, as in Triton."""
    if document.get("outputs") in (None, []):
        return None
    listed = expect.array(document, "outputs", "$")
    _check_count(listed, limits, "$.outputs")
    outputs = []
    for index, each in enumerate(listed):
        where = f"$.outputs[{index}]"
        _check_object(each, where)
        name = expect.string(each, "name", where)
        outputs.append(TensorOut(name, *parameters.of_output(each, where, binary)))
    _check_names([each.name for each in outputs], "$.outputs")
    return tuple(outputs)


def _check_object(each: Any, where: str) -> None:
    if type(each) is not dict:
        raise expect.invalid(f"expected an object, got {expect.shown(each)}", where)


def _check_count(listed: list[Any], limits: Limits, where: str) -> None:
    if len(listed) > limits.tensors_max:
        message = f"{len(listed)} tensors; the limit is {limits.tensors_max}"
        raise TooLarge(f"{message} - at `{where}`")


def _check_names(names: list[str], where: str) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise expect.invalid(f"{expect.shown(name)} is named twice", f"{where}[{index}].name")
        seen.add(name)
