"""What can be wrong with a peer, and which code tells it so?  (RFC 9113, section 7)"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """An error code, as RST_STREAM and GOAWAY carry it."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ConnectionFault(Exception):
    """The peer did what leaves the connection unusable, or is not to be borne; the message says what."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamFault(Exception):
    """The peer did what ends one stream; the message says what."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Stuck(Exception):
    """More would wait to be sent than the bounds allow, since the peer takes too little of it."""
