"""What does a request's head say?  (RFC 9112, and V2's own headers)

llhttp reads the grammar. What it lets pass although readers could differ on it (which is how
requests are smuggled through proxies) is refused here. Errors that leave no doubt where the request
ends become the head's `problem`, so that its connection can go on; all others are raised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from serving import pins
from serving.config import Limits
from serving.errors import HeadTooLarge, Invalid, TooLarge, TurnoutError, UnknownEncoding
from serving.target import NOWHERE, Target, resolve

Field = tuple[bytes, bytes]
"""A header: its name in lower case, and its value without the blanks around it."""


@dataclass(frozen=True, slots=True)
class Head:
    """Everything that a connection needs to know of a request's head.

    Equal bytes have equal heads, so heads may be kept by their bytes. Hence `problem` is to be sent,
    not raised: raising it again and again would hang traceback after traceback on it.
    """

    method: str
    target: Target
    """`NOWHERE` if the problem is the path or the method."""
    keep_alive: bool
    content_length: int
    """Bytes of the body; 0 also where there is none, or where it is chunked."""
    chunked: bool
    json_bytes: int | None
    """Inference-Header-Content-Length: the JSON part of the body, once that is decompressed."""
    expect_continue: bool
    """The client sends the body only after ``100 Continue``; a final answer lets it skip the body."""
    coding: str
    """How the body is compressed: ``gzip``, ``deflate`` or not at all."""
    accept: str
    """How the answer may be compressed: likewise."""
    timeout_ns: int
    """x-request-timeout-seconds; 0 leaves it to the server."""
    request_id: bytes
    """x-request-id; safe in JSON, in a header and in a log line as it is."""
    named: str
    """x-turnout-version or x-turnout-alias, the latter with an ``@`` before it; empty if neither."""
    headers: tuple[Field, ...]
    problem: TurnoutError | None = None
    """Why the request is refused although its end is known."""
    version: str = "1.1"
    memory: list[Any] = field(init=False, repr=False, compare=False, default_factory=lambda: [None, None])
    """Room for whoever routes: a way, and where it leads those who send this head."""
    usual: bool = field(init=False)
    """Nothing asks for an answer other than HTTP/1.1's plain one: no compression, no last word."""

    def __post_init__(self) -> None:
        usual = self.keep_alive and not self.accept and self.version == "1.1"
        object.__setattr__(self, "usual", usual)


_SINGLE = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"inference-header-content-length",
        b"content-encoding",
        b"x-request-timeout-seconds",
        pins.REQUEST_ID,
        pins.VERSION,
        pins.ALIAS,
    )
)
"""Headers that mean nothing if they come twice."""
_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect"))
"""Those of them that decide where a request ends, or whom it is for."""

_CODINGS = {b"": "", b"identity": "", b"gzip": "gzip", b"x-gzip": "gzip", b"deflate": "deflate"}

_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
_COUNT = re.compile(rb"0|[1-9][0-9]{0,17}")
_SECONDS = re.compile(rb"([0-9]{1,9})(?:\.([0-9]{1,9}))?")
_QUALITY = re.compile(rb"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://[^/?#]+", re.IGNORECASE)


