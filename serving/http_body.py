"""Which bytes does a chunked body hold, and where does it end?  (RFC 9112, section 7.1)"""

from __future__ import annotations

import re

from serving.config import Limits
from serving.errors import HeadTooLarge, Invalid, TooLarge

_EXTENSION_BYTES_MAX = 256
_EXTENSION = rb";[\t -~\x80-\xff]{0,%d}" % (_EXTENSION_BYTES_MAX - 1)

# A size line with the CRLF that ends the chunk before it: one match per chunk. The stream is read
# as if a CRLF came before it, so that the first chunk is no exception.
_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,16})(?:%s)?\r\n" % _EXTENSION)
_SIZE_BYTES_MAX = 2 + 16 + _EXTENSION_BYTES_MAX + 2
_SIZE_BEGUN = re.compile(rb"\r(?:\n(?:[0-9A-Fa-f]{1,16}(?:%s)?\r?)?)?" % _EXTENSION)
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class Chunks:
    """A chunked body as it arrives. Costs the same for however many pieces it arrives in.

    Attributes
    ----------
    body : bytearray
        The content so far. Who only skips the body may clear it: limits are counted apart.
    done : bool
        The body and its trailers are complete; what follows belongs to the next request.
    """

    __slots__ = ("_begun", "_bytes_max", "_chunks", "_chunks_max", "_left", "_line", "_room", "_trailer_max",
                 "_trailing", "body", "done")  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self.body = bytearray()
        self.done = False
        self._bytes_max = limits.body_bytes_max
        self._chunks_max = limits.chunks_max
        self._trailer_max = limits.head_bytes_max
        self._room = limits.body_bytes_max
        self._chunks = 0
        self._left = 0
        self._begun = b"\r\n"
        self._line = bytearray()
        self._trailing = False

    def __repr__(self) -> str:
        """Say how far it is."""
        state = "done" if self.done else "trailers" if self._trailing else f"{self._left} bytes to go"
        return f"<Chunks: {self._chunks} chunks, {self._bytes_max - self._room} bytes, {state}>"

    def feed(self, data: bytes | bytearray | memoryview, at_once_max: int = 1 << 62) -> int:
        """Take what has arrived and return how many of its bytes belong to this body.

        Those are all of them unless the body is done, or so many chunks were taken `at_once` that the rest is
        to be fed later. After an error the object is of no use.

        Raises
        ------
        Invalid
            If the bytes are not a chunked body to the letter.
        TooLarge
            If a chunk is announced that passes `body_bytes_max` or `chunks_max`.
        HeadTooLarge
            If the trailers pass `head_bytes_max`.
        """
        until = self._chunks + at_once_max
        with memoryview(data) as view:
            at, end = 0, len(view)
            while at < end and not self.done and self._chunks < until:
                if self._trailing:
                    at = self._take_trailer(view, at)
                elif self._begun:
                    at = self._take_rest_of_size(view, at)
                else:
                    at = self._take_chunks(view, at, until)
        return at

    def _take_chunks(self, view: memoryview, at: int, until: int) -> int:
        """Take content and whole size lines until there are no more; keep the beginning of one."""
        end, body, match = len(view), self.body, _SIZE.match
        while True:
            stop = at + self._left
            if stop >= end:
                body += view[at:]
                self._left = stop - end
                return end
            body += view[at:stop]
            self._left = 0
            line = match(view, stop)
            if line is None:
                self._begun = _beginning(bytes(view[stop : stop + _SIZE_BYTES_MAX]))
                return end
            at = line.end()
            self._open(line[1])
            if self._trailing or self._chunks >= until:
                return at

    def _take_rest_of_size(self, view: memoryview, at: int) -> int:
        """Complete a size line that began in earlier bytes."""
        begun = self._begun
        joined = begun + view[at : at + _SIZE_BYTES_MAX - len(begun)]
        line = _SIZE.match(joined)
        if line is None:
            self._begun = _beginning(joined)
            return len(view)
        self._begun = b""
        self._open(line[1])
        return at + line.end() - len(begun)

    def _open(self, digits: bytes) -> None:
        """Admit a chunk by the size it announces, before any of it is received."""
        size = int(digits, 16)
        if size == 0:
            self._trailing = True
            return
        self._chunks += 1
        if self._chunks > self._chunks_max:
            raise TooLarge(f"the body has more than {self._chunks_max} chunks (limits.chunks_max)")
        if size > self._room:
            raise TooLarge(f"the chunked body is longer than {self._bytes_max} bytes (limits.body_bytes_max)")
        self._room -= size
        self._left = size

    def _take_trailer(self, view: memoryview, at: int) -> int:
        """Take one line of the trailers, or a part of it; what trailers say is not used."""
        line = self._line
        room = self._trailer_max - len(line)
        part = bytes(view[at : at + room + 1])
        newline = part.find(b"\n")
        taken = len(part) if newline < 0 else newline + 1
        if taken > room:
            raise HeadTooLarge("the trailers are longer than a head may be (limits.head_bytes_max)")
        line += part[:taken]
        if newline >= 0:
            self._close_trailer(bytes(line))
            self._trailer_max -= len(line)
            line.clear()
        return at + taken

    def _close_trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.done = True
        elif not line.endswith(b"\r\n") or not _TRAILER.fullmatch(line, 0, len(line) - 2):
            raise Invalid("a trailer of the chunked body is malformed; expected NAME: VALUE and CRLF")


def _beginning(line: bytes) -> bytes:
    """Return `line` if a size line may begin so."""
    if _SIZE_BEGUN.fullmatch(line):
        return line
    raise Invalid(
        "a chunk of the body is malformed; expected its size in at most 16 hexadecimal digits, "
        f"perhaps an extension of at most {_EXTENSION_BYTES_MAX} bytes, CRLF, that many bytes, CRLF"
    )
