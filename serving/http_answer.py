"""What an HTTP answer's bytes are, for everything but the hot path's memoised inference answers."""

from __future__ import annotations

import logging

import orjson

from serving.answer import ROUTE_HEADER, Encoded, encode
from serving.content_coding import compress, worth
from serving.errors import (
    HTTP_STATUS,
    Failed,
    Overloaded,
    TooLarge,
    TurnoutError,
    Unauthenticated,
    WrongMethod,
)
from serving.http_head import Head
from serving.wire import InferRequest, Results

log = logging.getLogger("turnout.http")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS = {**dict(HTTP_STATUS.values()), 200: "OK"}
JSON = "application/json"


def message(
    status: int,
    body: bytes,
    head: Head | None,
    content_type: str = JSON,
    *,
    keep_alive: bool = True,
    extra: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """Return a whole response (RFC 9112) to the request of `head`, which is None if it was unreadable."""
    lines = [f"HTTP/1.1 {status} {REASONS[status]}"]
    if body:
        lines.append(f"content-type: {content_type}")
    lines += [f"{name}: {value}" for name, value in extra]
    if not keep_alive:
        lines.append("connection: close")
    elif head is not None and head.version == "1.0":
        lines.append("connection: keep-alive")  # Else such a client waits for the end (ab -k does).
    lines.append(f"content-length: {len(body)}")
    top = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return top if head is not None and head.method == "HEAD" else top + body


def error_message(error: TurnoutError, head: Head | None, *, keep_alive: bool) -> bytes:
    """Return the one shape of every error: its status, and ``{"error": why}``."""
    status = status_of(error)
    extra: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded):
        extra = (("retry-after", str(error.retry_after_s)),)
    if isinstance(error, WrongMethod):
        extra = (("allow", error.allow),)
    if isinstance(error, Unauthenticated):
        extra = (("www-authenticate", 'Bearer realm="turnout"'),)
    body = orjson.dumps({"error": str(error).encode("utf-8", "replace").decode()})
    return message(status, body, head, keep_alive=keep_alive, extra=extra)


def known(error: Exception) -> TurnoutError:
    """Return the error as the caller hears of it; what nobody foresaw goes to the log instead."""
    if isinstance(error, TurnoutError):
        return error
    log.error("event=handler_broke", exc_info=error)
    return Failed("an internal error; it was logged")


def status_of(error: TurnoutError) -> int:
    """Return the status of the nearest class that has one."""
    known = next((each for each in type(error).__mro__ if each in HTTP_STATUS), Failed)
    return HTTP_STATUS[known][0]


def encode_bounded(
    request: InferRequest, results: Results, start: int, stop: int, bytes_max: int
) -> tuple[Encoded, int]:
    """Return an answer's body and its size; `TooLarge` if that is more than `bytes_max`."""
    encoded = encode(request, results, start, stop)
    body_bytes = sum(map(len, encoded.parts))
    if body_bytes > bytes_max:
        raise too_long(body_bytes, bytes_max)
    return encoded, body_bytes


def inference_message(encoded: Encoded, head: Head, stamp: bytes, *, keep_alive: bool) -> bytes:
    """Return an inference's answer, compressed where the client takes it and it pays."""
    body = b"".join(encoded.parts)
    extra: tuple[tuple[str, str], ...] = ()
    if stamp:
        extra = ((ROUTE_HEADER, stamp.decode()),)
    if encoded.json_bytes is not None:
        extra = (*extra, ("inference-header-content-length", str(encoded.json_bytes)))
    if head.accept and worth(body):
        body = compress(body, head.accept)
        extra = (*extra, ("content-encoding", head.accept))
    return message(200, body, head, encoded.content_type, keep_alive=keep_alive, extra=extra)


def too_long(answer_bytes: int, bytes_max: int) -> TooLarge:
    """Return the error that takes the place of an answer beyond `limits.answer_bytes_max`.

    It is the caller who can do something about it, so it is the caller's, like a request too large.
    """
    return TooLarge(
        f"the answer would have {answer_bytes} bytes; limits.answer_bytes_max is {bytes_max}: "
        "ask for fewer rows or fewer outputs, or for binary data instead of JSON"
    )