def parse(data: bytes, limits: Limits) -> Head:
    """Read a head: all bytes up to its blank line, and that line.

    Raises
    ------
    HeadTooLarge
        If it has more bytes or more headers than `limits` allow.
    TooLarge
        If it announces a body that is longer than `limits` allow.
    Invalid
        If it is not HTTP/1.1 or 1.0 to the letter, or leaves doubt where the request ends.
    """
    if len(data) > limits.head_bytes_max:
        raise HeadTooLarge(f"the head is longer than {limits.head_bytes_max} bytes (limits.head_bytes_max)")
    method, url, version, headers = _lines(data)
    if len(headers) > limits.headers_max:
        raise HeadTooLarge(f"the head has more than {limits.headers_max} headers (limits.headers_max)")
    single, twice = _single(headers)
    _check_host(single.get(b"host"), version)
    length = _framing(single, version, limits)
    target, problem = _target(method, url)
    terms = _NO_TERMS
    try:
        terms = _terms(single, twice, length)
    except TurnoutError as error:
        problem = problem or error.with_traceback(None)
    json_bytes, coding, timeout_ns, request_id, named = terms
    return Head(
        method=method,
        target=target,
        keep_alive=_keep_alive(version, _listed(headers, b"connection")),
        content_length=length,
        chunked=b"transfer-encoding" in single,
        json_bytes=json_bytes,
        expect_continue=b"expect" in single and version == "1.1",
        coding=coding,
        accept=_accept(_listed(headers, b"accept-encoding")),
        timeout_ns=timeout_ns,
        request_id=request_id,
        named=named,
        headers=headers,
        problem=problem,
        version=version,
    )


class _Lines:
    """What llhttp calls back with."""

    __slots__ = ("headers", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[Field] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))


def _lines(data: bytes) -> tuple[str, str, str, tuple[Field, ...]]:
    """Read the grammar: method, URL, HTTP version and headers."""
    if data.startswith(b"\r\n"):
        data = data[2:]  # RFC 9112, 2.2: one empty line before a request is a known slip of clients.
    lines = _Lines()
    parser = HttpRequestParser(lines)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        pass  # Nothing is upgraded: RFC 9110, 7.8 lets a server answer as if it had not been asked.
    except HttpParserError as error:
        raise Invalid(f"not a valid HTTP/1.1 request head: {str(error).rstrip('.')}") from None
    method, version = parser.get_method(), parser.get_http_version()
    # llhttp skips blanks and blank lines, and goes on to a next request. Said again, our way:
    first = b"%b %b HTTP/%b\r\n" % (method, lines.url, version.encode())
    if not (data.startswith(first) and data.endswith(b"\r\n\r\n")):
        raise Invalid("not a valid HTTP/1.1 request head; expected METHOD /path HTTP/1.1 and headers")
    if data.count(b"\n") != len(lines.headers) + 2:
        raise Invalid("not a valid HTTP/1.1 request head; expected one header a line")
    if version not in ("1.1", "1.0"):
        raise Invalid(f"HTTP/{version} is not spoken here; HTTP/1.1 and HTTP/1.0 are")
    if method == b"CONNECT":
        raise Invalid("this server is no proxy; CONNECT has no meaning here")
    return method.decode(), lines.url.decode("latin-1"), version, tuple(lines.headers)


def _single(headers: Iterable[Field]) -> tuple[dict[bytes, bytes], bytes]:
    """Pick the headers that may come once, and name one that came twice, if any."""
    single: dict[bytes, bytes] = {}
    twice = b""
    for name, value in headers:
        if name in _SINGLE:
            if name in single:
                if name in _FRAMING:
                    raise Invalid(f"more than one {name.decode()} header; send one")
                twice = name
            single[name] = value
    return single, twice


def _check_host(host: bytes | None, version: str) -> None:
    if host is None and version == "1.1":
        raise Invalid("no host header; HTTP/1.1 needs one")
    if host is not None and not _HOST.fullmatch(host):
        raise Invalid("the host header is malformed; expected HOST or HOST:PORT")


def _framing(single: dict[bytes, bytes], version: str, limits: Limits) -> int:
    """Return the body's length, having refused whatever leaves doubt about it."""
    if b"expect" in single and single[b"expect"].lower() != b"100-continue":
        raise Invalid("the expect header asks for something unknown; 100-continue is known")
    transfer, length = single.get(b"transfer-encoding"), single.get(b"content-length")
    if transfer is not None:
        if length is not None:
            raise Invalid("both content-length and transfer-encoding; send one of them")
        if version == "1.0":
            raise Invalid("transfer-encoding in HTTP/1.0, which has none; send HTTP/1.1 or content-length")
        if transfer != b"chunked":
            raise Invalid("the transfer-encoding header is not understood; 'chunked' is, in lower case")
    if length is None:
        return 0
    if not _COUNT.fullmatch(length):
        raise Invalid("the content-length header is malformed; expected one decimal number")
    if int(length) > limits.body_bytes_max:
        raise TooLarge(f"the body is longer than {limits.body_bytes_max} bytes (limits.body_bytes_max)")
    return int(length)


