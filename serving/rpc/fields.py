"""How are a gRPC answer's headers and trailers written? Ready to be sent, and the usual ones once.

Nothing is put into the table that HPACK keeps on either side, so a block is the same on every connection.
"""

from __future__ import annotations

import re

from serving.answer import ROUTE_HEADER
from serving.errors import TurnoutError, UnknownEncoding
from serving.http2 import frames
from serving.http2.frames import Block
from serving.rpc import status

MESSAGE_BYTES_MAX = 4096
"""What a status says in words, once it is written for the wire: clients take 8 KiB of trailers by default."""
CHARACTER_BYTES_MAX = 12
"""A character takes up to four bytes of UTF-8, and each of these three."""
CLOSINGS_MAX = 1024
ENCODINGS = "identity, deflate, gzip"

_UNPLAIN = re.compile(rb"[^ -$&-~]")
_STATUS_200 = b"\x88"
_PREFIX_MAX = 0x7F


def pack(name: str, value: str | bytes) -> bytes:
    """Return a field as an HPACK literal that is not to be remembered: RFC 7541, 6.2.2."""
    return b"\0" + _string(name.encode()) + _string(value if isinstance(value, bytes) else value.encode())


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < _PREFIX_MAX:
        return bytes((length,)) + text
    length -= _PREFIX_MAX
    written = bytearray((_PREFIX_MAX,))
    while length >= 0x80:
        written.append(length & 0x7F | 0x80)
        length >>= 7
    written.append(length)
    return bytes(written) + text


_TYPE = pack("content-type", "application/grpc")
OPENING = frames.block(_STATUS_200 + _TYPE, ended=False)
"""The headers of nearly every answer."""
OPENINGS = {
    coding: frames.block(_STATUS_200 + _TYPE + pack("grpc-encoding", coding), ended=False)
    for coding in ("gzip", "deflate")
}
"""Those of answers whose messages are compressed."""
CLOSING = frames.block(pack("grpc-status", "0"), ended=True)
"""The trailers of an answer of which there is nothing to say but that it is complete."""
_closings: dict[bytes, Block] = {b"": CLOSING}


def closing(stamp: bytes) -> Block:
    """Return the trailers of a complete answer with this stamp."""
    known = _closings.get(stamp)
    if known is None:
        if len(_closings) >= CLOSINGS_MAX:
            _closings.clear()
        fields = pack("grpc-status", "0") + pack(ROUTE_HEADER, stamp)
        known = _closings[stamp] = frames.block(fields, ended=True)
    return known


def failing(error: TurnoutError, *, opened: bool) -> Block:
    """Return what ends a call with an error: trailers, or all there is if nothing was sent before."""
    fields = b"" if opened else _STATUS_200 + _TYPE
    fields += pack("grpc-status", str(status.code(error)))
    fields += pack("grpc-message", message(status.text(error)))
    if isinstance(error, UnknownEncoding):
        fields += pack("grpc-accept-encoding", ENCODINGS)
    for name, value in status.trailing(error):
        fields += pack(name, value)
    return frames.block(fields, ended=True)


def refusing(http_status: int) -> Block:
    """Return the answer to what is no gRPC call: HTTP's, without a body."""
    return frames.block(b"\x08" + _string(str(http_status).encode()), ended=True)


def message(text: str) -> bytes:
    """Return `text` percent-encoded, as gRPC wants it, and cut where it is too long."""
    written = _escaped(text)
    if len(written) > MESSAGE_BYTES_MAX:
        written = _escaped(text[: MESSAGE_BYTES_MAX - 3] + "...")
    if len(written) > MESSAGE_BYTES_MAX:
        written = _escaped(text[: MESSAGE_BYTES_MAX // CHARACTER_BYTES_MAX - 3] + "...")
    return written


def _escaped(text: str) -> bytes:
    return _UNPLAIN.sub(lambda found: b"%%%02X" % found[0][0], text.encode())
