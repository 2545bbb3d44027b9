"""Where are a ModelInferRequest's fields, and above all its tensors' bytes? Found without parsing the rest.

Protobuf lets fields come in any order: a message is the merge of its pieces. So the raw contents are cut
out, wherever they are, and what is left is a message of its own that says the same without them.
"""

from __future__ import annotations

from typing import NamedTuple

from serving.errors import Invalid, TooLarge

FIELDS_MAX = 4096
"""Fields of a message beside its raw contents: a few thousand cost a millisecond to walk."""
ADDRESS, ID, RAW = (0x0A, 0x12), 0x1A, 0x3A
"""The tags of `model_name` and `model_version`, `id`, and `raw_input_contents`."""
KIND, DELIMITED = 7, 2
"""The bits of a tag that say how long a field is, and the kind of all fields that V2 knows."""
CONTINUED = 0x80
"""From here on, a byte of a number has a successor."""


class Walked(NamedTuple):
    """A message without its raw contents, and those.

    `id_at` and `id_end` are where the id's field is, or would be: before all fields but model and version.
    `usual` says that the id is nowhere else, and that nothing but raw contents comes after the first of
    them, whose bytes begin at `first_at`.
    """

    rest: bytes
    raws: list[memoryview]
    id_at: int
    id_end: int
    first_at: int
    usual: bool


def walk(message: memoryview, raws_max: int) -> Walked:
    """Cut the raw contents out of `message`, as views on it.

    Raises
    ------
    Invalid
        If it is no message at all: its bytes end within a field, or make none.
    TooLarge
        If it has more fields than a request needs.
    """
    size, at, since, fields = len(message), 0, 0, 0
    pieces: list[memoryview] = []
    raws: list[memoryview] = []
    id_at, id_end, first_at, usual = -1, -1, 0, True
    while at < size:
        start = at
        tag, at = varint(message, at)
        if tag & KIND == DELIMITED:
            length, at = varint(message, at)
            stop = at + length
        else:
            stop = _skip(message, at, tag & KIND)
        if stop > size:
            raise unreadable()
        if tag == RAW:
            if len(raws) >= raws_max:
                raise TooLarge(f"more than {raws_max} raw_input_contents (limits.tensors_max)")
            pieces.append(message[since:start])
            raws.append(message[at:stop])
            first_at, since = first_at or at, stop
        else:
            fields += 1
            if fields > FIELDS_MAX:
                raise TooLarge(f"more than {FIELDS_MAX} fields; no request needs as many")
            usual = usual and not raws and not (tag == ID and id_at >= 0)
            if id_at < 0 and tag not in ADDRESS:
                id_at, id_end = start, stop if tag == ID else start
        at = stop
    pieces.append(message[since:])
    return Walked(b"".join(pieces), raws, id_at, id_end, first_at, usual and bool(raws) and id_at >= 0)


def _skip(message: memoryview, at: int, kind: int) -> int:
    """Return the end of a field that this server does not know; another's may have it."""
    match kind:
        case 0:
            return varint(message, at)[1]
        case 1:
            return at + 8
        case 5:
            return at + 4
    raise unreadable()


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read the number at `at`, of at most ten bytes; return it, and where it ends."""
    value = shift = 0
    for each in message[at : at + 10]:
        at += 1
        value |= (each & 0x7F) << shift
        if each < CONTINUED:
            return value, at
        shift += 7
    raise unreadable()


def varint_bytes(value: int) -> bytes:
    """Write a number."""
    written = bytearray()
    while value >= CONTINUED:
        written.append(value & 0x7F | CONTINUED)
        value >>= 7
    written.append(value)
    return bytes(written)


def unreadable(name: str = "ModelInferRequest") -> Invalid:
    """Return the error for bytes that are no message."""
    return Invalid(f"the message is no {name}: its protobuf does not parse")
