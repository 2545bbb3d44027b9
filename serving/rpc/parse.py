"""What does a ModelInferRequest say, read in full: by protobuf, then by the rules of HTTP's JSON?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving import codec_binary, document
from serving.config import Limits
from serving.document import DIMENSIONS_MAX
from serving.errors import Invalid
from serving.expect import JsonObject, invalid
from serving.rpc import typed
from serving.rpc.messages import DecodeError, service_pb2
from serving.rpc.walk import unreadable
from serving.target import model_named, version_named
from serving.wire import Call, Payload, TensorIn

FINAL_RESPONSE = "triton_enable_empty_final_response"
"""A reserved parameter that may be sent: what it asks for, answers in a stream say anyway."""
NOT_HERE = frozenset({"binary_data", "binary_data_size", "binary_data_output", FINAL_RESPONSE})
"""Parameters that mean nothing here, the first three because there is no JSON."""

Decoded = tuple[str, str, Call, Sequence[Payload], bytes]
"""Model and version as they were addressed, the call, its payloads and its id."""


def parse(rest: bytes, raws: Sequence[memoryview], limits: Limits) -> Decoded:
    """Read a message of which the raw contents were cut out; raises as `decode`."""
    message = service_pb2.ModelInferRequest()
    try:
        message.ParseFromString(rest)
    except DecodeError:
        raise unreadable() from None
    message.DiscardUnknownFields()
    model = model_named(message.model_name)
    version = version_named(message.model_version) if message.model_version else ""
    declared = document.read(_document(message), limits)
    if declared.call.shared:
        _check_no_contents(message, declared.call.inputs)
    if raws:
        payloads = _raw(message, raws, declared.call.inputs)
    else:
        payloads = [
            typed.payload(each.contents, tensor, f"$.inputs[{index}].contents")
            if tensor.window is None
            else b""
            for index, (each, tensor) in enumerate(zip(message.inputs, declared.call.inputs, strict=True))
        ]
    return model, version, declared.call, payloads, declared.id


def _raw(message: Any, raws: Sequence[memoryview], tensors: Sequence[TensorIn]) -> list[Payload]:
    for index, each in enumerate(message.inputs):
        if each.contents.ByteSize():
            raise invalid("expected no contents beside raw_input_contents", f"$.inputs[{index}].contents")
    sent = [index for index, tensor in enumerate(tensors) if tensor.window is None]
    if len(raws) != len(sent):
        raise Invalid(f"{len(sent)} inputs, but {len(raws)} raw_input_contents; send one for each input")
    payloads: list[Payload] = [b""] * len(tensors)
    for place, (index, raw) in enumerate(zip(sent, raws, strict=True)):
        payloads[index] = raw_payload(raw, tensors[index], place)
    return payloads


def _check_no_contents(message: Any, tensors: Sequence[TensorIn]) -> None:
    for index, (each, tensor) in enumerate(zip(message.inputs, tensors, strict=True)):
        if tensor.window is not None and each.contents.ByteSize():
            raise invalid("expected no contents beside shared memory", f"$.inputs[{index}].contents")


def raw_payload(raw: memoryview, tensor: TensorIn, index: int) -> Payload:
    """Return the elements of input `index` from their bytes: a copy of few, a view on many."""
    where = f"$.raw_input_contents[{index}]"
    exact = tensor.elements * tensor.datatype.itemsize
    if tensor.datatype.itemsize and len(raw) != exact:
        about = f"{tensor.datatype.name} of shape {list(tensor.shape)}"
        raise invalid(f"{about} takes {exact} bytes, got {len(raw)}", where)
    piece = bytes(raw) if len(raw) <= codec_binary.COPY_BYTES_MAX else raw
    return codec_binary.payload(piece, tensor, where)


def _document(message: Any) -> JsonObject:
    """Return the message as HTTP's JSON would have it, but for the elements."""
    return {
        "id": message.id,
        "parameters": _parameters(message.parameters),
        "inputs": [
            {
                "name": each.name,
                "datatype": each.datatype,
                "shape": list(each.shape[: DIMENSIONS_MAX + 1]),
                "parameters": _parameters(each.parameters),
                "data": (),
            }
            for each in message.inputs
        ],
        "outputs": [
            {"name": each.name, "parameters": _parameters(each.parameters)} for each in message.outputs
        ],
    }


def _parameters(given: Any) -> JsonObject:
    return {
        name: getattr(value, choice) if (choice := value.WhichOneof("parameter_choice")) else None
        for name, value in given.items()
        if name not in NOT_HERE
    }
