"""What a request says whose tensors, all or some, are raw bytes behind its JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from serving import calls, elements, expect
from serving.config import Limits
from serving.document import Declared, head_of, parse, read, split_id
from serving.errors import Invalid, TooLarge
from serving.memo import Memo
from serving.model import ModelSpec
from serving.wire import Call, Payload, TensorIn, TensorSpec

COPY_BYTES_MAX = 16 * 1024
"""A smaller payload is copied, which is cheaper than a view on it."""


class Plan(NamedTuple):
    """What all requests with the same JSON, but for a simple id, have in common.

    `sizes_bytes` are those of the inputs, of which no elements are in the JSON. Where `single` is
    true, what follows the JSON is the payload of the one input, whatever it is.
    """

    call: Call
    limits: Limits
    tensors_bytes: int
    sizes_bytes: tuple[int, ...]
    single: bool


_PLANS: Memo[bytes, Plan] = Memo(entries_max=4096, entry_bytes_max=4096)


def decode(
    body: bytes | memoryview, json_bytes: int, limits: Limits, start: int = 0
) -> tuple[Call, Sequence[Payload], bytes]:
    """Return the call, its payloads and its id, as the first `json_bytes` of `body` declare them.

    The body begins at `start`, so that the bytes before it need not be cut off. Payloads of a
    `memoryview`, and large ones, are views on `body`.

    Raises
    ------
    Invalid
        If it is no valid request, or the bytes are not those that it declares; the message says where.
    TooLarge
        If it has more tensors or elements than allowed.
    """
    stop = start + json_bytes
    text = body
    if type(text) is not bytes:
        text, start = bytes(body[start:stop]), 0
    id_, rest = b"", start
    if text.startswith(b'{"id"', start):  # Looking is cheaper than a call for those without.
        id_, rest = split_id(text, start)
    key, plan = _recent
    end = start + json_bytes
    # The same JSON as the request before, whoever sent that: comparing costs less than hashing.
    if end - rest != len(key) or not text.startswith(key, rest):
        plan = _look_up(text[rest:end])
    if plan is not None:
        call, known_limits, tensors_bytes, sizes_bytes, single = plan
        if known_limits is limits and len(body) - stop == tensors_bytes:
            if single and tensors_bytes <= COPY_BYTES_MAX:
                return call, (body[stop:],), id_
            return call, _cut(body, stop, call, sizes_bytes), id_
    return _decode(body[stop - json_bytes :], json_bytes, limits, id_, text[rest:end])


_recent: tuple[bytes, Plan | None] = (b"", None)


def _look_up(key: bytes) -> Plan | None:
    """Return the plan of requests with this JSON, and remember it for the next request."""
    global _recent  # noqa: PLW0603 - one pair for the process, replaced whole.
    plan = _PLANS.get(key) or _PLANS.recall(key)
    if plan is not None:
        _recent = (key, plan)
    return plan


def _decode(
    body: bytes | memoryview, json_bytes: int, limits: Limits, cut_id: bytes = b"", key: bytes = b""
) -> tuple[Call, Sequence[Payload], bytes]:
    """Decode any request, the plain way; learn from it if `key` is all of its JSON but `cut_id`."""
    if not 0 < json_bytes <= len(body):
        raise Invalid(
            f"Inference-Header-Content-Length says {json_bytes} bytes of JSON; the body has {len(body)} bytes"
        )
    declared = read(parse(memoryview(body)[:json_bytes], limits), limits)
    _check_sizes(declared, len(body) - json_bytes)
    payloads = _cut(body, json_bytes, declared.call, declared.sizes_bytes, declared.data)
    if key and declared.id == cut_id:  # Else the next request will have another id in the same place.
        _learn(key, declared, limits)
    return declared.call, payloads, declared.id


def _check_sizes(declared: Declared, given_bytes: int) -> None:
    """Refuse sizes that contradict the shapes, or the `given_bytes` behind the JSON."""
    tensors = zip(declared.call.inputs, declared.sizes_bytes, strict=True)
    for index, (tensor, size_bytes) in enumerate(tensors):
        exact = tensor.elements * tensor.datatype.itemsize
        if size_bytes is not None and tensor.datatype.itemsize and size_bytes != exact:
            about = f"{tensor.datatype.name} of shape {list(tensor.shape)}"
            where = f"$.inputs[{index}].parameters.binary_data_size"
            raise expect.invalid(f"{about} takes {exact} bytes, got {size_bytes}", where)
    declared_bytes = sum(size_bytes or 0 for size_bytes in declared.sizes_bytes)
    if declared_bytes != given_bytes:
        raise Invalid(
            f"the inputs declare {declared_bytes} bytes of binary data (binary_data_size), "
            f"but {given_bytes} bytes follow the JSON"
        )


def _cut(
    body: bytes | memoryview,
    start: int,
    call: Call,
    sizes_bytes: Sequence[int | None],
    data: Sequence[object] = (),
) -> list[Payload]:
    """Cut the payloads out of `body` from `start` on; those without a size are in `data`."""
    blob = memoryview(body) if len(body) - start > COPY_BYTES_MAX else body
    payloads: list[Payload] = []
    for index, (tensor, size_bytes) in enumerate(zip(call.inputs, sizes_bytes, strict=True)):
        if tensor.window is not None:
            payloads.append(b"")
            continue
        if size_bytes is None:
            payloads.append(elements.from_json(data[index], tensor, f"$.inputs[{index}].data"))
            continue
        stop = start + size_bytes
        payloads.append(payload(blob[start:stop], tensor, f"$.inputs[{index}]"))
        start = stop
    return payloads


def payload(piece: bytes | memoryview, tensor: TensorIn, where: str) -> Payload:
    """Return the bytes of one tensor as a payload, checked where not all bytes will do."""
    if tensor.datatype.name == "BYTES":
        return elements.strings_from_bytes(piece, tensor, where)
    if tensor.datatype.name == "BOOL":
        elements.check_bools(piece, where)
    return piece


def all_bytes_will_do(tensor: TensorIn) -> bool:
    """Say whether any bytes are elements of such a tensor."""
    return tensor.datatype.name not in ("BYTES", "BOOL")


def _learn(key: bytes, declared: Declared, limits: Limits) -> None:
    """Remember the plan of a valid request, if nothing but a simple id in front was cut from its JSON."""
    sizes_bytes = tuple([size for size in declared.sizes_bytes if size is not None])
    if len(sizes_bytes) < len(declared.sizes_bytes) or head_of(key) is None:
        return
    tensors_bytes = sum(sizes_bytes)
    inputs = declared.call.inputs
    small = tensors_bytes <= COPY_BYTES_MAX
    single = small and len(inputs) == 1 and all_bytes_will_do(inputs[0])
    _PLANS.keep(key, Plan(declared.call, limits, tensors_bytes, sizes_bytes, single), len(key))


def decode_raw(
    body: bytes | memoryview, spec: ModelSpec, limits: Limits
) -> tuple[Call, Sequence[Payload], bytes]:
    """Take all of `body` for the elements of the model's only input (Triton's raw binary request).

    One row is asked for of a model that batches, one string of BYTES, and at most one dimension
    follows from the size. All outputs are returned, in binary.

    Raises
    ------
    Invalid
        If the model has not one input, or its shape does not follow from the size.
    TooLarge
        If it has more elements than allowed.
    """
    if len(spec.inputs) != 1:
        raise Invalid(
            f"a raw binary request needs a model with one input; {spec.artifact.model} has {len(spec.inputs)}"
        )
    (wanted,) = spec.inputs
    known = (1, *wanted.shape[1:]) if spec.rows_max else wanted.shape
    tensor = TensorIn(wanted.name, wanted.datatype, _deduce(wanted, known, len(body)))
    if tensor.elements > limits.elements_max:
        raise TooLarge(f"{tensor.elements} elements; the limit is {limits.elements_max}")
    return calls.intern((tensor,), binary=True), (_raw_payload(body, tensor),), b""


def _raw_payload(body: bytes | memoryview, tensor: TensorIn) -> Payload:
    """Return the whole body as a payload; as one string, without a length in front, for BYTES."""
    if tensor.datatype.name != "BYTES":
        return payload(body, tensor, tensor.name)
    try:
        return elements.strings_array([bytes(body).decode()], tensor.shape)
    except UnicodeDecodeError:
        raise Invalid(f"the body is not UTF-8, as the string input {tensor.name!r} must be") from None


def _deduce(wanted: TensorSpec, known: tuple[int, ...], size_bytes: int) -> tuple[int, ...]:
    """Return the shape of which `known` is all but, at most, one dimension."""
    about = f"raw binary data for {wanted.name!r}, {wanted.datatype.name} of shape {list(known)}"
    itemsize = wanted.datatype.itemsize
    if not itemsize:
        shape = tuple([abs(size) for size in known])
        if math.prod(shape) != 1:
            raise Invalid(f"{about}: one string is all that a raw binary request can say")
        return shape
    rest = math.prod([size for size in known if size >= 0]) * itemsize
    unknown = known.count(-1)
    if unknown > 1 or (unknown and not rest):
        raise Invalid(f"{about}: more than one dimension is open; say the shape in a JSON header")
    if not unknown and size_bytes != rest:
        raise Invalid(f"{about}: takes {rest} bytes, got {size_bytes}")
    if unknown and size_bytes % rest:
        raise Invalid(f"{about}: takes a multiple of {rest} bytes, got {size_bytes}")
    return tuple([size_bytes // rest if size < 0 else size for size in known])