def _target(method: str, url: str) -> tuple[Target, TurnoutError | None]:
    """Find the resource; a URL in absolute form counts by its path, whoever it names."""
    origin = _ORIGIN.match(url)
    path = url if origin is None else "/" + url[origin.end() :].removeprefix("/")
    try:
        return resolve(method, path), None
    except TurnoutError as error:
        return NOWHERE, error.with_traceback(None)


def _keep_alive(version: str, connection: bytes) -> bool:
    if not connection:
        return version == "1.1"
    options = [each.strip(b" \t") for each in connection.lower().split(b",")]
    return b"close" not in options and (version == "1.1" or b"keep-alive" in options)


def _listed(headers: Iterable[Field], name: bytes) -> bytes:
    """Return the value of a header that may come more than once, joined as RFC 9110, 5.3 says."""
    return b",".join([value for each, value in headers if each == name])


_Terms = tuple[int | None, str, int, bytes, str]
_NO_TERMS: _Terms = (None, "", 0, b"", "")


def _terms(single: dict[bytes, bytes], twice: bytes, length: int) -> _Terms:
    """Read what concerns this request only: JSON bytes, coding, timeout, id and version."""
    if twice == b"content-encoding":
        raise UnknownEncoding("more than one content-encoding header; send one, gzip or deflate")
    if twice:
        raise Invalid(f"more than one {twice.decode()} header; send one")
    return (
        _json_bytes(single, length),
        _coding(single),
        _timeout_ns(single),
        pins.request_id(single),
        pins.named(single),
    )


def _json_bytes(single: dict[bytes, bytes], length: int) -> int | None:
    text = single.get(b"inference-header-content-length")
    if text is None:
        return None
    if not _COUNT.fullmatch(text):
        raise Invalid("the inference-header-content-length header is malformed; expected one decimal number")
    value = int(text)
    # Where the body is compressed, this counts decompressed bytes and content-length does not.
    known = b"transfer-encoding" not in single and not _coding(single)
    if known and value > length:
        raise Invalid(f"inference-header-content-length is {value}, but the body has {length} bytes")
    return value


def _coding(single: dict[bytes, bytes]) -> str:
    text = single.get(b"content-encoding", b"").lower()
    if text in _CODINGS:
        return _CODINGS[text]
    raise UnknownEncoding("the body's content-encoding is not known here; gzip or deflate are")


def _timeout_ns(single: dict[bytes, bytes]) -> int:
    text = single.get(b"x-request-timeout-seconds")
    if text is None:
        return 0
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise Invalid("the x-request-timeout-seconds header is malformed; expected seconds, such as 0.25")
    return int(match[1]) * 1_000_000_000 + int((match[2] or b"0").ljust(9, b"0"))


def _accept(text: bytes) -> str:
    """Choose the answer's coding from Accept-Encoding (RFC 9110, 12.5.3).

    An entry that is not understood counts nothing: then the answer is not compressed, which all read.
    """
    quality: dict[str, float] = {}
    for entry in text.lower().split(b","):
        name, _, weight = (part.strip(b" \t") for part in entry.partition(b";"))
        match = _QUALITY.fullmatch(weight) if weight else None
        if name and (match or not weight):
            quality["*" if name == b"*" else _CODINGS.get(name, "?")] = float(match[1]) if match else 1.0
    rest = quality.get("*", 0.0)
    gzip, deflate = quality.get("gzip", rest), quality.get("deflate", rest)
    best = max(gzip, deflate)
    if best == 0 or best < quality.get("", 0.0):
        return ""
    return "gzip" if gzip == best else "deflate"
