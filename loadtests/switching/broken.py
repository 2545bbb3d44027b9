"""Would the checker notice? A gateway of two replicas that speaks just enough V2, and can be wrong.

It is an imitation: one event loop in a thread, with the version that each replica answers by in a list.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import threading
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from loadtests.switching.asking import MODEL

REPLICAS = 2
LATE_S = 0.02
OFTEN = 0.02
"""The share of requests that a gateway gets wrong which does so at random."""
OTHER = {1: 2, 2: 1}


class Defect(StrEnum):
    """What is wrong with it."""

    NONE = "none"
    EARLY = "acknowledges early"
    LAGS = "does not wait for one of its replicas"
    DROPS = "drops requests"
    FAILS = "fails requests"
    MISLABELS = "names the other version"
    MISROUTES = "says in the header that it was routed to the other version"
    SPREADS = "switches one replica after the other"
    """Which is right unless the switch is to be atomic: it is acknowledged when all have."""


class Broken:
    """The imitation, at `port` until the `with` ends."""

    def __init__(self, defect: Defect = Defect.NONE, seed: int = 0) -> None:
        self._defect = defect
        self._random = random.Random(seed)
        self._versions = [1] * REPLICAS
        self._revision = 0
        self._tasks = set[asyncio.Task[None]]()
        self._writers = set[asyncio.StreamWriter]()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="broken", daemon=True)

    @property
    def url(self) -> str:
        """Return where the admin interface is: at the same port."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._talk, sock=self._socket)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _end(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.close()  # Whoever reads there is told of the end, and ends.
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replica = self._random.randrange(REPLICAS)
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").splitlines()
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                answer = await self._answer(first.split()[1], headers, body, replica)
                if not answer:
                    break
                writer.write(answer)
                if headers.get("connection") == "close":
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _answer(self, path: str, headers: dict[str, str], body: bytes, replica: int) -> bytes:
        if path.endswith("/infer"):
            return self._infer(replica, binary="inference-header-content-length" in headers)
        if path.endswith("/rollback"):
            asked = json.loads(body)
            await self._switch(int(asked["to"]))
            self._revision += 1
            receipt = {"revision": self._revision, "confirmed": True, "killed": [], "ms": 1.0}
            return _http(200, json.dumps(receipt).encode())
        return _http(200, json.dumps({"replicas": []}).encode())

    async def _switch(self, version: int) -> None:
        match self._defect:
            case Defect.EARLY:
                self._later(version, range(REPLICAS))
            case Defect.LAGS:
                self._versions[0] = version
                self._later(version, range(1, REPLICAS))
            case Defect.SPREADS:
                self._versions[0] = version
                await asyncio.sleep(LATE_S)
                self._versions = [version] * REPLICAS
            case _:
                self._versions = [version] * REPLICAS

    def _later(self, version: int, replicas: range) -> None:
        async def apply() -> None:
            await asyncio.sleep(LATE_S)
            for replica in replicas:
                self._versions[replica] = version

        task = self._loop.create_task(apply())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _infer(self, replica: int, *, binary: bool) -> bytes:
        version = self._versions[replica]
        wrong = OTHER[version] if self._random.random() < OFTEN else version
        claimed = wrong if self._defect is Defect.MISLABELS else version
        routed = wrong if self._defect is Defect.MISROUTES else version
        if wrong != version and self._defect is Defect.DROPS:
            return b""
        if wrong != version and self._defect is Defect.FAILS:
            return _http(500, b'{"error": "no"}')
        output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": [1, 1]}
        document = {"model_name": MODEL, "model_version": str(claimed), "outputs": [output]}
        route = f"turnout-route: {routed};{self._revision};static"
        if not binary:
            output["data"] = [float(version)]
            return _http(200, json.dumps(document).encode(), route)
        output["parameters"] = {"binary_data_size": 4}
        head = json.dumps(document).encode()
        length = f"Inference-Header-Content-Length: {len(head)}"
        return _http(200, head + struct.pack("<f", version), route, length)


def _http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
