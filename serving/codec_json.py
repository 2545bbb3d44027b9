"""What a request that is all JSON says."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from serving import elements, expect
from serving.config import Limits
from serving.document import Declared, head_of, parse, read, split_id
from serving.expect import JsonObject
from serving.memo import Memo
from serving.wire import Call, Payload

SHORT_BYTES_MAX = 32 * 1024
"""Longer requests take so long to parse that remembering their form saves nothing."""


class Form(NamedTuple):
    """What all requests that differ in nothing but a simple id and the numbers have in common.

    `pack` raises unless it gets as many numbers as the shape holds.
    """

    call: Call
    limits: Limits
    types: frozenset[type]
    pack: Callable[..., bytes]

    def fill(self, array: bytes) -> bytes | None:
        """Return the JSON `array`'s numbers as a payload; None leaves it to those who say what is wrong."""
        try:
            values = orjson.loads(array)
            return self.pack(*values) if self.types.issuperset(map(type, values)) else None
        except (orjson.JSONDecodeError, struct.error, OverflowError):
            return None


_FORMS: Memo[bytes, Form] = Memo(entries_max=4096, entry_bytes_max=4096)
_IN_MEMORY: Memo[bytes, tuple[Call, Limits]] = Memo(entries_max=4096, entry_bytes_max=4096)
"""Calls whose inputs are all in shared memory, by all of the JSON but a simple id."""


def decode(body: bytes | memoryview, limits: Limits) -> tuple[Call, Sequence[Payload], bytes]:
    """Return the call, its payloads and its id, as the JSON in `body` says them.

    Raises
    ------
    Invalid
        If it is no valid request; the message says where.
    TooLarge
        If it has more tensors or elements than allowed.
    """
    if len(body) > SHORT_BYTES_MAX:
        return _decode(body, limits)
    text = bytes(body)
    id_, rest = split_id(text)
    # The first array of numbers is cut out: up to the first closing bracket, so that an array of
    # arrays does not parse, and is left to `_decode`. From the key, where the cut was is plain.
    opening = text.find(b"[", text.find(b'"data"', rest)) + 1
    closing = text.find(b"]", opening)
    key = text[rest:opening] + text[closing:]
    form = _FORMS.get(key) or _FORMS.recall(key)
    if form is not None and form.limits is limits:
        payload = form.fill(text[opening - 1 : closing + 1])
        if payload is not None:
            return form.call, (payload,), id_
    if b'"shared_memory_region"' in text:
        return _decode_in_memory(text, rest, id_, limits)
    decoded = _decode(text, limits)
    if decoded[2] == id_:  # Else there is an id elsewhere, and the next request will have another.
        _learn(key, opening - rest, decoded[0], limits)
    return decoded


def _decode_in_memory(
    text: bytes, rest: int, id_: bytes, limits: Limits
) -> tuple[Call, Sequence[Payload], bytes]:
    """Decode a request with tensors in shared memory, if need be: such ones are often all alike."""
    key = text[rest:]
    known = _IN_MEMORY.get(key) or _IN_MEMORY.recall(key)
    if known is not None and known[1] is limits:
        return known[0], (b"",) * len(known[0].inputs), id_
    decoded = _decode(text, limits)
    call = decoded[0]
    if decoded[2] == id_ and all([each.window for each in call.inputs]) and head_of(key) is not None:
        _IN_MEMORY.keep(key, (call, limits), len(key))
    return decoded


def _decode(text: bytes | memoryview, limits: Limits) -> tuple[Call, Sequence[Payload], bytes]:
    """Decode any request, the plain way."""
    declared = read(parse(text, limits), limits)
    return declared.call, payloads(declared), declared.id


def payloads(declared: Declared) -> list[Payload]:
    """Return the payloads of a request whose elements are all in its JSON, or in shared memory."""
    found: list[Payload] = []
    tensors = zip(declared.call.inputs, declared.sizes_bytes, declared.data, strict=True)
    for index, (tensor, size_bytes, data) in enumerate(tensors):
        if size_bytes is not None:
            message = "binary data needs the header Inference-Header-Content-Length"
            raise expect.invalid(message, f"$.inputs[{index}].parameters.binary_data_size")
        if tensor.window is not None:
            found.append(b"")
            continue
        found.append(elements.from_json(data, tensor, f"$.inputs[{index}].data"))
    return found


def _learn(key: bytes, cut: int, call: Call, limits: Limits) -> None:
    """Remember the form of the valid request from which an id and numbers, at `cut`, were cut.

    The cut is right if the document without the numbers is one whose only input has no elements,
    and has the one element that is put in there: JSON means the same wherever an array is
    replaced by another.
    """
    if call.shared or len(call.inputs) != 1 or call.inputs[0].datatype.name not in elements.CODES:
        return
    if _data(head_of(key)) != [] or _data(head_of(key[:cut] + b"0" + key[cut:])) != [0]:
        return
    (tensor,) = call.inputs
    pack = struct.Struct(f"<{tensor.elements}{elements.CODES[tensor.datatype.name]}").pack
    form = Form(call, limits, elements.exact_types(tensor.datatype), pack)
    _FORMS.keep(key, form, len(key))


def _data(document: JsonObject | None) -> Any:
    return document["inputs"][0].get("data") if document else None
