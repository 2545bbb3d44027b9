"""How is the answer to a ModelInferRequest written? What answers have in common is worked out once.

Answers of one call, version, route and number of rows differ in nothing but the id and the elements. As
protobuf lets fields come in any order, the id comes first and the elements last.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import orjson

from serving import calls, elements
from serving.answer import asked_for, misshapen
from serving.errors import TurnoutError
from serving.http_answer import too_long
from serving.memo import Memo
from serving.rpc.messages import service_pb2
from serving.rpc.walk import varint_bytes
from serving.wire import InferRequest, Results, TensorSpec, Window

Parts = tuple[bytes, ...]
"""A message to send, in pieces: whoever frames it joins them once."""

ROUTE_PARAMETER = "turnout_route"
"""The parameter that says what HTTP says in its header: not every client sees metadata."""
FINAL_PARAMETER = "triton_final_response"
ELSEWHERE = -1
"""Stands for an output that is not in the answer but in shared memory."""
GRPC = -1
"""Marks what is noted in `Results.recent` as ours; HTTP has the length of an id there."""
_ID, _RAW, _ERROR, _ANSWER = b"\x1a", b"\x32", b"\x0a", b"\x12"
"""Tags of ModelInferResponse's `id` and `raw_output_contents`, and of ModelStreamInferResponse's fields."""


class Form(NamedTuple):
    """What answers have in common. `head` is all but the id, up to the first output's bytes.

    `outputs` are the model's. `raws` are the outputs to send, by index, each with its size and with what
    is before its bytes; the size is None, and what is before it without its length, for BYTES.
    `single` is the output that alone follows the head, of `single_bytes`; -1 if there are others.
    """

    outputs: tuple[TensorSpec, ...]
    head: bytes
    raws: tuple[tuple[int, int | None, bytes], ...]
    single: int
    single_bytes: int
    message_bytes: int
    """Of the whole message but for the id, if `single`."""


_FORMS: Memo[tuple[Any, ...], Form] = Memo(entries_max=4096, entry_bytes_max=16384)


def encode(request: InferRequest, results: Results, start: int, stop: int, bytes_max: int) -> Parts:
    """Return the ModelInferResponse that answers `request` with rows `start` to `stop`.

    Raises
    ------
    Invalid
        If it asks for an output that the model has not.
    Failed
        If the model's output cannot be written as asked for.
    TooLarge
        If it has more than `bytes_max`.
    """
    recent = results.recent
    # Requests are mostly like the one before: comparing costs less than hashing what tells them apart.
    if (
        recent is not None
        and recent[0] is request.call
        and recent[1] == GRPC
        and recent[2] == stop - start
        and recent[3] is request.stamp
    ):
        form: Form = recent[4]
    else:
        form = _form(request, results, start, stop)
        results.recent = (request.call, GRPC, stop - start, request.stamp, form)
    if form.single >= 0:
        raw = results.raw(form.single, start, stop)
        if len(raw) != form.single_bytes:
            raise misshapen(results, form.single)
        if form.message_bytes > bytes_max:
            raise too_long(form.message_bytes, bytes_max)
        return (_id_field(request.id) + form.head, raw) if request.id else (form.head, raw)
    return _fill(form, request, results, start, stop, bytes_max)


def stream_answer(parts: Parts) -> Parts:
    """Return the ModelStreamInferResponse around an answer. It says that the answer is the only one."""
    length = sum(map(len, parts)) + len(_FINAL)
    return (_ANSWER + varint_bytes(length) + _FINAL, *parts)


def stream_error(error: TurnoutError, id_: bytes) -> Parts:
    """Return the ModelStreamInferResponse that says why the request of this id has no answer."""
    text = str(error).encode("utf-8", "replace")
    answer = (_id_field(id_) if id_ else b"") + _FINAL
    return (_ERROR + varint_bytes(len(text)) + text + _ANSWER + varint_bytes(len(answer)) + answer,)


def _id_field(id_: bytes) -> bytes:
    """Return the field of an id that is held as JSON holds it."""
    if b"\\" in id_:
        id_ = orjson.loads(b'"%b"' % id_).encode()
    if len(id_) < 0x80:
        return b"\x1a%c%b" % (len(id_), id_)
    return _ID + varint_bytes(len(id_)) + id_


def _form(request: InferRequest, results: Results, start: int, stop: int) -> Form:
    rows = stop - start if results.rows else -1
    key = (request.call, results.model, results.version, request.stamp, results.tails, rows)
    form = _FORMS.get(key) or _FORMS.recall(key)
    # A version never changes under its name, but this costs less than being wrong.
    if form is None or form.outputs is not results.outputs:
        form = _make(request, results, start, stop)
        _FORMS.keep(key, form, calls.weight_bytes(request.call) + len(form.head))
    return form


def _make(request: InferRequest, results: Results, start: int, stop: int) -> Form:
    """Work out the form of answers to requests like this one, of the shapes that `results` has."""
    said = service_pb2.ModelInferResponse(model_name=results.model, model_version=results.version)
    if request.stamp:
        said.parameters[ROUTE_PARAMETER].string_param = request.stamp.decode()
    raws: list[tuple[int, int | None, bytes]] = []
    for index, _ in asked_for(request.call, results.outputs):
        spec, shape = results.outputs[index], results.shape(index, start, stop)
        output = said.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=shape)
        if request.call.shared and (window := request.call.window(spec.name)):
            _say(window, output.parameters)
            raws.append((ELSEWHERE, 0, _RAW + b"\0"))  # As Triton does: the others keep their places.
        elif spec.datatype.itemsize:
            size_bytes = math.prod(shape) * spec.datatype.itemsize
            raws.append((index, size_bytes, _RAW + varint_bytes(size_bytes)))
        else:
            raws.append((index, None, _RAW))
    head: bytes = said.SerializeToString()
    match raws:
        case [(index, int() as size_bytes, before)] if index != ELSEWHERE:
            head += before
            return Form(results.outputs, head, tuple(raws), index, size_bytes, len(head) + size_bytes)
    return Form(results.outputs, head, tuple(raws), -1, 0, 0)


def _say(window: Window, parameters: Any) -> None:
    for name, value in window.parameters().items():
        if isinstance(value, str):
            parameters[name].string_param = value
        else:
            parameters[name].int64_param = value


def _fill(
    form: Form, request: InferRequest, results: Results, start: int, stop: int, bytes_max: int
) -> Parts:
    """Write an answer of several outputs, or of strings."""
    parts = [_id_field(request.id) + form.head if request.id else form.head]
    for index, size_bytes, before in form.raws:
        if index == ELSEWHERE:
            parts.append(before)
        elif size_bytes is None:
            raw = elements.strings_to_bytes(results.part(index, start, stop), results.outputs[index].name)
            parts += (before, varint_bytes(len(raw)), raw)
        else:
            raw = results.raw(index, start, stop)
            if len(raw) != size_bytes:
                raise misshapen(results, index)
            parts += (before, raw)
    message_bytes = sum(map(len, parts))
    if message_bytes > bytes_max:
        raise too_long(message_bytes, bytes_max)
    return tuple(parts)


def _final() -> bytes:
    said = service_pb2.ModelInferResponse()
    said.parameters[FINAL_PARAMETER].bool_param = True
    written: bytes = said.SerializeToString()
    return written


_FINAL = _final()
