"""What does a hostile peer say, and to a server of which bounds?"""

from __future__ import annotations

import struct

from serving.http2.bounds import Bounds
from serving.http2.errors import Code
from serving.http2.frames import (
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.serving.http2.talking import (
    head,
)

SMALL = Bounds(
    streams_max=4,
    window_bytes=65_535,
    connection_window_bytes=100_000,
    block_bytes_max=1000,
    block_frames_max=4,
    fields_bytes_max=2000,
    fields_max=20,
    settings_max=8,
    idle_frames_max=50,
    resets_max=10,
    unsent_bytes_max=50_000,
    dropped_max=8,
)
NUMBER = struct.Struct(">I")


def setting(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def update(id_: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, id_, NUMBER.pack(increment))


def reset(id_: int, code: Code = Code.CANCEL) -> bytes:
    return frame(RST_STREAM, 0, id_, NUMBER.pack(code))


def literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


OPEN = head(1, ended=False)
WHOLE = head(1)
