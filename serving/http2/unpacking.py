"""Which fields does a header block pack?  (RFC 7541, HPACK)

The tables are those of the `hpack` library, whose decoder says the same in three times the time; it is the
twin that the tests compare this with.
"""

from __future__ import annotations

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE
from hpack.table import HeaderTable

from serving.http2.bounds import TABLE_BYTES, Bounds
from serving.http2.errors import Code, ConnectionFault
from serving.http2.heads import FIELD_BYTES, Field

TABLE_UPDATES_MAX = 2
"""Changes of the table's size at the beginning of a block: RFC 7541, 4.2 has no use for more."""
NUMBER_BYTES_MAX = 4
"""What a number has beyond its prefix; nothing here is longer than 2**28."""

STATIC: tuple[Field, ...] = ((b"", b""), *HeaderTable.STATIC_TABLE)
"""The fields that everybody knows, by their index; 0 is none."""
_DYNAMIC = len(STATIC)
"""The index of the newest field of the table."""

_Step = tuple[int, bytes, bool]
_STEPS: dict[int, _Step] = {}
"""What a byte does in a state of the Huffman decoder, as far as it was met.

The next state, what comes out, and whether a string may end there.
"""
STEPS_MAX = 16_384
"""Of 65,536; text in ASCII needs a few thousand. Together some 3 MiB."""


class Unpacker:
    """The decoder of one connection's header blocks, and the table that they build.

    Attributes
    ----------
    changed, literal : bool
        Of the last block: it changed the table, so that an index means another field from here on; and it
        had a field that was not in a table.
    """

    __slots__ = ("_entries", "_fields_bytes_max", "_fields_max", "_size", "_size_max", "changed", "literal")

    def __init__(self, bounds: Bounds) -> None:
        self._fields_max, self._fields_bytes_max = bounds.fields_max, bounds.fields_bytes_max
        self._entries: list[Field] = []
        """The oldest first."""
        self._size, self._size_max = 0, TABLE_BYTES
        self.changed = self.literal = False

    def unpack(self, block: bytes) -> tuple[Field, ...]:
        """Return the fields of a block, in their order.

        Raises
        ------
        ConnectionFault
            If it is no block, or packs too much. The table is of no use any more.
        """
        self.changed = self.literal = False
        fields: list[Field] = []
        room = self._fields_bytes_max
        at, end = self._resize(block), len(block)
        while at < end:
            first = block[at]
            if first > 0x80 and first != 0xFF:  # An index that fits its byte: most fields of most blocks.
                field = self._field(first & 0x7F)
                at += 1
            elif first & 0x80:
                index, at = _number(block, at, 0x7F)
                field = self._field(index)
            else:
                field, at = self._literal(block, at, first)
            fields.append(field)
            room -= len(field[0]) + len(field[1]) + FIELD_BYTES
            if room < 0:
                most = self._fields_bytes_max
                raise _too_much(f"a header list of more than {most} bytes, unpacked")
        if len(fields) > self._fields_max:
            raise _too_much(f"a header list of more than {self._fields_max} fields")
        return tuple(fields)

    def _resize(self, block: bytes) -> int:
        """Follow the changes of the table's size at the beginning of a block; return where they end."""
        at = updates = 0
        while at < len(block) and block[at] & 0xE0 == 0x20:
            updates += 1
            size, at = _number(block, at, 0x1F)
            if updates > TABLE_UPDATES_MAX or size > TABLE_BYTES:
                raise _unreadable()
            self._size_max = size
            self._evict()
            self.changed = True
        return at

    def _field(self, index: int) -> Field:
        if 0 < index < _DYNAMIC:
            return STATIC[index]
        entries = self._entries
        if not 0 <= index - _DYNAMIC < len(entries):
            raise _unreadable()
        return entries[_DYNAMIC - 1 - index]

    def _literal(self, block: bytes, at: int, first: int) -> tuple[Field, int]:
        """Return a field that is spelt out, at least its value, and where it ends."""
        self.literal = True
        if first & 0x40:
            mask = 0x3F
        elif first & 0x20:  # A change of the table's size, behind a field.
            raise _unreadable()
        else:
            mask = 0x0F
        index, at = _number(block, at, mask)
        if index:
            name = self._field(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        field = (name, value)
        if first & 0x40:
            self._entries.append(field)
            self._size += len(name) + len(value) + FIELD_BYTES
            self._evict()
            self.changed = True
        return field, at

    def _evict(self) -> None:
        """Let the oldest entries go, as far as there are too many; a new one too large takes all along."""
        entries, excess = self._entries, self._size - self._size_max
        gone = 0
        while excess > 0:
            name, value = entries[gone]
            length = len(name) + len(value) + FIELD_BYTES
            excess -= length
            self._size -= length
            gone += 1
        if gone:
            del entries[:gone]


def _number(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return the number that begins in the byte at `at`, and where it ends."""
    number = block[at] & mask
    at += 1
    if number < mask:
        return number, at
    for shift in range(0, 7 * NUMBER_BYTES_MAX, 7):
        if at >= len(block):
            break
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _unreadable()


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """Return the string that begins at `at`, and where it ends."""
    if at >= len(block):
        raise _unreadable()
    coded = block[at] & 0x80
    length, at = _number(block, at, 0x7F)
    stop = at + length
    if stop > len(block):
        raise _unreadable()
    text = block[at:stop]
    return (_decoded(text) if coded else text), stop


def _decoded(text: bytes) -> bytes:
    """Undo the Huffman code, a byte at a time."""
    state, complete = 0, True
    parts = []
    for byte in text:
        state, part, complete = _STEPS.get(state << 8 | byte) or _step(state, byte)
        parts.append(part)
    if not complete:
        raise _unreadable()
    return b"".join(parts)


def _step(state: int, byte: int) -> _Step:
    """Work out what a byte does, by the library's table of what half a byte does."""
    part = b""
    key = state << 8 | byte
    flags = 0
    for half in (byte >> 4, byte & 0x0F):
        state, flags, symbol = HUFFMAN_TABLE[state * 16 + half]
        if flags & HUFFMAN_FAIL:
            raise _unreadable()
        if flags & HUFFMAN_EMIT_SYMBOL:
            part += bytes((symbol,))
    if len(_STEPS) >= STEPS_MAX:
        _STEPS.clear()
    step = _STEPS[key] = (state, part, bool(flags & HUFFMAN_COMPLETE))
    return step


def _unreadable() -> ConnectionFault:
    return ConnectionFault(Code.COMPRESSION_ERROR, "a header block that cannot be unpacked")


def _too_much(what: str) -> ConnectionFault:
    return ConnectionFault(Code.ENHANCE_YOUR_CALM, what)
