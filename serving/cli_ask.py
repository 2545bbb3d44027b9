"""How does the command line ask the admin application?

Straight, by no proxy, and following no redirection: either would learn the token.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from serving.access import Access
from serving.mistake import Mistake

ANSWER_BYTES_MAX = 256 << 20
CONNECT_S_MAX = 5.0


class Unclear(Exception):
    """A change was asked for, and no answer came; the message says how to find out whether it was made."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the application said."""

    status: int
    document: dict[str, Any]

    @property
    def error(self) -> str:
        """What is wrong; empty if nothing is."""
        return "" if self.status == 200 else str(self.document.get("error", f"status {self.status}"))


def ask(
    access: Access,
    path: str,
    body: dict[str, Any] | None = None,
    s_max: float = 60.0,
    *,
    method: str = "",
    afterwards: str = "turnout history",
) -> Answer:
    """Get `path`, or send a change there: by POST if it has a body and no other `method` is named.

    `afterwards` is the command that says whether a change was made whose answer did not come.

    Raises
    ------
    Mistake
        If there is nobody, or somebody else.
    Unclear
        If a change was sent and the connection ended, or `s_max` passed, before the answer.
    """
    url = urlsplit(access.url)
    method = method or ("GET" if body is None else "POST")
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=min(CONNECT_S_MAX, s_max))
    try:
        try:
            connection.connect()
        except OSError as error:
            raise Mistake(f"{access.url} does not answer: {error.strerror or error}") from None
        connection.sock.settimeout(s_max)
        try:
            status, content = _exchange(connection, method, url.path + path, access.token, body)
        except (OSError, http.client.HTTPException) as error:
            said = (
                f"{access.url} ended the conversation without an answer: {str(error) or type(error).__name__}"
            )
            if method == "GET":
                raise Mistake(said) from None
            raise Unclear(f"{said}; look whether the change was made, with `{afterwards}`") from None
    finally:
        connection.close()
    return _read(access, status, content)


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, token: str, body: dict[str, Any] | None
) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    sent = None if body is None else json.dumps(body).encode()
    if sent is not None:
        headers["Content-Type"] = "application/json"
    connection.request(method, path, sent, headers)
    answer = connection.getresponse()
    return answer.status, answer.read(ANSWER_BYTES_MAX)


def _read(access: Access, status: int, content: bytes) -> Answer:
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Mistake(f"{access.url} answers with status {status}, but not as a gateway's admin does")
    return Answer(status, document)
