"""How the answer to a request is written: JSON, JSON and raw bytes, or a whole HTTP response of them.

What an answer says is the same for all requests of the same call and rows, but for the id and the
elements. Its layout is therefore worked out once and remembered.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import orjson

from serving import calls, elements
from serving.errors import Failed, Invalid
from serving.memo import Memo
from serving.wire import Call, InferRequest, Results, TensorSpec

JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"

ROUTE_HEADER = "turnout-route"
"""The header that says which version answered, by which revision of the routing table, and why."""

_JSON_HEAD = b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_BINARY_HEAD = (
    b"HTTP/1.1 200 OK\r\n%bcontent-type: application/octet-stream\r\n"
    b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
)


class Encoded(NamedTuple):
    """An answer's body. `json_bytes` is how long its JSON is if raw bytes follow, and None if it is all."""

    json_bytes: int | None
    parts: tuple[bytes, ...]

    @property
    def content_type(self) -> str:
        """The media type of the whole."""
        return JSON_TYPE if self.json_bytes is None else BINARY_TYPE


class Hole(NamedTuple):
    """A place in an answer's JSON that differs from request to request, and the text before it.

    What goes there is the elements of the output (by index), or the size of its raw bytes.
    """

    before: bytes
    output: int
    elements: bool


class Layout(NamedTuple):
    """What answers of one call, version, route, number of rows and length of id have in common.

    `opening` comes before the id, then come the holes, then `closing`. `raws` are the outputs whose
    raw bytes follow, with their sizes, or None for BYTES. If there are no holes, every length is
    known, and `head` is the HTTP response up to the id; otherwise it is empty. `single` is the output
    of an answer of no holes and one raw output, or -1.
    """

    outputs: tuple[TensorSpec, ...]
    head: bytes
    opening: bytes
    holes: tuple[Hole, ...]
    closing: bytes
    raws: tuple[tuple[int, int | None], ...]
    single: int
    single_bytes: int


_LAYOUTS: Memo[tuple[Any, ...], Layout] = Memo(entries_max=4096, entry_bytes_max=16384)


def frame(request: InferRequest, results: Results, start: int, stop: int) -> bytes:
    """Return the HTTP/1.1 response that answers `request` with rows `start` to `stop`, keep-alive.

    Raises
    ------
    Invalid
        If it asks for an output that the model has not.
    Failed
        If the model's output cannot be written as asked for.
    """
    call, id_, recent = request.call, request.id, results.recent
    # Requests are mostly like the one before: comparing costs less than hashing what tells them apart.
    if (
        recent is not None
        and recent[0] is call
        and recent[1] == len(id_)
        and recent[2] == stop - start
        and recent[3] is request.stamp
    ):
        layout: Layout = recent[4]
    else:
        layout = _layout(request, results, start, stop)
        results.recent = (call, len(id_), stop - start, request.stamp, layout)
    single = layout[6]
    if single >= 0:
        raw = results.raw(single, start, stop)
        if len(raw) != layout[7]:
            raise misshapen(results, single)
        return b"".join((layout[1], id_, layout[4], raw))
    encoded = _fill(layout, request.id, results, start, stop)
    body_bytes = sum(map(len, encoded.parts))
    return b"".join((_head(request.stamp, encoded.json_bytes, body_bytes), *encoded.parts))


def encode(request: InferRequest, results: Results, start: int, stop: int) -> Encoded:
    """Return the body of the answer alone, for whoever compresses it or writes a head of their own.

    Raises
    ------
    Invalid
        If it asks for an output that the model has not.
    Failed
        If the model's output cannot be written as asked for.
    """
    return _fill(_layout(request, results, start, stop), request.id, results, start, stop)


def _layout(request: InferRequest, results: Results, start: int, stop: int) -> Layout:
    id_bytes = len(request.id)
    rows = stop - start if results.rows else -1
    key = (request.call, results.model, results.version, request.stamp, results.tails, rows, id_bytes)
    layout = _LAYOUTS.get(key) or _LAYOUTS.recall(key)
    # A version never changes under its name, but this costs less than being wrong.
    if layout is None or layout.outputs is not results.outputs:
        layout = _lay_out(request, results, start, stop)
        texts = [layout.head, layout.opening, layout.closing, *[hole.before for hole in layout.holes]]
        _LAYOUTS.keep(key, layout, calls.weight_bytes(request.call) + sum(map(len, texts)))
    return layout


