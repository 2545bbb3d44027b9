"""When is a header block complete?  (RFC 9113, sections 4.3, 6.2 and 6.10)"""

from __future__ import annotations

from serving.http2.bounds import Bounds
from serving.http2.errors import Code, ConnectionFault
from serving.http2.frames import CONTINUATION, END_HEADERS, PADDED, PRIORITISED, PRIORITY_BYTES, unpadded


class Fragments:
    """The header block that is arriving, if one is.

    Attributes
    ----------
    begun : bool
        There is one, and nothing but more of it may come.
    id, flags : int
        Its stream, and the flags of its HEADERS.
    """

    __slots__ = ("_bounds", "_count", "_parts", "begun", "flags", "id")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._parts = bytearray()
        self._count = 0
        self.begun = False
        self.id = self.flags = 0

    def begin(self, flags: int, id_: int, data: bytes, begin: int, stop: int) -> bytes | None:
        """Take a HEADERS frame; return its block if that is all.

        Raises
        ------
        ConnectionFault
            If it is none, or too long.
        """
        if flags & PADDED:
            begin, stop = unpadded(data, begin, stop)
        if flags & PRIORITISED:
            begin += PRIORITY_BYTES
            if begin > stop:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS too short for their priority")
        self._check(stop - begin)
        if flags & END_HEADERS:
            return data[begin:stop]
        self.begun, self.id, self.flags = True, id_, flags
        self._parts += data[begin:stop]
        self._count = 1
        return None

    def go_on(self, kind: int, flags: int, id_: int, payload: bytes) -> bytes | None:
        """Take the next frame, which must be a part of the block; return the block if that was all.

        Raises
        ------
        ConnectionFault
            If it is not, or too long, or one of too many.
        """
        self.check(kind, id_)
        self._count += 1
        most = self._bounds.block_frames_max
        if self._count > most:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, f"a header block in more than {most} frames")
        self._check(len(self._parts) + len(payload))
        self._parts += payload
        if not flags & END_HEADERS:
            return None
        block = bytes(self._parts)
        self._parts.clear()
        self.begun = False
        return block

    def check(self, kind: int, id_: int) -> None:
        """Raise `ConnectionFault` if a block has begun of which such a frame is no part."""
        if self.begun and (kind != CONTINUATION or id_ != self.id):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "another frame where a CONTINUATION has to be")

    def _check(self, length: int) -> None:
        most = self._bounds.block_bytes_max
        if length > most:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, f"a header block of more than {most} bytes")
