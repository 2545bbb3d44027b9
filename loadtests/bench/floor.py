"""What would HTTP alone cost? A server that reads each request whole and answers a constant.

    python -m loadtests.bench.floor PORT ANSWER HEADER_LENGTH

ANSWER is the file of the body; HEADER_LENGTH its JSON part, or 0 if it is all JSON. This is the
plain best of asyncio: uvloop and httptools, nothing decoded, nothing run.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import cast

import httptools
import uvloop


class Floor(asyncio.Protocol):
    """Answers `response` to whatever was asked, once it has been read to its last byte."""

    def __init__(self, response: bytes) -> None:
        self._response = response
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are not registered as such.

    def data_received(self, data: bytes) -> None:
        """Parse; nothing is kept of it."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_complete(self) -> None:
        """Answer."""
        self._transport.write(self._response)


def response(body: bytes, header_length: int) -> bytes:
    """Put the head that a V2 answer has before `body`."""
    kind = "application/octet-stream" if header_length else "application/json"
    extra = f"inference-header-content-length: {header_length}\r\n" if header_length else ""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{extra}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def serve(port: int, answer: bytes) -> None:
    """Listen until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Floor(answer), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), response(Path(sys.argv[2]).read_bytes(), int(sys.argv[3]))))
