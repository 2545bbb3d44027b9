"""Would the verdict notice? A proxy in front of a gateway's HTTP that makes it worse than it is.

    python -m loadtests.locusts.broken ADDRESS:PORT DEFECT

listens on a free port of loopback and says which.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
from enum import StrEnum

ROUTE = re.compile(rb"(?im)^(turnout-route: [^;\r]+;)(\d+)(;)")
LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")
SLOW_S = 0.5


class Defect(StrEnum):
    """What is wrong with it."""

    NONE = "none"
    SLOW = "slow"
    """1 % of answers come half a second late."""
    FAILING = "failing"
    """5 % of answers are errors, and come at once."""
    STALE = "stale"
    """A fifth of answers say, for good, the first revision that was seen."""
    SILENT = "silent"
    """1 % of requests are never answered: the connection is closed."""


OFTEN = {Defect.NONE: 0.0, Defect.SLOW: 0.01, Defect.FAILING: 0.05, Defect.STALE: 0.2, Defect.SILENT: 0.01}
ERROR = b'HTTP/1.1 500 Internal Server Error\r\nContent-Length: 15\r\n\r\n{"error": "no"}'


class Proxy:
    """Passes requests on to `upstream`, and answers back, but for what the defect does to some."""

    def __init__(self, upstream: str, defect: Defect, seed: int = 0) -> None:
        self._host, _, port = upstream.rpartition(":")
        self._port = int(port)
        self._defect = defect
        self._random = random.Random(seed)
        self._first = b""
        """The first revision that an answer named."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection by one of its own to the gateway."""
        behind, ahead = await asyncio.open_connection(self._host, self._port)
        try:
            while (request := await message(reader)) and await self._answer(request, behind, ahead, writer):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            ahead.close()
            writer.close()

    async def _answer(
        self,
        request: bytes,
        behind: asyncio.StreamReader,
        ahead: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer a request; False ends the connection."""
        hit = self._random.random() < OFTEN[self._defect]
        if hit and self._defect is Defect.SILENT:
            return False
        if hit and self._defect is Defect.FAILING:
            writer.write(ERROR)
            return True
        ahead.write(request)
        answer = await message(behind)
        if hit and self._defect is Defect.SLOW:
            await asyncio.sleep(SLOW_S)
        if found := ROUTE.search(answer):
            self._first = self._first or found[2]
            if hit and self._defect is Defect.STALE:
                answer = answer[: found.start(2)] + self._first + answer[found.end(2) :]
        writer.write(answer)
        return True


async def message(reader: asyncio.StreamReader) -> bytes:
    """Return one whole message, head and body; nothing at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return b""
    length = LENGTH.search(head)
    return head + (await reader.readexactly(int(length[1])) if length else b"")


async def serve(upstream: str, defect: Defect) -> None:
    """Serve until this process is ended."""
    server = await asyncio.start_server(Proxy(upstream, defect).talk, "127.0.0.1", 0)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    from serving.ending import outlive_nobody

    outlive_nobody()
    asyncio.run(serve(sys.argv[1], Defect(sys.argv[2])))
