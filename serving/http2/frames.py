"""What does a frame look like on the wire?  (RFC 9113, sections 4 and 6)"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from serving.http2.errors import Code, ConnectionFault

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0x0, 0x1, 0x2, 0x3, 0x4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0x5, 0x6, 0x7, 0x8, 0x9
"""Kinds of frames."""

END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20
"""Flags. END_STREAM and ACK are the same bit of different kinds."""

HEADER = struct.Struct(">BHBBI")
"""A frame's first bytes: its length in two parts, its kind, its flags, and its stream."""
HEADER_BYTES = 9
STREAM_ID = struct.Struct(">I")
STREAM_ID_MAX = 0x7FFFFFFF
PRIORITY_BYTES = 5
DEBUG_BYTES_MAX = 256
"""What a GOAWAY says in words."""

Block = tuple[bytes, bytes]
"""A header block, ready to be sent on any stream: what comes before the stream's id, and what after."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    length = len(payload)
    return HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def block(fields: bytes, *, ended: bool) -> Block:
    """Return the HEADERS frame of a packed header block, which must fit one frame."""
    length = len(fields)
    flags = END_HEADERS | (END_STREAM if ended else 0)
    return HEADER.pack(length >> 16, length & 0xFFFF, HEADERS, flags, 0)[:5], fields


def settings(values: Mapping[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def ping(payload: bytes, *, ack: bool) -> bytes:
    """Return a PING, or the answer to one."""
    return frame(PING, ACK if ack else 0, 0, payload)


def reset(stream: int, code: Code) -> bytes:
    """Return a RST_STREAM."""
    return frame(RST_STREAM, 0, stream, STREAM_ID.pack(code))


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE; stream 0 is the whole connection."""
    return frame(WINDOW_UPDATE, 0, stream, STREAM_ID.pack(increment))


def goaway(last: int, code: Code, why: str = "") -> bytes:
    """Return a GOAWAY: streams up to `last` are or were served, later ones are not."""
    debug = why.encode("ascii", "replace")[:DEBUG_BYTES_MAX]
    return frame(GOAWAY, 0, 0, STREAM_ID.pack(last) + STREAM_ID.pack(code) + debug)


def unpadded(data: bytes, begin: int, stop: int) -> tuple[int, int]:
    """Return where the payload of a padded frame begins and stops without its padding.

    Raises
    ------
    ConnectionFault
        If the padding is as long as the payload, or longer.
    """
    if begin == stop:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a padded frame without its padding's length")
    padding = data[begin]
    if padding > stop - begin - 1:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame whose padding is longer than itself")
    return begin + 1, stop - padding
