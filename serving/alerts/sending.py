"""How is one event sent, within a time, to where it may be sent, and to nowhere else?

A name is resolved once, and what is connected to is the address that was looked at. Redirects are answers
like any other, proxies of the environment are not asked, and of the answer little more is read than its head.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from time import monotonic
from typing import Any

from serving.alerts.address import Address, Allowed, chosen
from serving.alerts.answer import Answer

ANSWER_BYTES_MAX = 64 * 1024
WORDS_BYTES_MAX = 200
"""Of what a receiver says to an event that it does not take."""
CONNECTED_MAX = 4
"""How many of a receiver's addresses are tried."""


def look_up(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host; `OSError` if it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


class Sender:
    """The way to one receiver.

    Parameters
    ----------
    timeout_s : float
        What connecting, sending and the answer may take together; looking a name up has its own limits.
    context : ssl.SSLContext, optional
        Whom to trust; by default those whom this system trusts.
    """

    def __init__(
        self,
        address: Address,
        allowed: Allowed,
        timeout_s: float,
        resolve: Callable[[str, int], list[str]] = look_up,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._address = address
        self._allowed = allowed
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._context = context

    def __repr__(self) -> str:
        return f"<Sender to {self._address.place}>"

    def send(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a body, and return what came of it, whatever that is."""
        try:
            found = self._resolve(self._address.host, self._address.port)
            fit, fault = chosen(found, self._address, self._allowed)
            if fault:
                return Answer(0, fault)
            link = self._connected([str(ip) for ip in fit[:CONNECTED_MAX]])
            try:
                return self._ask(link, body, headers)
            finally:
                link.hang_up()
        except TimeoutError:
            return Answer(0, f"no answer within {self._timeout_s:g} s")
        except ssl.SSLCertVerificationError as error:
            return Answer(0, f"its certificate is not to be trusted: {error.verify_message}")
        except (OSError, HTTPException, UnicodeError) as error:
            return Answer(0, str(error) or type(error).__name__)

    def _connected(self, ips: list[str]) -> _Link:
        until_s = monotonic() + self._timeout_s
        failed: OSError = OSError("no address")
        for ip in ips:
            try:
                left_s = max(until_s - monotonic(), 0.001)
                raw = socket.create_connection((ip, self._address.port), timeout=left_s)
            except OSError as error:
                failed = error
                continue
            return _Link(self._secured(raw), until_s)
        raise failed

    def _secured(self, raw: socket.socket) -> socket.socket:
        if self._address.scheme == "http":
            return raw
        try:
            self._context = self._context or ssl.create_default_context()
            return self._context.wrap_socket(raw, server_hostname=self._address.host)
        except BaseException:
            raw.close()
            raise

    def _ask(self, link: _Link, body: bytes, headers: Mapping[str, str]) -> Answer:
        connection = HTTPConnection(self._address.host, self._address.port)
        connection.sock = link
        connection.putrequest("POST", self._address.target, skip_host=True, skip_accept_encoding=True)
        all_headers = {
            "Host": self._address.authority,
            "Content-Length": str(len(body)),
            "Connection": "close",
            **headers,
        }
        for name, value in all_headers.items():
            connection.putheader(name, value)
        with suppress(BrokenPipeError, ConnectionResetError):  # Perhaps it has answered and not read it all.
            connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, _words(response), _retry_after_s(response))


class _Link:
    """A socket of which all is over at a moment, however slowly bytes trickle, and after so many bytes."""

    def __init__(self, link: socket.socket, until_s: float) -> None:
        self._link = link
        self._until_s = until_s
        self._read_bytes = 0

    def sendall(self, content: Any) -> None:
        """Send everything."""
        left = memoryview(content)
        while left:
            self._wait()
            left = left[self._link.send(left) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return what an answer is read from."""
        return io.BufferedReader(_Reader(self))

    def read_into(self, buffer: Any) -> int:
        """Read what there is."""
        self._wait()
        count = self._link.recv_into(buffer)
        self._read_bytes += count
        if self._read_bytes > ANSWER_BYTES_MAX:
            raise HTTPException(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        return count

    def close(self) -> None:
        """Do nothing: http.client hangs up before the answer's body is read."""

    def hang_up(self) -> None:
        """End it."""
        self._link.close()

    def _wait(self) -> None:
        left_s = self._until_s - monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._link.settimeout(left_s)


class _Reader(io.RawIOBase):
    """What is read from a link."""

    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link = link

    def readable(self) -> bool:
        """Say that one can read from here."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is."""
        return self._link.read_into(buffer)


def _words(response: HTTPResponse) -> str:
    """Return what a receiver says to what it does not take."""
    if response.status < 300:
        return ""
    if response.status < 400:
        return f"{response.status}: it is elsewhere, and redirects are not followed"
    try:
        said = response.read(WORDS_BYTES_MAX).decode(errors="replace").strip()
    except (OSError, HTTPException):
        said = ""
    return f"{response.status} {response.reason[:80]}" + (f": {said}" if said else "")


def _retry_after_s(response: HTTPResponse) -> float:
    after = response.headers.get("Retry-After", "")
    return float(after) if after.isascii() and after.isdigit() and len(after) < 10 else 0.0
