"""Which head is it that a header block packs?

Clients repeat themselves: a block of references into the table that both sides keep means the same as
long as that table stays as it is. So a block is unpacked once, and known by its bytes until the table
changes.
"""

from __future__ import annotations

from serving.http2.bounds import Bounds
from serving.http2.errors import Code, ConnectionFault
from serving.http2.heads import Field, Head, weight_bytes
from serving.http2.unpacking import Unpacker
from serving.memo import Memo

KNOWN_MAX = 32
"""Blocks that are known on a connection, each of up to `KNOWN_BYTES_MAX`."""
KNOWN_BYTES_MAX = 256


def shared_heads() -> Memo[tuple[Field, ...], Head]:
    """Return room for the heads of a listener, which its connections share."""
    return Memo(entries_max=4096, entry_bytes_max=8192)


class Blocks:
    """The header blocks that one peer sends.

    Attributes
    ----------
    known : dict of bytes to Head
        What blocks mean as long as the table is what it is. To be looked into before `head` is called.
    """

    __slots__ = ("_block_bytes_max", "_heads", "_unpacker", "known")

    def __init__(self, bounds: Bounds, heads: Memo[tuple[Field, ...], Head]) -> None:
        self._block_bytes_max = bounds.block_bytes_max
        self._heads = heads
        self._unpacker = Unpacker(bounds)
        self.known: dict[bytes, Head] = {}

    def head(self, block: bytes) -> Head:
        """Return the head that a request's block packs.

        Raises
        ------
        ConnectionFault
            If it is no block, or packs too much; the table is of no use any more.
        StreamFault
            If it is the head of no request.
        """
        fields = self.fields(block)
        # What has a literal is likely to be said once: no other connection will ask for it.
        head = Head(fields) if self._unpacker.literal else self._shared(fields)
        if not self._unpacker.changed and len(block) <= KNOWN_BYTES_MAX:
            if len(self.known) >= KNOWN_MAX:
                self.known.clear()
            self.known[block] = head
        return head

    def _shared(self, fields: tuple[Field, ...]) -> Head:
        head = self._heads.get(fields) or self._heads.recall(fields)
        if head is None:
            head = Head(fields)
            self._heads.keep(fields, head, 2 * weight_bytes(fields))
        return head

    def fields(self, block: bytes) -> tuple[Field, ...]:
        """Return the fields that a block packs; the table follows it, whatever becomes of them.

        Raises
        ------
        ConnectionFault
            If it is no block, or packs too much.
        """
        most = self._block_bytes_max
        if len(block) > most:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, f"a header block of more than {most} bytes")
        fields = self._unpacker.unpack(block)
        if self._unpacker.changed:
            self.known.clear()
        return fields
