"""What do the header blocks of a gRPC answer say: its status, which version answered by which revision?

An answer has two, its headers and its trailers, or one if there is no message. A gateway's are few, so
each is unpacked once and then found by its bytes, for as long as HPACK's table means the same.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from serving.bench.outcomes import NOT_YET, UNREADABLE, Outcome, Outcomes
from serving.http2.bounds import Bounds
from serving.http2.unpacking import Unpacker

KNOWN_MAX = 1024
"""Of a connection; with more they are all forgotten, and read again."""
TEXT_BYTES_MAX = 400
STATUSES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""By their numbers: google.rpc.Code."""
_ROUTE = re.compile(rb"([^;]{1,32});([0-9]{1,18});")
_NUMBER = re.compile(rb"[0-9]{1,2}")


class Said(NamedTuple):
    """What a block says: the code of the outcome, `NOT_YET` if it says none; why, if it is no good one."""

    code: int
    good: bool = False
    text: str = ""


class Trailers:
    """The header blocks of one connection's answers."""

    __slots__ = ("_outcomes", "_unpacker", "known")

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._unpacker = Unpacker(Bounds())
        self.known: dict[bytes, Said] = {}

    def read(self, block: bytes) -> Said:
        """Return what a block says that is not `known`, and is then, if its bytes go on to mean the same.

        Raises
        ------
        ConnectionFault
            If it is no block.
        """
        said = self._said(dict(self._unpacker.unpack(block)))
        if self._unpacker.changed or len(self.known) >= KNOWN_MAX:
            self.known.clear()
        if not self._unpacker.changed:
            self.known[block] = said
        return said

    def _said(self, fields: dict[bytes, bytes]) -> Said:
        status, number = fields.get(b":status", b""), fields.get(b"grpc-status")
        if number is not None:
            return self._status(number, fields)
        if status[:1] == b"1" or status == b"200":
            return Said(NOT_YET)
        if not status.isdigit():
            return Said(UNREADABLE)
        # What stands between may answer for a server that is not there, in HTTP alone.
        what = status.decode()[:3]
        return Said(self._outcomes.code(Outcome(what if what != "200" else "")), text=f"HTTP status {what}")

    def _status(self, number: bytes, fields: dict[bytes, bytes]) -> Said:
        if not _NUMBER.fullmatch(number):
            return Said(UNREADABLE)
        what = STATUSES[int(number)] if int(number) < len(STATUSES) else number.decode()
        route = _ROUTE.match(fields.get(b"turnout-route", b""))
        version, revision = (route[1].decode("latin-1"), int(route[2])) if route else ("", 0)
        outcome = Outcome(what, version, revision)
        code = self._outcomes.code(outcome)
        if outcome.good:
            return Said(code, good=True)
        words = unquote_to_bytes(fields.get(b"grpc-message", b"")[:TEXT_BYTES_MAX]).decode("utf-8", "replace")
        return Said(code, text=f"{what}: {words}" if words else what)
