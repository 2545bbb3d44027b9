"""What does a call's head ask for, beside its message?  (gRPC over HTTP/2)"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence

from serving.errors import Invalid, TurnoutError, UnknownEncoding, Unsupported
from serving.http2.heads import FIELD_BYTES, Field, Head
from serving.memo import Memo
from serving.rpc.calling import Line, Stream
from serving.rpc.peer import Peer
from serving.rpc.service import INFER, Answer, Service

PEERS_MAX = 4096
PEER_BYTES_MAX = 8192
"""Metadata up to this size are remembered, and who is behind them."""
SHOWN_MAX = 100
"""What an error repeats of a path."""

_TYPE = re.compile(rb"application/grpc(?:\+proto)?(?:[ \t]*;.*)?")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_NS = {
    b"H": 3_600_000_000_000, b"M": 60_000_000_000, b"S": 1_000_000_000, b"m": 1_000_000, b"u": 1000, b"n": 1,
}  # fmt: skip
_CODINGS = {b"": "", b"identity": "", b"gzip": "gzip", b"deflate": "deflate"}
_TRANSPORT = frozenset((b"te", b"content-type", b"content-length", b"host"))


class Terms:
    """What a head asks for. Kept with it, so worked out once.

    Attributes
    ----------
    answer, open : callable or None
        Who answers an rpc of one message each way, or a call with streams; neither is for ModelInfer.
    refusal : int
        HTTP's status, if this is no gRPC call; else 0.
    problem : TurnoutError or None
        Why the call is refused. To be sent, not raised.
    timeout_ns : int
        The client's deadline from the call's beginning; 0 is none.
    coding : str
        How its messages may be compressed: ``gzip``, ``deflate`` or not at all.
    peer : Peer
    quiet : bool
        There is nothing to do before the message is there.
    """

    __slots__ = ("answer", "coding", "open", "peer", "problem", "quiet", "refusal", "timeout_ns")

    def __init__(self, head: Head, service: Service, peer: Peer) -> None:
        path = head.path.decode("latin-1")
        self.peer = peer
        self.answer: Answer | None = service.unary.get(path)
        self.open: Callable[[Line], Stream] | None = service.streams.get(path)
        self.refusal = _refusal(head)
        self.problem: TurnoutError | None = None
        self.timeout_ns, self.coding = 0, ""
        try:
            if path != INFER and self.answer is None and self.open is None:
                raise Unsupported(f"no rpc has the path {path[:SHOWN_MAX]!r}")
            single = _single(head.fields)
            self.timeout_ns = _timeout_ns(single.get(b"grpc-timeout"))
            self.coding = _coding(single.get(b"grpc-encoding", b""))
        except TurnoutError as error:
            self.problem = error.with_traceback(None)
        told = self.refusal or self.problem is not None
        self.quiet = not told and self.open is None and not self.timeout_ns


class Reader:
    """Reads heads for a service, and knows again who calls."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._peers: Memo[tuple[Field, ...], Peer] = Memo(PEERS_MAX, PEER_BYTES_MAX)

    def read(self, head: Head) -> Terms:
        """Return the terms of a head, and keep them there."""
        terms = Terms(head, self._service, self.peer(head.fields))
        head.terms = terms
        return terms

    def peer(self, fields: Sequence[Field]) -> Peer:
        """Return who calls with these fields; the same for the same metadata."""
        metadata = tuple([_metadatum(*field) for field in fields if _is_metadatum(field[0])])
        peer = self._peers.get(metadata) or self._peers.recall(metadata)
        if peer is None:
            peer = Peer(metadata)
            weight = sum(2 * (len(name) + len(value) + FIELD_BYTES) for name, value in metadata)
            self._peers.keep(metadata, peer, weight)
        return peer


def _refusal(head: Head) -> int:
    if head.method != b"POST":
        return 405
    types = [value for name, value in head.fields if name == b"content-type"]
    return 0 if len(types) == 1 and _TYPE.fullmatch(types[0]) else 415


def _single(fields: Sequence[Field]) -> Mapping[bytes, bytes]:
    single: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in (b"grpc-timeout", b"grpc-encoding"):
            if name in single:
                raise Invalid(f"more than one {name.decode()} header; send one")
            single[name] = value
    return single


def _timeout_ns(text: bytes | None) -> int:
    if text is None:
        return 0
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise Invalid(
            "the grpc-timeout header is malformed; expected 8 digits at most and a unit, as in 250m"
        )
    return max(1, int(match[1]) * _UNIT_NS[match[2]])


def _coding(text: bytes) -> str:
    if text not in _CODINGS:
        raise UnknownEncoding("the call's grpc-encoding is not known here; gzip or deflate are")
    return _CODINGS[text]


def _is_metadatum(name: bytes) -> bool:
    return name not in _TRANSPORT and not name.startswith(b"grpc-")


def _metadatum(name: bytes, value: bytes) -> Field:
    """Return a field as metadata have it: binary values come in base64, with or without its padding."""
    if not name.endswith(b"-bin"):
        return name, value
    try:
        return name, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return name, value
