"""How is HTTP/1.1 abused, client by client?"""

from __future__ import annotations

import asyncio
import itertools

from loadtests.hostile.attack import Client
from loadtests.hostile.good import question
from loadtests.hostile.models import ECHO, WIDE

INFER = f"POST /v2/models/{ECHO}/infer HTTP/1.1\r\nHost: t\r\n".encode()
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\n\r\n"
BYTE_EVERY_S = 1.0
LARGE_BYTES = 60 << 20
"""Of a body that is within the limit, and never ends."""
PIPELINED = 50
BURST_EVERY_S = 0.25


def lengthy(length: int, more: bytes = b"") -> bytes:
    """Return the head of a request with a body of so many bytes."""
    return INFER + more + b"Content-Length: %d\r\n\r\n" % length


async def half_open(client: Client) -> None:
    """Connect, and say nothing."""
    await client.connect()
    client.placed = True
    await client.drain()


async def idle(client: Client) -> None:
    """Connect, have every other connection answer a request, and say nothing more."""
    await client.connect()
    if client.number % 2:
        await client.send(LIVE)
        await client.answer()
    client.placed = True
    await client.drain()


async def drip(client: Client, first: bytes, rest: bytes) -> None:
    """Send something, and then a byte each second."""
    await client.connect()
    await client.send(first)
    client.placed = True
    for at in itertools.count():
        await asyncio.sleep(BYTE_EVERY_S)
        await client.send(rest[at % len(rest) : at % len(rest) + 1])


async def slow_head(client: Client) -> None:
    """Send a head a byte a second."""
    await drip(client, INFER, b"X-Slow: " + b"y" * 1000)


async def slow_body(client: Client) -> None:
    """Send a body a byte a second: every other one small, every other one chunked."""
    chunked = client.number % 2
    first = INFER + b"Transfer-Encoding: chunked\r\n\r\n" if chunked else lengthy(10_000)
    await drip(client, first, b"1\r\n{\r\n" if chunked else b"{")


async def large_body(client: Client) -> None:
    """Send most of a large body, and never its end."""
    await client.connect()
    await client.send(lengthy(LARGE_BYTES))
    piece = bytes(1 << 18)
    for _ in range(LARGE_BYTES // len(piece) - 1):
        await client.send(piece)
    client.placed = True
    await client.drain()


async def unread(client: Client) -> None:
    """Ask for answers of 4 MiB, and read none of them."""
    await client.connect(receive_bytes=4096)
    asked = bytes(question(WIDE)[0]).replace(b'"outputs":[{"name":"y"', b'"outputs":[{"name":"z"')
    await client.send(asked)
    while True:
        await asyncio.sleep(BYTE_EVERY_S)
        client.placed = True
        await client.send(asked)


TENSOR = b'{"name":"x","datatype":"FP32","shape":[1,16],"data":[1]}'
OVERSIZED = (
    INFER + b"X-Large: " + b"y" * 60_000 + b"\r\n\r\n",
    INFER + b"".join(b"X-%d: y\r\n" % number for number in range(500)) + b"\r\n",
    b"GET /" + b"y" * 60_000 + b" HTTP/1.1\r\n\r\n",
    lengthy(1 << 40) + bytes(1 << 16),
    INFER + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 10_000,
    lengthy(10_000) + b"[" * 10_000,
    lengthy(7 + 14_000) + b'{"id":' + b'{"a":[' * 2_333 + b"{}" * 2 + b"}",
    lengthy(13 + 200 * (len(TENSOR) + 1)) + b'{"inputs":[' + (TENSOR + b",") * 200 + b"]}",
    lengthy(15_000) + b'{"inputs":[{"name":"x","datatype":"FP32","shape":[' + b"9," * 7_475,
    lengthy(12_000) + b'{"inputs":[{"name":"x","datatype":"FP32","shape":[9223372036854775807],"data":[1'
    + b",1" * 6_000,
)  # fmt: skip
"""Heads, bodies, JSON and tensors that are too large or too deep, each for what it is."""
MALFORMED = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00" * 400,
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    INFER + b"Content-Length: -5\r\n\r\n{}",
    INFER + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}    ",
    INFER + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + LIVE,
    INFER + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    INFER + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    INFER + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    INFER + b"X-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    INFER + b"Content-Length: 2\nX: y\r\n\r\n{}",
    lengthy(2) + b"{]",
    lengthy(500, b"Inference-Header-Content-Length: 900\r\n") + b"{" * 500,
    lengthy(20) + b'{"inputs":[{"name":1',
)
"""Garbage, lengths that contradict each other, and what smuggles a second request past a proxy."""


async def oversized(client: Client) -> None:
    """Send what is too large, and wait for the refusal."""
    await _refused(client, OVERSIZED)


async def malformed(client: Client) -> None:
    """Send what is no request, a truncated one or two in one, and wait for the refusal."""
    await _refused(client, MALFORMED)


async def _refused(client: Client, what: tuple[bytes, ...]) -> None:
    client.seen["sent"] += 1
    await client.connect()
    client.placed = True
    await client.send(what[(client.seen["sent"]) % len(what)])
    await client.answer(1.0)


async def churn(client: Client) -> None:
    """Connect, ask once, and reset the connection, with the answer or without."""
    await client.connect()
    await client.send(bytes(question(ECHO)[0]))
    client.placed = True
    if client.number % 2:
        await client.answer()
    client.close(reset=True)


async def pipeline(client: Client) -> None:
    """Send many requests at once, and read the answers together."""
    await client.connect()
    asked = bytes(question(ECHO)[0])
    while True:
        await client.send(asked * PIPELINED)
        client.seen["sent"] += PIPELINED
        client.placed = True
        await client.receive()
        await asyncio.sleep(BURST_EVERY_S)
