"""How many unary gRPC calls a second does a server answer, on so many connections with so many streams each?

    python -m loadtests.grpcbench.wire_client PORT MESSAGES --connections 8 --streams 1 --seconds 2

MESSAGES holds ModelInferRequests, each after its length in eight digits; they are sent in turn. Prints one
JSON object. Calls are as grpcio's C core makes them, HPACK's table in use; what a call costs here is about
2 us and the system's share, so that one core of this keeps one core of any server busy. Every answer is
looked at: its frames, its status, and that its message is as long as the first one was.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpack import Decoder, Encoder

PATH = "/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER = struct.Struct(">BHBBI")
PAIR = struct.Struct(">HI")
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
WINDOW_MAX = (1 << 31) - 1
READ_BYTES = 1 << 20
PARTS_JOINED_MAX, BYTES_JOINED_MAX = 4096, 1 << 16
PARTS_SENT_MAX = 1000
"""Of one system call; Linux takes 1,024."""
WIDEN_BYTES = 1 << 29
"""How much is received before the connection's window is opened again."""


class CallError(Exception):
    """A call that was not answered as it should have been."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return HEADER.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked: messages with their gRPC prefix, and further metadata."""

    messages: Sequence[bytes]
    metadata: Sequence[tuple[str, str]] = ()

    def blocks(self) -> tuple[bytes, bytes]:
        """Return the header block of a connection's first call, and of all that follow."""
        encoder = Encoder()
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "127.0.0.1"),
            ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "wire-client/1"),
            ("grpc-accept-encoding", "identity, deflate, gzip"), *self.metadata,
        ]  # fmt: skip
        return encoder.encode(fields), encoder.encode(fields)


def read_messages(path: Path) -> list[bytes]:
    """Return the messages of a file, ready to be sent."""
    data, at, messages = path.read_bytes(), 0, []
    while at < len(data):
        stop = at + 8 + int(data[at : at + 8])
        message = data[at + 8 : stop]
        messages.append(b"\0" + struct.pack(">I", len(message)) + message)
        at = stop
    return messages


