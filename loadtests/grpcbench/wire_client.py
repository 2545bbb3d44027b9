"""How many unary gRPC calls a second does a server answer, on so many connections with so many streams each?

    python -m loadtests.grpcbench.wire_client PORT MESSAGES --connections 8 --streams 1 --seconds 2

MESSAGES holds ModelInferRequests, each after its length in eight digits; they are sent in turn. Prints one
JSON object. Connections are those of `turnout bench`, HPACK's table in use as by grpcio's C core; each call
that was answered is followed by another. Every answer is looked at: its frames, its status, and that its
message is as long as the first one was.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.bench.messages import calling, framed
from serving.bench.openings import READABLE, WRITABLE
from serving.bench.outcomes import Outcomes
from serving.bench.plan import Calling
from serving.bench.trunk import Call, Trunk

WHOLE_BYTES_MAX = 16_384
"""Answers up to here have one length each model; larger ones may differ."""


class CallError(Exception):
    """A call that was not answered as it should have been."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked: messages with their gRPC prefix, and further metadata."""

    messages: Sequence[bytes]
    metadata: Sequence[tuple[str, str]] = ()


def read_messages(path: Path) -> list[bytes]:
    """Return the messages of a file, ready to be sent."""
    data, at, messages = path.read_bytes(), 0, []
    while at < len(data):
        stop = at + 8 + int(data[at : at + 8])
        messages.append(framed(data[at + 8 : stop]))
        at = stop
    return messages


class Connection:
    """One connection, with as many calls under way as it has streams."""

    def __init__(self, port: int, messages: Sequence[bytes], how: Calling, offset: int) -> None:
        connected = socket.create_connection(("127.0.0.1", port), timeout=10)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setblocking(False)
        self._outcomes = Outcomes()
        self._trunk = Trunk(connected, how, self._outcomes, self._ended)
        self._messages = messages
        self._turn = offset % len(messages)
        self._length = -1
        self._began = False
        self.fd = self._trunk.fd
        self.took_ns: list[int] = []
        self._trunk.outlet.flush()

    def read(self) -> bool:
        """Take what there is, and call again for each call that was answered; whether some is to be sent."""
        trunk = self._trunk
        if not trunk.read():
            raise CallError("the server closed the connection")
        if trunk.ready and not self._began:
            self._began = True
            for _ in range(trunk.streams):
                self._call()
        if not trunk.outlet.flush():
            raise CallError("the server closed the connection")
        return bool(trunk.outlet.rest)

    def _call(self) -> None:
        now_ns = time.perf_counter_ns()
        self._trunk.call(Call(now_ns, now_ns, b""), b"", self._messages[self._turn])
        self._turn = (self._turn + 1) % len(self._messages)

    def _ended(self, call: Call, code: int, done_ns: int) -> None:
        if not call.said.good:
            raise CallError(call.said.text or f"a call was {self._outcomes.met[code].what}")
        length = call.answer_bytes
        if length != self._length and length < WHOLE_BYTES_MAX:
            if self._length >= 0:
                raise CallError(f"an answer of {length} bytes, and one of {self._length}")
            self._length = length
        self.took_ns.append(done_ns - call.sent_ns)
        self._call()


def run(
    port: int, work: Work, connections: int, streams: int, seconds: float, warm_s: float
) -> dict[str, float]:
    """Call for `seconds`, after `warm_s`, and return what came of it."""
    how = calling("127.0.0.1", work.metadata, streams=streams)
    offsets = [index * len(work.messages) // connections for index in range(connections)]
    made = [Connection(port, work.messages, how, offset) for offset in offsets]
    with select.epoll() as poll:
        by_number = {each.fd: each for each in made}
        for fd in by_number:
            poll.register(fd, READABLE)
        _turn(poll, by_number, time.perf_counter() + warm_s)
        for each in made:
            each.took_ns.clear()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        _turn(poll, by_number, began_s + seconds)
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    times = sorted(each for connection in made for each in connection.took_ns)
    if not times:
        raise CallError(f"none of {connections * streams} calls was answered")
    return {
        "per_s": len(times) / took_s,
        "answered": len(times),
        "p50_us": times[len(times) // 2] / 1e3,
        "p99_us": times[len(times) * 99 // 100] / 1e3,
        "client_cpu": cpu_s / took_s,
    }


def _turn(poll: select.epoll, by_number: dict[int, Connection], until_s: float) -> None:
    for numbers in _events(poll, until_s):
        for number, event in numbers:
            waits = by_number[number].read()
            if waits or event & select.EPOLLOUT:
                poll.modify(number, WRITABLE if waits else READABLE)


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
