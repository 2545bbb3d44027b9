"""What does a request's header list say, and is it one?  (RFC 9113, section 8)"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from serving.http2.errors import Code, StreamFault

Field = tuple[bytes, bytes]
"""A field's name, in lower case, and its value."""

FIELD_BYTES = 32
"""What a field counts for beside its name and its value: RFC 9113, 10.5.1."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_NOTED = frozenset((b"host", b"content-length"))
_OF_HTTP_1 = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
"""They speak of a connection, which has other means here: RFC 9113, 8.2.2."""

GOOD_MAX = 4096
"""Fields that are known to be in order, each of up to `GOOD_BYTES_MAX`: looking is cheaper than checking."""
GOOD_BYTES_MAX = 128
_GOOD: set[Field] = set()
_GOOD_PSEUDO: set[Field] = set()


class Head:
    """A request's header list, checked. Equal lists may share one head.

    Attributes
    ----------
    method, scheme, path, authority : bytes
        The pseudo-headers; `authority` may be that of a host field.
    fields : tuple of Field
        All others, in their order.
    content_length : int
        As announced; -1 if it is not.
    quiet, terms : bool, object
        For whoever serves: they need not be told of requests before there is some of their bodies; and
        what they made of the head, kept with it.
    """

    __slots__ = ("authority", "content_length", "fields", "method", "path", "quiet", "scheme", "terms")

    def __init__(self, fields: Sequence[Field]) -> None:
        pseudo, rest, noted = _split(fields)
        try:
            self.method, self.scheme, self.path = pseudo[b":method"], pseudo[b":scheme"], pseudo[b":path"]
        except KeyError as missing:
            raise _malformed(f"no {missing.args[0].decode()}") from None
        if not self.path.startswith(b"/") and self.path != b"*":
            raise _malformed("a :path that does not begin with '/'")
        self.fields = rest
        self.authority, self.content_length = pseudo.get(b":authority", b""), -1
        if noted:
            self.authority, self.content_length = _authority(pseudo, noted), _content_length(noted)
        self.quiet = False
        self.terms: Any = None


def weight_bytes(fields: Sequence[Field]) -> int:
    """Return the size of a header list as RFC 9113 counts it."""
    return sum(len(name) + len(value) + FIELD_BYTES for name, value in fields)


def check_trailers(fields: Sequence[Field]) -> None:
    """Raise `StreamFault` if these cannot come behind a request's body."""
    if _split(fields)[0]:
        raise _malformed("a pseudo-header in the trailers")


def _split(fields: Sequence[Field]) -> tuple[dict[bytes, bytes], tuple[Field, ...], list[Field]]:
    """Tell the pseudo-headers from the other fields, having checked the form of each.

    Those of the others that say something of the request come a second time, by themselves.
    """
    pseudo: dict[bytes, bytes] = {}
    for position, (name, value) in enumerate(fields):
        if not name.startswith(b":"):
            rest = tuple(fields[position:])
            break
        if name not in _PSEUDO:
            raise _malformed("a pseudo-header that requests have not")
        if name in pseudo:
            raise _malformed(f"more than one {name.decode()}")
        if (name, value) not in _GOOD_PSEUDO:
            _check_value(name, value)
            _remember(_GOOD_PSEUDO, name, value)
        pseudo[name] = value
    else:
        rest = ()
    noted: list[Field] = []
    for field in rest:
        if field not in _GOOD:
            _check(*field)
            if field[0] in _NOTED:
                noted.append(field)
            else:
                _remember(_GOOD, *field)
    return pseudo, rest, noted


def _remember(good: set[Field], name: bytes, value: bytes) -> None:
    """Remember that a field is in order, if it may come again."""
    if len(name) + len(value) <= GOOD_BYTES_MAX:
        if len(good) >= GOOD_MAX:
            good.clear()
        good.add((name, value))


def _check_value(name: bytes, value: bytes) -> None:
    if not _VALUE.fullmatch(value):
        raise _malformed(f"a value of {name.decode()} with characters that fields have not")


def _check(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        if name.startswith(b":"):
            raise _malformed("a pseudo-header behind other fields")
        raise _malformed("a field's name with characters that names have not; they are in lower case")
    _check_value(name, value)
    if name in _OF_HTTP_1:
        raise _malformed(f"a {name.decode()} field, which HTTP/2 has not")
    if name == b"te" and value != b"trailers":
        raise _malformed("a te field that says something else than 'trailers'")


def _authority(pseudo: dict[bytes, bytes], noted: Sequence[Field]) -> bytes:
    """Return whom the request is for; a host field may say it, but not otherwise."""
    hosts = {value for name, value in noted if name == b"host"}
    if b":authority" in pseudo:
        hosts.add(pseudo[b":authority"])
    if len(hosts) > 1:
        raise _malformed("a host field that contradicts another, or :authority")
    return hosts.pop() if hosts else b""


def _content_length(noted: Sequence[Field]) -> int:
    lengths = [value for name, value in noted if name == b"content-length"]
    if not lengths:
        return -1
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise _malformed("a content-length that is not one decimal number")
    return int(lengths[0])


def _malformed(what: str) -> StreamFault:
    return StreamFault(Code.PROTOCOL_ERROR, f"malformed request: {what}")
