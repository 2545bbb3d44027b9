"""A small gRPC server for tests of load: it answers each call with the frames that it is told to."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from hpack import Decoder

from serving.http2 import frames
from serving.http2.frames import DATA, END_STREAM, HEADER, HEADERS, PING, RST_STREAM, SETTINGS
from serving.rpc.fields import pack
from serving.rpc.messages import service_pb2

Reply = Callable[[int, int, bytes], "bytes | None"]
"""Of a call's number, its stream and its id, the frames of the answer; None ends the connection."""
OPENING = b"\x88" + pack("content-type", "application/grpc")


def headers(stream: int, block: bytes, *, ended: bool = False) -> bytes:
    """Return a HEADERS frame."""
    before, after = frames.block(block, ended=ended)
    return before + frames.STREAM_ID.pack(stream) + after


def message(id_: bytes) -> bytes:
    """Return an answer's message with its prefix."""
    written = service_pb2.ModelInferResponse(model_name="m", id=id_.decode()).SerializeToString()
    return struct.pack(">BI", 0, len(written)) + written


def good(stream: int, id_: bytes, route: str = "7;3;split") -> bytes:
    """Return an answer like a gateway's."""
    data = frames.frame(DATA, 0, stream, message(id_))
    closing = pack("grpc-status", "0") + pack("turnout-route", route)
    return headers(stream, OPENING) + data + headers(stream, closing, ended=True)


class AnsweringCalls:
    """A server in threads, one for each connection.

    Parameters
    ----------
    reply : callable
        See `Reply`.
    settings : mapping
        Of HTTP/2, which it greets with.
    piece_bytes : int
        In which pieces it sends; 0 is whole answers.
    mute : bool
        It says nothing by itself once it has greeted.

    Attributes
    ----------
    asked : list of tuple
        Each call's stream and id.
    fields : list of dict
        Each call's head.
    resets : list of int
        Streams that were broken off.
    most : int
        The most calls that were under way on one connection.
    """

    def __init__(
        self,
        reply: Reply = lambda _number, stream, id_: good(stream, id_),
        settings: Mapping[int, int] | None = None,
        piece_bytes: int = 0,
        *,
        mute: bool = False,
    ) -> None:
        self._mute = mute
        self._reply, self._settings, self._piece_bytes = reply, settings or {}, piece_bytes
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.at: tuple[str, int] = self._listening.getsockname()[:2]
        self._clients: list[socket.socket] = []
        self._lock = threading.Lock()
        self.asked: list[tuple[int, bytes]] = []
        self.fields: list[dict[str, str]] = []
        self.resets: list[int] = []
        self.connections = self.most = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in self._clients:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients.append(client)
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            self._talk(client, client.makefile("rb"))
        except (OSError, ValueError, struct.error):
            pass
        finally:
            client.close()

    def _talk(self, client: socket.socket, heard: object) -> None:
        read = heard.read  # type: ignore[attr-defined]
        assert read(len(frames.PREFACE)) == frames.PREFACE
        client.sendall(frames.settings(self._settings))
        decoder = Decoder()
        under_way: dict[int, bytes] = {}
        while True:
            high, low, kind, flags, stream = HEADER.unpack(read(9))
            payload = read(high << 16 | low)
            if kind == HEADERS:
                head = dict(decoder.decode(payload))
                under_way[stream] = b""
                with self._lock:
                    self.fields.append(head)
                    self.most = max(self.most, len(under_way))
            elif kind == DATA:
                under_way[stream] += payload
                if not self._mute:
                    client.sendall(frames.window_update(0, len(payload)))
                if flags & END_STREAM:
                    asked = service_pb2.ModelInferRequest.FromString(under_way.pop(stream)[5:])
                    if not self._answer(client, stream, asked.id.encode()):
                        return
            elif kind == RST_STREAM:
                self.resets.append(stream)
            elif kind in (SETTINGS, PING) and not flags & frames.ACK and not self._mute:
                client.sendall(frames.frame(kind, frames.ACK, 0, payload if kind == PING else b""))

    def _answer(self, client: socket.socket, stream: int, id_: bytes) -> bool:
        with self._lock:
            number = len(self.asked)
            self.asked.append((stream, id_))
        said = self._reply(number, stream, id_)
        size = self._piece_bytes or len(said or b"") or 1
        for at in range(0, len(said or b""), size):
            client.sendall((said or b"")[at : at + size])
        return said is not None
