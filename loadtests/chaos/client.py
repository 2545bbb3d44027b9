"""How is a gateway asked in an open loop, however it fares, and what comes of each request?

    python -m loadtests.chaos.client PORT FILE [--rate 500]

Requests are due at random moments (a Poisson process), whatever became of those before, each with an id and
a value of its own. Most take a connection that is kept, every tenth a new one. It says ``asking`` once it
was answered, asks until its input ends, and then writes what happened to FILE (loadtests/chaos/history.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import uvloop

from loadtests.chaos.history import Asked, Fate, save
from loadtests.chaos.models import REGISTER
from loadtests.switching.asking import Answer, Connection

RATE = 500.0
ANSWER_S_MAX = 10.0
"""What is not answered by then is late."""
WAITING_MAX = 8000
"""Requests that may wait for an answer at once."""
FRESH_EVERY = 10
KEPT = 32
"""Connections that are kept, and used in turn."""
VALUES = 100_000
"""So many values, each of which float32 has exactly."""
VERSION_MAX = 255

Line = tuple[int, Connection]
"""The client's port, and the connection."""


def request(number: int) -> bytes:
    """Return the request of a number, the bytes of all of it."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number % VALUES]}
    body = json.dumps({"id": f"chaos-{number}", "inputs": [tensor]}).encode()
    head = f"POST /v2/models/{REGISTER}/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def read(number: int, answer: Answer) -> tuple[Fate, int, int, int]:
    """Return what an answer says: its fate, and the version as claimed, as routed and as it is."""
    if answer.status != 200:
        return Fate.ERROR, 0, 0, 0
    try:
        document = json.loads(answer.body)
        outputs = {each["name"]: each["data"] for each in document["outputs"]}
        versions = document["model_version"], answer.route.partition(";")[0], *outputs["y"]
        claimed, routed, true = (int(each) for each in versions)
        if not all(0 < each <= VERSION_MAX for each in (claimed, routed, true)):
            return Fate.ERROR, 0, 0, 0
        own = document["id"] == f"chaos-{number}" and outputs["same"] == [number % VALUES]
    except (ValueError, LookupError, TypeError):
        return Fate.ERROR, 0, 0, 0
    return Fate.ANSWERED if own else Fate.MIXED, claimed, routed, true


class Caller:
    """The client of a gateway."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[Line] = deque()
        self._waiting = 0
        self.history: list[Asked] = []
        self.answered = asyncio.Event()

    async def ask(self, number: int, due_ns: int) -> None:
        """Ask once, and write down what came of it."""
        start_ns = time.monotonic_ns()
        if self._waiting >= WAITING_MAX:
            self.history.append(Asked(due_ns, start_ns, start_ns, Fate.UNSENT))
            return
        self._waiting += 1
        port, status, said = 0, 0, (Fate.LATE, 0, 0, 0)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                port, line = self._kept(number) or await self._connect()
                answer = await line.ask(request(number))
            if answer is None:
                said = Fate.LOST, 0, 0, 0
            else:
                status, said = answer.status, read(number, answer)
                self._keep(number, answer, port, line)
        except TimeoutError:
            if port:
                line.close()
        except OSError:
            said = (Fate.LOST if port else Fate.REFUSED), 0, 0, 0
        self._waiting -= 1
        fate, *versions = said
        self.history.append(Asked(due_ns, start_ns, time.monotonic_ns(), fate, status, *versions, port))
        if fate is Fate.ANSWERED:
            self.answered.set()

    async def _connect(self) -> Line:
        loop = asyncio.get_running_loop()
        transport, line = await loop.create_connection(Connection, "127.0.0.1", self._port)
        return transport.get_extra_info("sockname")[1], line

    def _kept(self, number: int) -> Line | None:
        """Return the connection that has waited longest, or None for a new one."""
        while len(self._idle) >= KEPT and number % FRESH_EVERY:
            port, line = self._idle.popleft()
            if not line.closing:
                return port, line
        return None

    def _keep(self, number: int, answer: Answer, port: int, line: Connection) -> None:
        # Old ones go as new ones come: after a fault the connections spread over all replicas again.
        if answer.keep_alive and number % FRESH_EVERY:
            self._idle.append((port, line))
        else:
            line.close()
        if number % FRESH_EVERY == 1 and self._idle:
            self._idle.popleft()[1].close()


async def _ask(port: int, rate: float, seed: int) -> list[Asked]:
    caller, moments, loop = Caller(port), random.Random(seed), asyncio.get_running_loop()
    over = loop.run_in_executor(None, sys.stdin.read)
    tasks: set[asyncio.Task[None]] = set()
    due_ns, number, told = time.monotonic_ns(), 0, False
    while not over.done():
        now_ns = time.monotonic_ns()
        while due_ns <= now_ns:
            task = loop.create_task(caller.ask(number, due_ns))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due_ns += round(moments.expovariate(rate) * 1e9)
            number += 1
        if not told and caller.answered.is_set():
            told = True
            print("asking", flush=True)
        await asyncio.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
    if tasks:
        await asyncio.wait(tasks, timeout=ANSWER_S_MAX + 1)
    return caller.history


def main(given: Sequence[str] | None = None) -> int:
    """Ask, and save what happened."""
    parser = argparse.ArgumentParser(prog="loadtests.chaos.client")
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(given)
    save(options.file, uvloop.run(_ask(options.port, options.rate, options.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
