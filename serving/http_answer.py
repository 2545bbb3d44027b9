"""What an HTTP answer's bytes are, for everything but the hot path's memoised inference answers."""

from __future__ import annotations

import orjson

from serving.answer import Encoded
from serving.content_coding import compress, worth
from serving.errors import HTTP_STATUS, Overloaded, TurnoutError, WrongMethod

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS = {**dict(HTTP_STATUS.values()), 200: "OK"}
JSON = "application/json"


def message(
    status: int,
    body: bytes,
    content_type: str = JSON,
    *,
    keep_alive: bool = True,
    with_body: bool = True,
    extra: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """Return a whole response (RFC 9112). `with_body` False is for HEAD, whose length is kept."""
    lines = [f"HTTP/1.1 {status} {REASONS[status]}"]
    if body:
        lines.append(f"content-type: {content_type}")
    lines += [f"{name}: {value}" for name, value in extra]
    if not keep_alive:
        lines.append("connection: close")
    lines.append(f"content-length: {len(body)}")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head + body if with_body else head


def error_message(error: TurnoutError, *, keep_alive: bool, with_body: bool = True) -> bytes:
    """Return the one shape of every error: its status, and ``{"error": why}``."""
    status, _ = HTTP_STATUS[type(error)]
    extra: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded):
        extra = (("retry-after", str(error.retry_after_s)),)
    if isinstance(error, WrongMethod):
        extra = (("allow", error.allow),)
    body = orjson.dumps({"error": str(error).encode("utf-8", "replace").decode()})
    return message(status, body, keep_alive=keep_alive, with_body=with_body, extra=extra)


def inference_message(encoded: Encoded, coding: str, *, keep_alive: bool) -> bytes:
    """Return an inference's answer, compressed with `coding` where the client takes it and it pays."""
    body = b"".join(encoded.parts)
    extra: tuple[tuple[str, str], ...] = ()
    if encoded.json_bytes is not None:
        extra = (("inference-header-content-length", str(encoded.json_bytes)),)
    if coding and worth(body):
        body = compress(body, coding)
        extra = (*extra, ("content-encoding", coding))
    return message(200, body, encoded.content_type, keep_alive=keep_alive, extra=extra)