def _lay_out(request: InferRequest, results: Results, start: int, stop: int) -> Layout:
    """Work out the layout of answers to requests like this one, of the shapes that `results` has."""
    call, id_bytes = request.call, len(request.id)
    opening = b'{"model_name":%b,"model_version":%b' % (_quoted(results.model), _quoted(results.version))
    opening += b',"id":"' if id_bytes else b""
    text = b'","outputs":[' if id_bytes else b',"outputs":['
    holes: list[Hole] = []
    raws: list[tuple[int, int | None]] = []
    for place, (index, binary) in enumerate(asked_for(call, results.outputs)):
        shape = results.shape(index, start, stop)
        itemsize = results.outputs[index].datatype.itemsize
        text += b"," if place else b""
        text += _declaration(results.outputs[index], shape)
        if call.shared and (window := call.window(results.outputs[index].name)):
            text += b',"parameters":%b}' % orjson.dumps(window.parameters())
        elif not binary:
            holes.append(Hole(text + b',"data":', index, elements=True))
            text = b"}"
        elif itemsize:
            raws.append((index, math.prod(shape) * itemsize))
            text += b',"parameters":{"binary_data_size":%d}}' % (math.prod(shape) * itemsize)
        else:
            raws.append((index, None))
            holes.append(Hole(text + b',"parameters":{"binary_data_size":', index, elements=False))
            text = b"}}"
    closing = text + b"]}"
    head = b""
    if not holes:
        head = _fixed_head(request.stamp, len(opening) + id_bytes + len(closing), raws) + opening
    single, single_bytes = raws[0] if head and len(raws) == 1 else (-1, 0)
    return Layout(
        results.outputs, head, opening, tuple(holes), closing, tuple(raws), single, single_bytes or 0
    )


def _declaration(spec: TensorSpec, shape: tuple[int, ...]) -> bytes:
    about = (_quoted(spec.name), _quoted(spec.datatype.name), orjson.dumps(shape))
    return b'{"name":%b,"datatype":%b,"shape":%b' % about


def asked_for(call: Call, outputs: tuple[TensorSpec, ...]) -> list[tuple[int, bool]]:
    """Return which outputs are asked for, by index, and whether in binary."""
    if call.outputs is None:
        return [(index, call.binary) for index in range(len(outputs))]
    indices = {spec.name: index for index, spec in enumerate(outputs)}
    for asked in call.outputs:
        if asked.name not in indices:
            known = ", ".join(indices)
            raise Invalid(f"the model has no output {asked.name!r}; its outputs are: {known}")
    return [(indices[asked.name], asked.binary) for asked in call.outputs]


def _fill(layout: Layout, id_: bytes, results: Results, start: int, stop: int) -> Encoded:
    """Write one request's elements into `layout`."""
    parts = [layout.opening, id_]
    strings: dict[int, bytes] = {}
    for hole in layout.holes:
        spec = results.outputs[hole.output]
        part = results.part(hole.output, start, stop)
        if hole.elements:
            parts += (hole.before, elements.to_json(part, spec.datatype, spec.name))
        else:
            strings[hole.output] = elements.strings_to_bytes(part, spec.name)
            parts += (hole.before, b"%d" % len(strings[hole.output]))
    parts.append(layout.closing)
    if not layout.raws:
        return Encoded(None, tuple(parts))
    json_bytes = sum(map(len, parts))
    for index, size_bytes in layout.raws:
        raw = strings[index] if size_bytes is None else results.raw(index, start, stop)
        if size_bytes is not None and len(raw) != size_bytes:
            raise misshapen(results, index)
        parts.append(raw)
    return Encoded(json_bytes, tuple(parts))


def _fixed_head(stamp: bytes, json_bytes: int, raws: list[tuple[int, int | None]]) -> bytes:
    """Return the HTTP head of an answer of which every size is known."""
    raw_bytes = sum(size_bytes or 0 for _, size_bytes in raws)
    return _head(stamp, json_bytes if raws else None, json_bytes + raw_bytes)


def _head(stamp: bytes, json_bytes: int | None, body_bytes: int) -> bytes:
    route = b"%b: %b\r\n" % (ROUTE_HEADER.encode(), stamp) if stamp else b""
    if json_bytes is None:
        return _JSON_HEAD % (route, body_bytes)
    return _BINARY_HEAD % (route, json_bytes, body_bytes)


def _quoted(text: str) -> bytes:
    return orjson.dumps(text)


def misshapen(results: Results, index: int) -> Failed:
    """Return the error that is better than an answer whose lengths contradict its bytes."""
    name = results.outputs[index].name
    return Failed(f"the model's output {name!r} is not of the size that its shape and datatype say")
