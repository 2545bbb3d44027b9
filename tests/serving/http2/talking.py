"""What do two ends of HTTP/2 say to each other, without a socket between them?

`Recorder` is a server that notes what its core tells it, `Client` python-hyper's h2 at the other end, and
`frames_of` reads what a core has sent, for tests that send bytes of their own making.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from hpack import Decoder, Encoder

from serving.http2 import frames
from serving.http2.blocks import shared_heads
from serving.http2.bounds import Bounds
from serving.http2.connection import Connection
from serving.http2.errors import Code
from serving.http2.frames import Block
from serving.http2.streams import Stream

HEAD = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/x"),
    (":authority", "test"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
OPENING: Block = frames.block(b"\x88", ended=False)
CLOSING: Block = frames.block(b"\0\x0bgrpc-status\x010", ended=True)
GREETING = frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0)


class Recorder:
    """A server that notes what it is told.

    Attributes
    ----------
    begun, ended, cut : list of int
        Ids of streams, in the order of what became of them.
    bodies : dict of int to bytes
    """

    def __init__(self, bounds: Bounds | None = None, unsent_max: int | None = None) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.cut_off: list[int] = []
        self.heads: dict[int, Any] = {}
        self.bodies: dict[int, bytes] = {}
        self.waiting = 0
        self.faults: list[Code] = []
        self.generous = True
        """Whether streams may send on as soon as half of their window is used."""
        self._unsent_max = unsent_max
        self.bounds = bounds or Bounds()
        self.core = Connection(self, self.bounds, shared_heads(), self.count)
        self.core.begin()
        self.tail = b""

    def count(self, grown: int) -> None:
        if self._unsent_max is not None and grown > 0 and self.waiting + grown > self._unsent_max:
            raise OverflowError
        self.waiting += grown

    def begin(self, stream: Stream) -> None:
        assert stream.id not in self.bodies, "begun twice"
        self.begun.append(stream.id)
        self.heads[stream.id] = stream.head
        self.bodies[stream.id] = b""
        if not stream.receiving:
            self.ended.append(stream.id)

    def take(self, stream: Stream, data: bytes, begin: int, stop: int) -> None:
        assert self.core.streams.get(stream.id) is stream, "bytes of a stream that is not under way"
        assert stream.id not in self.ended, "bytes behind the end"
        assert 0 <= begin <= stop <= len(data)
        self.bodies[stream.id] += data[begin:stop]
        if not stream.receiving:
            self.ended.append(stream.id)
        elif self.generous and stream.room < self.bounds.window_bytes // 2:
            self.core.allow(stream, self.bounds.window_bytes - stream.room)

    def cut(self, stream: Stream) -> None:
        assert stream.id not in self.cut_off, "cut off twice"
        self.cut_off.append(stream.id)

    def count_fault(self, code: Code) -> None:
        self.faults.append(code)

    def receive(self, data: bytes) -> None:
        """Take bytes as they arrive from a socket."""
        data = self.tail + data
        used = self.core.receive(data)
        assert 0 <= used <= len(data)
        self.tail = data[used:]
        assert len(self.tail) < frames.HEADER_BYTES + 16_384

    def sent(self) -> bytes:
        """Return what is to be written since the last time."""
        return b"".join(self.core.sender.collect())

    def answer(self, id: int, message: bytes) -> None:  # noqa: A002
        """Answer a request."""
        stream = self.core.streams[id]
        self.core.sender.answer(stream, OPENING, (message,), len(message), CLOSING)


class Client:
    """python-hyper's h2 in front of a `Recorder`, with a pipe between them that keeps order."""

    def __init__(self, server: Recorder, settings: dict[int, int] | None = None) -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        if settings:
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        self.h2.initiate_connection()
        self.events: list[Any] = []
        self.statuses: dict[int, bytes] = {}
        self.data: dict[int, bytes] = {}
        self.done: list[int] = []
        self.resets: dict[int, int] = {}
        self.gone: list[Any] = []
        self.acknowledge = True

    def exchange(self, cuts: Sequence[int] = ()) -> None:
        """Carry bytes to and fro until nobody has more to say; those to the server in pieces."""
        for _ in range(10_000):
            out = self.h2.data_to_send()
            for part in _cut(out, cuts):
                self.server.receive(part)
            self.server.core.sender.pump()
            back = self.server.sent()
            if not out and not back:
                return
            self._take(back)
        raise AssertionError("they talk for ever")

    def _take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.events.append(event)
            match event:
                case h2.events.ResponseReceived():
                    self.statuses[event.stream_id] = dict(event.headers)[b":status"]
                    self.data.setdefault(event.stream_id, b"")
                case h2.events.DataReceived():
                    self.data[event.stream_id] += event.data
                    if self.acknowledge:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self.done.append(event.stream_id)
                case h2.events.StreamReset():
                    self.resets[event.stream_id] = event.error_code
                case h2.events.ConnectionTerminated():
                    self.gone.append(event)


def _cut(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    at = 0
    for length in cuts:
        if at >= len(data):
            return
        yield data[at : at + length]
        at += length
    if at < len(data):
        yield data[at:]


def block(fields: Sequence[tuple[str, str]] = HEAD, encoder: Encoder | None = None) -> bytes:
    """Return a header block."""
    packed: bytes = (encoder or Encoder()).encode(fields)
    return packed


def head(id: int, *, ended: bool = True, fields: Sequence[tuple[str, str]] = HEAD) -> bytes:  # noqa: A002
    """Return a HEADERS frame of literals alone, so that it means the same wherever it comes."""
    packed = b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields
    )
    return frames.frame(frames.HEADERS, frames.END_HEADERS | ended, id, packed)


def data(id: int, payload: bytes = b"", *, ended: bool = True) -> bytes:  # noqa: A002
    """Return a DATA frame."""
    return frames.frame(frames.DATA, int(ended), id, payload)


def frames_of(sent: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return the kind, flags, stream and payload of each frame."""
    found, at = [], 0
    while at < len(sent):
        high, low, kind, flags, id_ = frames.HEADER.unpack_from(sent, at)
        stop = at + 9 + (high << 16 | low)
        assert stop <= len(sent), "half a frame"
        found.append((kind, flags, id_, sent[at + 9 : stop]))
        at = stop
    return found


def ending(server: Recorder) -> tuple[Code, str] | None:
    """Return with which code and words the server has given up the connection, if it has."""
    for kind, _, _, payload in frames_of(server.sent()):
        if kind == frames.GOAWAY and server.core.over:
            return Code(struct.unpack_from(">I", payload, 4)[0]), payload[8:].decode()
    return None


def resets(sent: bytes) -> dict[int, Code]:
    """Return the streams that were broken off, and the codes."""
    return {
        id_: Code(struct.unpack(">I", payload)[0])
        for kind, _, id_, payload in frames_of(sent)
        if kind == frames.RST_STREAM
    }


def fields_of(decoder: Decoder, payload: bytes) -> dict[bytes, bytes]:
    """Return the fields of a block."""
    return dict(decoder.decode(payload, raw=True))
