"""How do many clients ask without a pause, and what is written down of each request?

    python -m loadtests.switching.asking PORT FILE [--clients 16] [--think-ms 0]

Every other client opens a connection for each request, the others keep theirs; of both kinds, half ask
in JSON and half in binary. It says ``asking`` once all were answered, asks until its input ends, and
then writes what happened to FILE (loadtests/switching/records.py). It is a process of its own, so that
nothing else delays its clock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httptools
import numpy as np
import uvloop

from loadtests.bench import traffic
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.register import Outcome, Request
from loadtests.switching.records import Notes

MODEL = "register"
CLIENTS = 16
ANSWER_S_MAX = 30.0
"""What is not answered by then has failed."""
RETRY_S = 0.01
"""The pause after a failure, so that a gateway that is down is not asked thousands of times a second."""
VERSION_MAX = 255


@dataclass(slots=True)
class Answer:
    """One response, as far as the checker looks at it."""

    status: int = 0
    route: str = ""
    json_length: int = 0
    keep_alive: bool = True
    body: bytearray = field(default_factory=bytearray)


def request(encoding: Encoding, *, keep_alive: bool) -> bytes:
    """Return a whole request to the register."""
    body = traffic.body(np.ones((1, 1), np.float32), binary=encoding is Encoding.BINARY)
    head = body.head(Traffic(MODEL, encoding, distinct=False).path)
    if not keep_alive:
        head = head[:-2] + b"Connection: close\r\n\r\n"
    return head + body.data


def read(answer: Answer) -> tuple[Outcome, int, int, int]:
    """Return what came of a request: the outcome, and the version as claimed, as routed and as it is."""
    failed = Outcome.FAILED, 0, 0, 0
    if answer.status != 200:
        return failed
    try:
        document = json.loads(answer.body[: answer.json_length] if answer.json_length else answer.body)
        claimed, routed = _version(document["model_version"]), _version(answer.route.partition(";")[0])
        return Outcome.OK, claimed, routed, _true(answer, document)
    except (ValueError, LookupError, TypeError, struct.error):
        return failed


def _version(text: str) -> int:
    """Read a version; one that is none, or is absent, is 0, which is no version either."""
    return int(text) if text.isascii() and text.isdecimal() and int(text) <= VERSION_MAX else 0


def _true(answer: Answer, document: dict[str, Any]) -> int:
    (output,) = document["outputs"]
    if answer.json_length:
        (value,) = struct.unpack("<f", answer.body[answer.json_length :])
    else:
        (value,) = output["data"]
    return int(value) if 0 < value <= VERSION_MAX and value == int(value) else 0


class Connection(asyncio.Protocol):
    """A connection with one request on it at a time."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[Answer | None] | None = None
        self._transport: asyncio.Transport
        self._answer = Answer()
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where requests go."""
        self._transport = cast("asyncio.Transport", transport)

    @property
    def closing(self) -> bool:
        """Whether nothing more can be asked."""
        return self._transport.is_closing()

    async def ask(self, request: bytes) -> Answer | None:
        """Send a request and return its answer; None if the connection ended first."""
        if self.closing:
            return None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def data_received(self, data: bytes) -> None:
        """Parse; what is no HTTP counts as an answer without a status."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._settle(Answer())
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that matter."""
        match name.lower():
            case b"turnout-route":
                self._answer.route = value.decode("latin-1")
            case b"inference-header-content-length":
                self._answer.json_length = int(value)
            case _:
                pass

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._answer.body += body

    def on_message_complete(self) -> None:
        """Hand the answer over, and get ready for the next."""
        answer, self._answer = self._answer, Answer()
        answer.status = self._parser.get_status_code()
        answer.keep_alive = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        self._settle(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """Say that no answer will come."""
        del error
        self._settle(None)

    def close(self) -> None:
        """End it."""
        self._transport.close()

    def _settle(self, answer: Answer | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


class Client:
    """One of the clients, by its number."""

    def __init__(self, port: int, number: int, think_ms: float, notes: Notes) -> None:
        self._port = port
        self._number = number
        self._keeps = number % 2 == 0
        self._request = request((Encoding.JSON, Encoding.BINARY)[number // 2 % 2], keep_alive=self._keeps)
        self._think = random.Random(number)
        self._think_ms = think_ms
        self._notes = notes
        self._connection: Connection | None = None
        self.answered = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop`."""
        while not stop.is_set():
            outcome = await self._once()
            if outcome is not Outcome.OK:
                await asyncio.sleep(RETRY_S)
            elif self._think_ms:
                # Exponential pauses: requests come at moments that no switch can agree with.
                await asyncio.sleep(self._think.expovariate(1 / self._think_ms) / 1e3)
        self._drop()

    async def _once(self) -> Outcome:
        if self._connection is not None and self._connection.closing:
            self._drop()
        start_ns = time.monotonic_ns()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                answer = await self._ask()
            end_ns = time.monotonic_ns()
            outcome, *versions = (Outcome.LOST, 0, 0, 0) if answer is None else read(answer)
        except (TimeoutError, ConnectionRefusedError):
            answer, end_ns, outcome, versions = None, time.monotonic_ns(), Outcome.FAILED, [0, 0, 0]
        except OSError:
            answer, end_ns, outcome, versions = None, time.monotonic_ns(), Outcome.LOST, [0, 0, 0]
        self._notes.add(Request(start_ns, end_ns, outcome, *versions, self._number))
        if answer is None or not answer.keep_alive or not self._keeps:
            self._drop()
        if outcome is Outcome.OK:
            self.answered.set()
        return outcome

    async def _ask(self) -> Answer | None:
        if self._connection is None:
            loop = asyncio.get_running_loop()
            _, self._connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        return await self._connection.ask(self._request)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


async def ask(port: int, clients: int, think_ms: float) -> Notes:
    """Let `clients` ask until the standard input ends."""
    notes, stop = Notes(), asyncio.Event()
    every = [Client(port, number, think_ms, notes) for number in range(clients)]
    async with asyncio.TaskGroup() as group:
        for client in every:
            group.create_task(client.run(stop))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S_MAX):
                await asyncio.gather(*(client.answered.wait() for client in every))
            print("asking", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        stop.set()
    return notes


def main(given: Sequence[str] | None = None) -> int:
    """Ask, and save what happened."""
    parser = argparse.ArgumentParser(prog="loadtests.switching.asking")
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--think-ms", type=float, default=0.0)
    options = parser.parse_args(given)
    uvloop.run(ask(options.port, options.clients, options.think_ms)).save(options.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
