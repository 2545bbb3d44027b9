"""What can go wrong with a request, and which status says so on each wire.

An error's message is for the caller: it says what, where and what would work, and never a path,
a traceback or an internal name. Nothing below the listeners knows a status code.
"""

from __future__ import annotations


class TurnoutError(Exception):
    """A request that cannot be answered; the message says why, to the caller."""


class Invalid(TurnoutError):
    """The request contradicts the protocol or the model's signature."""


class Unknown(TurnoutError):
    """No such model, version or resource."""


class WrongMethod(TurnoutError):
    """The resource exists, but not for this method."""

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class TooSlow(TurnoutError):
    """The client did not send its whole request in time."""


class TooLarge(TurnoutError):
    """The request passes a configured limit of size or count."""


class UnknownEncoding(TurnoutError):
    """The body is compressed in a way that this server does not read."""


class HeadTooLarge(TurnoutError):
    """The request's head passes a configured limit."""


class Unauthenticated(TurnoutError):
    """The operation is the operator's, and the request has no token that says so."""


class Refused(TurnoutError):
    """The operation exists but this client may not use it."""


class Overloaded(TurnoutError):
    """A bounded queue is full; the same request may work after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(Overloaded):
    """The server or the model is not ready, or is draining."""


class Expired(TurnoutError):
    """The request's deadline passed before its answer was there."""


class Cancelled(TurnoutError):
    """The client went away before its answer was there."""


class Unsupported(TurnoutError):
    """A part of the protocol that this server does not offer."""


class Failed(TurnoutError):
    """The model itself failed on an admissible request."""


def bare(error: TurnoutError) -> TurnoutError:
    """Return `error` without the tracebacks that it and its causes have: they hold what was under way."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


HTTP_STATUS: dict[type[TurnoutError], tuple[int, str]] = {
    Invalid: (400, "Bad Request"),
    Unauthenticated: (401, "Unauthorized"),
    Refused: (403, "Forbidden"),
    Unknown: (404, "Not Found"),
    WrongMethod: (405, "Method Not Allowed"),
    TooSlow: (408, "Request Timeout"),
    TooLarge: (413, "Content Too Large"),
    UnknownEncoding: (415, "Unsupported Media Type"),
    Overloaded: (429, "Too Many Requests"),
    HeadTooLarge: (431, "Request Header Fields Too Large"),
    Cancelled: (499, "Client Closed Request"),
    Failed: (500, "Internal Server Error"),
    Unsupported: (501, "Not Implemented"),
    Unavailable: (503, "Service Unavailable"),
    Expired: (504, "Gateway Timeout"),
}
"""Class to status and reason phrase (RFC 9110; 431 is RFC 6585; 499 is nginx's, only ever logged)."""
