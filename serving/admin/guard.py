"""Who may talk to the admin application, and how much may they say?

Whoever has the token, addresses this server by its own name, and comes from no page of another one. The
token alone would do; the other two keep a browser from being talked into it by a page whose name was
made to mean this machine (DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES_MAX = 64 * 1024


class _Gone(Exception):
    """Whoever asked is gone before it had said everything; half a request is none."""


class Guard:
    """Hands on only what may come in, with its body already read; answers the rest itself.

    Parameters
    ----------
    hosts : iterable of str
        IP addresses beyond loopback at which this server is asked. The unspecified one stands for any.
    body_bytes_max : callable, optional
        Returns how large a body may be, by the request's method and path.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        hosts: Iterable[str] = (),
        body_bytes_max: Callable[[str, str], int] = lambda _method, _path: BODY_BYTES_MAX,
    ) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._token = token.encode()
        self._hosts = frozenset(ip for ip in map(_ip, hosts) if ip is not None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bytes_max = self._body_bytes_max(scope["method"], scope["path"])
        refused = self._refusal(scope["headers"], bytes_max)
        if refused is not None:
            await _refuse(send, *refused)
            return
        try:
            body = await _body(receive, bytes_max)
        except _Gone:
            return
        if body is None:
            await _refuse(send, 413, _too_large(bytes_max))
            return
        if scope["method"] == "HEAD":
            # The server below drops the body by what it read itself.
            scope = {**scope, "method": "GET"}
        await self._app(scope, _Replay(body, receive), send)

    def _refusal(self, headers: Iterable[tuple[bytes, bytes]], bytes_max: int) -> tuple[int, str] | None:
        """Return the status and the reason for which a request with these headers may not come in."""
        said: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            said.setdefault(name.lower(), []).append(value)
        hosts = said.get(b"host", [])
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return 403, "this server is not the one that the Host header names; use its IP address"
        if any(not _is_page_of(origin, hosts[0]) for origin in said.get(b"origin", [])):
            return 403, "pages of other servers may not use this one"
        tokens = said.get(b"authorization", [])
        if len(tokens) != 1 or not self._is_token(tokens[0]):
            return 401, "send the header `Authorization: Bearer TOKEN`; the command line finds it by itself"
        if b"content-encoding" in said:
            return 415, "bodies are read as they are, without Content-Encoding"
        length = said.get(b"content-length", [b"0"])[0]
        if length.isdigit() and int(length[:20]) > bytes_max:
            return 413, _too_large(bytes_max)
        return None

    def _is_token(self, credentials: bytes) -> bool:
        scheme, _, token = credentials.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    def _is_ours(self, host: bytes) -> bool:
        try:
            parts = urlsplit(f"//{host.decode('ascii')}")
            name = parts.hostname or ""
            if parts.port == 0 or "@" in parts.netloc or parts.path or parts.query or parts.fragment:
                return False
        except ValueError:
            return False
        if name == "localhost":
            return True
        # A page that was made to mean this machine has a name, never a bare address.
        ip = _ip(name)
        return ip is not None and (
            ip.is_loopback or ip in self._hosts or any(each.is_unspecified for each in self._hosts)
        )


class _Replay:
    """Gives a body that was read to whoever reads it next, and then what comes after it."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _body(receive: Receive, bytes_max: int) -> bytes | None:
    """Return the whole body, or None if it is too large."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > bytes_max:
            return None
        if not message.get("more_body", False):
            return b"".join(pieces)


def _too_large(bytes_max: int) -> str:
    return f"the body has more than {bytes_max} bytes"


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="turnout"'))
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _ip(text: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_page_of(origin: bytes, host: bytes) -> bool:
    scheme, separator, rest = origin.lower().partition(b"://")
    return bool(separator) and scheme in (b"http", b"https") and rest == host.lower()
