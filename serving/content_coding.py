"""What is a compressed body without its compression, and the other way round?"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

from serving.config import Limits
from serving.errors import Invalid, TooLarge

Buffer = bytes | bytearray | memoryview

_GZIP, _ZLIB, _RAW = 31, 15, -15
"""zlib's `wbits`: the three wrappings that deflate comes in."""
_LEVEL = 1
_WORTH_BYTES_MIN = 1400
"""What fits one packet gains nothing from being smaller. At this size JSON costs 10 us, at 16 KiB 116."""
_STEP_BYTES = 4096
"""Input is taken in steps, since zlib copies what it leaves; a step yields 4 MiB at most."""
_MEMBERS_MAX = 1024
"""Members of one gzip body. Each costs microseconds, however few bytes it has."""


def worth(body: Buffer) -> bool:
    """Say whether compressing `body` can make it arrive sooner."""
    return memoryview(body).nbytes >= _WORTH_BYTES_MIN


def compress(body: Buffer, coding: str) -> bytes:
    """Compress `body` as ``gzip`` or ``deflate``, fast rather than small; the same input, the same output."""
    assert coding in ("gzip", "deflate"), coding
    return zlib.compress(body, _LEVEL, wbits=_GZIP if coding == "gzip" else _ZLIB)


def decompress(body: Buffer, coding: str, limits: Limits) -> bytes:
    """Undo ``gzip`` or ``deflate``, never holding more than `limits.body_bytes_max` and a few MiB.

    Raises
    ------
    TooLarge
        As soon as the output passes the limit.
    Invalid
        If the body is damaged, ends early, or goes on after its end.
    """
    assert coding in ("gzip", "deflate"), coding
    view = memoryview(body).cast("B")
    output = io.BytesIO()
    try:
        for piece in _inflated(view, coding, limits.body_bytes_max):
            output.write(piece)
    except zlib.error:
        raise Invalid(f"the body is not valid {coding}, although Content-Encoding says so") from None
    return output.getvalue()


def _inflated(view: memoryview, coding: str, bytes_max: int) -> Iterator[bytes]:
    """Yield the output piece by piece, bounded, and be sure that the input ends where it should."""
    wbits = _GZIP if coding == "gzip" else _deflate_wbits(view)
    stream = zlib.decompressobj(wbits)
    members, room = 1, bytes_max
    for start in range(0, len(view), _STEP_BYTES):
        rest: Buffer = view[start : start + _STEP_BYTES]
        while len(rest):
            if stream.eof:
                members += 1
                _check_member(coding, members)
                stream = zlib.decompressobj(wbits)
            piece = stream.decompress(rest, room + 1)
            room -= len(piece)
            if room < 0:
                raise TooLarge(f"the body is longer than {bytes_max} bytes inflated (limits.body_bytes_max)")
            yield piece
            rest = stream.unused_data
    if not stream.eof:
        raise Invalid(f"the {coding} body ends before its compressed data does")


def _check_member(coding: str, members: int) -> None:
    """Refuse what follows the end of the compressed data, unless it may be a further gzip member."""
    if coding != "gzip":
        raise Invalid("the deflate body goes on after its compressed data ends")
    if members > _MEMBERS_MAX:
        raise TooLarge(f"the gzip body has more than {_MEMBERS_MAX} members; compress it as one")


def _deflate_wbits(view: memoryview) -> int:
    """Tell zlib's wrapping, which the standard means, from the bare deflate that some clients send.

    No usual encoder begins bare deflate with a byte that ends in 1000: it would be a stored block
    with its padding set.
    """
    wrapped = len(view) >= 2 and view[0] & 0x0F == 8 and (view[0] << 8 | view[1]) % 31 == 0
    return _ZLIB if wrapped else _RAW
