"""How long does each request take, at a rate or in a crowd that does not depend on wrk?

wrk asks again only when it was answered, and forgets what was never answered. Here a request's time
starts when it was due, and one that is still unanswered at the end counts with its age.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import cast

import httptools

from loadtests.bench.errors import BenchError

CONNECTIONS = 64
OPEN_MAX = 10_000
"""Requests that may be unanswered at once at a steady rate."""
DRAIN_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A request: when it was due, by `time.perf_counter`, and how long it took from then."""

    due_s: float
    took_s: float


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request on it at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.WriteTransport
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where requests go."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are not registered as such.

    async def ask(self, request: bytes) -> int:
        """Send one request and return the status of its answer, 0 if none came."""
        if self._transport.is_closing():
            return 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Parse answers."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Hand the answer over, and get ready for the next."""
        self._settle(self._parser.get_status_code())
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Say that no answer will come."""
        del error
        self._settle(0)

    def close(self) -> None:
        """End it."""
        self._transport.close()

    def _settle(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


async def connect(port: int, connections: int) -> list[Connection]:
    """Open `connections` to the server at `port`."""
    loop = asyncio.get_running_loop()
    pairs = [await loop.create_connection(Connection, "127.0.0.1", port) for _ in range(connections)]
    return [connection for _, connection in pairs]


class Tally:
    """What came of the requests so far."""

    def __init__(self) -> None:
        self._open: dict[int, float] = {}
        self._samples: list[Sample] = []
        self._failed = 0
        self._numbers = count()

    def begin(self, due_s: float) -> int:
        """Count a request from `due_s` on, and return its number here."""
        number = next(self._numbers)
        self._open[number] = due_s
        return number

    def end(self, number: int, status: int) -> None:
        """Count its answer."""
        due_s = self._open.pop(number)
        if status == 200:
            self._samples.append(Sample(due_s, time.perf_counter() - due_s))
        else:
            self._failed += 1

    def samples(self) -> list[Sample]:
        """Return the samples, those of open requests with their age; a failure is a `BenchError`."""
        now_s = time.perf_counter()
        every = self._samples + [Sample(due_s, now_s - due_s) for due_s in self._open.values()]
        if self._failed or not every:
            raise BenchError(f"{self._failed} of {len(every) + self._failed} requests failed")
        return every


async def crowd(port: int, request: bytes, connections: int, seconds: float) -> list[Sample]:
    """Ask over `connections` for `seconds`, each again as soon as it was answered.

    The first request of each is left out: they all arrive at once, in a queue that is still empty.
    """
    tally, opened = Tally(), await connect(port, connections)
    end_s = time.perf_counter() + seconds

    async def one(connection: Connection) -> None:
        status = await connection.ask(request)
        while status == 200 and time.perf_counter() < end_s:
            number = tally.begin(time.perf_counter())
            status = await connection.ask(request)
            tally.end(number, status)

    await _finish([asyncio.create_task(one(connection)) for connection in opened], seconds + DRAIN_S_MAX)
    for connection in opened:
        connection.close()
    return tally.samples()


async def steady(port: int, requests: Sequence[bytes], per_s: float, stop: asyncio.Event) -> list[Sample]:
    """Ask `per_s` times a second, however slowly answers come, until `stop`.

    A request for which no connection is free waits, and its time runs; `OPEN_MAX` unanswered
    requests end the measurement with a `BenchError`.
    """
    tally, opened = Tally(), await connect(port, CONNECTIONS)
    idle = asyncio.Queue[Connection]()
    for connection in opened:
        idle.put_nowait(connection)

    async def one(number: int, request: bytes) -> None:
        connection = await idle.get()
        tally.end(number, await connection.ask(request))
        idle.put_nowait(connection)

    tasks = set[asyncio.Task[None]]()
    async for due_s, beat in _beats(per_s, stop):
        if len(tasks) >= OPEN_MAX:
            raise BenchError(f"{OPEN_MAX} requests are unanswered: {per_s:.0f}/s is too much here")
        task = asyncio.create_task(one(tally.begin(due_s), requests[beat % len(requests)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await _finish(list(tasks), DRAIN_S_MAX)
    for connection in opened:
        connection.close()
    return tally.samples()


async def _finish(tasks: Sequence[asyncio.Task[None]], seconds_max: float) -> None:
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=seconds_max)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _beats(per_s: float, stop: asyncio.Event) -> AsyncIterator[tuple[float, int]]:
    start_s = time.perf_counter()
    for number in count():
        due_s = start_s + number / per_s
        # A sleep of 0 lets answers in when several requests are due at once.
        await asyncio.sleep(max(due_s - time.perf_counter(), 0.0))
        if stop.is_set():
            return
        yield due_s, number


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise BenchError("no requests to take a percentile of")
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]