class Connection:
    """One connection, with as many calls under way as it has streams."""

    def __init__(self, port: int, work: Work, streams: int, offset: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._work = work
        self._messages = work.messages
        first, self._block = work.blocks()
        self._opening = first
        self._turn = offset % len(self._messages)
        self._streams = streams
        self._next = 1
        self._tail = b""
        self._out: list[bytes | memoryview] = []
        self._received = 0
        self._decoder = Decoder()
        self._window, self._stream_window, self._frame_max = 65_535, 65_535, 16_384
        self._unsent: dict[int, tuple[bytes, int, int]] = {}
        """Messages that the server's windows had no room for: how far they are sent, and their windows."""
        self.answered = 0
        self.began_s: dict[int, float] = {}
        self.took_s: list[float] = []
        self._length = -1
        self._checked: set[bytes] = set()

    def start(self) -> None:
        """Greet the server, and make the first calls once it has greeted."""
        settings = b"".join(PAIR.pack(*pair) for pair in ((2, 0), (4, WINDOW_MAX), (5, 1 << 20)))
        hello = PREFACE + frame(SETTINGS, 0, 0, settings)
        hello += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - 65_535))
        self.socket.sendall(hello)
        while self._tail or not self._greeted():
            self._take(self.socket.recv(READ_BYTES))
        for _ in range(self._streams):
            self._call()
        self._flush()
        self.socket.setblocking(False)

    def _greeted(self) -> bool:
        return bool(self._out)

    def read(self) -> None:
        """Take what there is, and call again for each call that was answered."""
        self._take(self.socket.recv(READ_BYTES))
        if self._out:
            self._flush()

    def _flush(self) -> None:
        parts, self._out = self._out, []
        if len(parts) > PARTS_JOINED_MAX or sum(map(len, parts)) > BYTES_JOINED_MAX:
            self._send_apart(parts)
            return
        data = b"".join(parts)
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self.socket.setblocking(True)
            self.socket.sendall(data[sent:])
            self.socket.setblocking(False)

    def _send_apart(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send large messages from where they lie: to join them takes longer than to send them."""
        views = [memoryview(part) for part in parts]
        self.socket.setblocking(True)
        while views:
            sent = self.socket.sendmsg(views[:PARTS_SENT_MAX])
            whole = 0
            while whole < len(views) and sent >= len(views[whole]):
                sent -= len(views[whole])
                whole += 1
            del views[:whole]
            if sent:
                views[0] = views[0][sent:]
        self.socket.setblocking(False)

    def _call(self) -> None:
        """Make a call."""
        number, message = self._next, self._messages[self._turn]
        self._next += 2
        self._turn = (self._turn + 1) % len(self._messages)
        block, self._opening = self._opening or self._block, b""
        self.began_s[number] = time.perf_counter()
        length = len(message)
        self._out.append(HEADER.pack(0, len(block), HEADERS, END_HEADERS, number) + block)
        if length <= self._window and length <= self._stream_window and length <= self._frame_max:
            self._window -= length
            self._out.append(HEADER.pack(length >> 16, length & 0xFFFF, DATA, END_STREAM, number) + message)
        else:
            self._unsent[number] = (message, 0, self._stream_window)
            self._pump()

    def _pump(self) -> None:
        """Send of the messages that wait what the server has room for."""
        for number, (message, begun_at, begun_window) in list(self._unsent.items()):
            at, window = begun_at, begun_window
            while at < len(message):
                room = min(len(message) - at, self._window, window, self._frame_max)
                if room <= 0:
                    break
                ended = END_STREAM if at + room == len(message) else 0
                self._out.append(HEADER.pack(room >> 16, room & 0xFFFF, DATA, ended, number))
                self._out.append(memoryview(message)[at : at + room])
                at, window, self._window = at + room, window - room, self._window - room
            if at < len(message):
                self._unsent[number] = (message, at, window)
            else:
                del self._unsent[number]

    def _take(self, data: bytes) -> None:
        if not data:
            raise CallError("the server closed the connection")
        self._received += len(data)
        if self._received > WIDEN_BYTES:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
        data = self._tail + data if self._tail else data
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, kind, flags, number = HEADER.unpack_from(data, at)
            stop = at + 9 + (high << 16 | low)
            if stop > end:
                break
            if kind == DATA:
                self._answer(stop - at - 9)
            elif kind == HEADERS:
                if flags & END_STREAM:
                    self._end(number, data[at + 9 : stop])
                else:
                    self._look_at_opening(data[at + 9 : stop])
            else:
                self._control(kind, flags, number, data[at + 9 : stop])
            at = stop
        self._tail = data[at:]

    def _answer(self, length: int) -> None:
        if length != self._length and length < 16_384:
            if self._length >= 0:
                raise CallError(f"an answer of {length} bytes, and one of {self._length}")
            self._length = length

    def _look_at_opening(self, block: bytes) -> None:
        """Unpack headers, unless the same bytes came before and mean the same."""
        if block not in self._checked:
            fields = dict(self._decoder.decode(block))
            if fields.get(":status") != "200":
                raise CallError(f"HTTP status {fields.get(':status')}")
            self._learn(block)

    def _end(self, number: int, block: bytes) -> None:
        if block not in self._checked:
            fields = dict(self._decoder.decode(block))
            if fields.get("grpc-status") != "0":
                raise CallError(f"status {fields.get('grpc-status')}: {fields.get('grpc-message')}")
            self._learn(block)
        self.took_s.append(time.perf_counter() - self.began_s.pop(number))
        self.answered += 1
        self._call()

    def _learn(self, block: bytes) -> None:
        # A block that adds to the table does not come again in the same bytes, or means the same.
        self._checked.add(block)
        if len(self._checked) > 4096:
            self._checked.clear()

    def _control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for name, value in PAIR.iter_unpack(payload):
                if name == 4:
                    self._stream_window = value
                elif name == 5:
                    self._frame_max = min(value, 1 << 20)
            self._out.append(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            (increment,) = struct.unpack(">I", payload)
            if not number:
                self._window += increment
            elif number in self._unsent:
                message, at, window = self._unsent[number]
                self._unsent[number] = (message, at, window + increment)
            if self._unsent:
                self._pump()
        elif kind in (RST_STREAM, GOAWAY):
            raise CallError(f"frame {kind} on stream {number}: {payload!r}")


def run(
    port: int, work: Work, connections: int, streams: int, seconds: float, warm_s: float
) -> dict[str, float]:
    """Call for `seconds`, after `warm_s`, and return what came of it."""
    count = connections * streams
    made = [
        Connection(port, work, streams, index * len(work.messages) // connections)
        for index in range(connections)
    ]
    poll = select.epoll()
    by_number = {}
    for connection in made:
        connection.start()
        poll.register(connection.socket, select.EPOLLIN)
        by_number[connection.socket.fileno()] = connection
    _turn(poll, by_number, time.perf_counter() + warm_s)
    for connection in made:
        connection.answered = 0
        connection.took_s.clear()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    _turn(poll, by_number, began_s + seconds)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    answered = sum(connection.answered for connection in made)
    times = sorted(each for connection in made for each in connection.took_s)
    if not times:
        raise CallError(f"none of {count} calls was answered")
    return {
        "per_s": answered / took_s,
        "answered": answered,
        "p50_us": times[len(times) // 2] * 1e6,
        "p99_us": times[len(times) * 99 // 100] * 1e6,
        "client_cpu": cpu_s / took_s,
    }


def _turn(poll: select.epoll, by_number: dict[int, Connection], until_s: float) -> None:
    for numbers in _events(poll, until_s):
        for number, _ in numbers:
            by_number[number].read()


def _events(poll: select.epoll, until_s: float) -> Iterator[list[tuple[int, int]]]:
    while time.perf_counter() < until_s:
        yield poll.poll(0.1)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("messages", type=Path)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warm", type=float, default=0.5)
    parser.add_argument("--metadata", action="append", default=[], metavar="NAME=VALUE")
    said = parser.parse_args()
    pairs = [tuple(each.split("=", 1)) for each in said.metadata]
    work = Work(read_messages(said.messages), pairs)
    print(json.dumps(run(said.port, work, said.connections, said.streams, said.seconds, said.warm)))


if __name__ == "__main__":
    main()
