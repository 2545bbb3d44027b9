"""What does a SETTINGS frame say, and what may it say?  (RFC 9113, section 6.5)"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from serving.http2.bounds import FRAME_BYTES_MAX, FRAME_BYTES_MIN, TABLE_BYTES, WINDOW_BYTES_MAX, Bounds
from serving.http2.errors import Code, ConnectionFault

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 0x1, 0x2, 0x3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 0x4, 0x5, 0x6

_ENTRY = struct.Struct(">HI")


def ours(bounds: Bounds) -> dict[int, int]:
    """Return what a server of these bounds says of itself."""
    return {
        HEADER_TABLE_SIZE: TABLE_BYTES,
        MAX_CONCURRENT_STREAMS: bounds.streams_max,
        INITIAL_WINDOW_SIZE: bounds.window_bytes,
        MAX_FRAME_SIZE: bounds.frame_bytes_max,
        MAX_HEADER_LIST_SIZE: bounds.fields_bytes_max,
    }


def read(payload: bytes, entries_max: int) -> dict[int, int]:
    """Return the settings of a client's frame, where one comes twice the last, unknown ones left out.

    Raises
    ------
    ConnectionFault
        If there is no such frame, or no such value.
    """
    if len(payload) % _ENTRY.size:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a SETTINGS frame whose length is no multiple of 6")
    if len(payload) > entries_max * _ENTRY.size:
        raise ConnectionFault(Code.ENHANCE_YOUR_CALM, f"a SETTINGS frame of more than {entries_max} entries")
    return dict(_checked(payload))


def _checked(payload: bytes) -> Iterator[tuple[int, int]]:
    for name, value in _ENTRY.iter_unpack(payload):
        if name == ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH is {value}, not 0 or 1")
        if name == INITIAL_WINDOW_SIZE and value > WINDOW_BYTES_MAX:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}")
        if name == MAX_FRAME_SIZE and not FRAME_BYTES_MIN <= value <= FRAME_BYTES_MAX:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE is {value}")
        if HEADER_TABLE_SIZE <= name <= MAX_HEADER_LIST_SIZE:
            yield name, value
