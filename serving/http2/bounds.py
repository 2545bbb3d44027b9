"""How much does one peer get of everything that HTTP/2 lets it ask for?"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_BYTES_MAX = (1 << 31) - 1
"""The largest flow-control window there can be: RFC 9113, 6.9.1."""
WINDOW_BYTES_DEFAULT = 65_535
FRAME_BYTES_MIN = 16_384
"""What every peer takes in one frame. No frame but DATA may be longer here."""
FRAME_BYTES_MAX = (1 << 24) - 1
TABLE_BYTES = 4096
"""The HPACK table, which is also what both sides begin with: never more is offered, so never more is used."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a connection bears. What is memory is held at once; what is a count starts anew at each look."""

    streams_max: int = 128
    """Requests of a connection that are under way. Further ones are refused, and may be tried again."""
    frame_bytes_max: int = 1 << 20
    """A DATA frame; it is passed on as it arrives."""
    window_bytes: int = 1 << 20
    """What a stream may send before its server asks for more."""
    connection_window_bytes: int = 16 << 20
    """What all may send together. Bytes are taken as they arrive, so this bounds no memory, only a flood."""
    block_bytes_max: int = 16 << 10
    """A header block as it is on the wire, all its frames together."""
    block_frames_max: int = 16
    """The frames of a header block: HEADERS and its CONTINUATIONs."""
    fields_bytes_max: int = 16 << 10
    """A header list unpacked, by RFC 9113's count: names, values, and 32 bytes for each field."""
    fields_max: int = 100
    settings_max: int = 32
    """Entries of one SETTINGS frame."""
    idle_frames_max: int = 1000
    """Frames that bring nothing, between two looks and beyond what is earned: `serving/http2/patience.py`."""
    resets_max: int = 500
    """Requests that were begun and broken off, likewise."""
    unsent_bytes_max: int = 64 << 20
    """Answers that wait until the peer takes them."""
    dropped_max: int = 1024
    """Streams that we broke off and of which late frames are forgiven."""

    def __post_init__(self) -> None:
        if not FRAME_BYTES_MIN <= self.frame_bytes_max <= FRAME_BYTES_MAX:
            raise ValueError(f"frame_bytes_max is {self.frame_bytes_max}; HTTP/2 has 16384 to 16777215")
        for name in ("window_bytes", "connection_window_bytes"):
            # A peer may use the default window before it has read our settings.
            if not WINDOW_BYTES_DEFAULT <= getattr(self, name) <= WINDOW_BYTES_MAX:
                raise ValueError(f"{name} is {getattr(self, name)}; 65535 to 2147483647 will do")
        if self.block_bytes_max > FRAME_BYTES_MIN:
            raise ValueError(f"block_bytes_max is {self.block_bytes_max}; more than 16384 is not received")
        if min(self.streams_max, self.block_frames_max, self.fields_max) < 1:
            raise ValueError("streams_max, block_frames_max and fields_max are at least 1")
