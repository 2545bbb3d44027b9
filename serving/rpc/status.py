"""Which gRPC status says which error? The texts are those of HTTP's answers."""

from __future__ import annotations

import logging

from serving.errors import (
    HTTP_STATUS,
    Cancelled,
    Expired,
    Failed,
    HeadTooLarge,
    Invalid,
    Overloaded,
    Refused,
    TooLarge,
    TooSlow,
    TurnoutError,
    Unauthenticated,
    Unavailable,
    Unknown,
    UnknownEncoding,
    Unsupported,
    WrongMethod,
)

log = logging.getLogger("turnout.grpc")

OK = 0
GRPC_STATUS: dict[type[TurnoutError], tuple[int, str]] = {
    Cancelled: (1, "CANCELLED"),
    Invalid: (3, "INVALID_ARGUMENT"),
    Expired: (4, "DEADLINE_EXCEEDED"),
    TooSlow: (4, "DEADLINE_EXCEEDED"),
    Unknown: (5, "NOT_FOUND"),
    Refused: (7, "PERMISSION_DENIED"),
    HeadTooLarge: (8, "RESOURCE_EXHAUSTED"),
    TooLarge: (8, "RESOURCE_EXHAUSTED"),
    Unsupported: (12, "UNIMPLEMENTED"),
    UnknownEncoding: (12, "UNIMPLEMENTED"),
    WrongMethod: (12, "UNIMPLEMENTED"),
    Failed: (13, "INTERNAL"),
    Overloaded: (14, "UNAVAILABLE"),
    Unavailable: (14, "UNAVAILABLE"),
    Unauthenticated: (16, "UNAUTHENTICATED"),
}
"""Class to status and its name (google.rpc.Code), for the same classes as HTTP_STATUS.

A full queue is UNAVAILABLE as in Triton, and as gRPC's clients take a 429: it may be tried again.
"""
assert GRPC_STATUS.keys() == HTTP_STATUS.keys()

PUSHBACK = "grpc-retry-pushback-ms"
"""gRPC's Retry-After: clients with a retry policy wait so long (gRFC A6)."""


def known(error: Exception) -> TurnoutError:
    """Return the error as the caller hears of it; what nobody foresaw goes to the log instead."""
    if isinstance(error, TurnoutError):
        return error
    log.error("event=handler_broke", exc_info=error)
    return Failed("an internal error; it was logged")


def code(error: TurnoutError) -> int:
    """Return the status code of the nearest class that has one."""
    nearest = next((each for each in type(error).__mro__ if each in GRPC_STATUS), Failed)
    return GRPC_STATUS[nearest][0]


def text(error: TurnoutError) -> str:
    """Return the error's text, fit for UTF-8."""
    return str(error).encode("utf-8", "replace").decode()


def trailing(error: TurnoutError) -> tuple[tuple[str, str], ...]:
    """Return the metadata that go with the error's status."""
    if isinstance(error, Overloaded):
        return ((PUSHBACK, str(error.retry_after_s * 1000)),)
    return ()
