"""What a call's head asks for, beside its message."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

import pytest

from serving.errors import Invalid, UnknownEncoding, Unsupported
from serving.http2.heads import Head
from serving.rpc.service import INFER
from serving.rpc.terms import Reader, Terms

SERVICE: Any = SimpleNamespace(unary={"/a/Unary": len}, streams={"/a/Stream": len})


def head(path: str = INFER, *fields: tuple[bytes, bytes], method: bytes = b"POST") -> Head:
    return Head(
        [
            (b":method", method),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *fields,
        ]
    )


def terms(*fields: tuple[bytes, bytes], path: str = INFER) -> Terms:
    return Reader(SERVICE).read(head(path, *fields))


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (b"1H", 3_600_000_000_000),
        (b"2M", 120_000_000_000),
        (b"3S", 3_000_000_000),
        (b"4m", 4_000_000),
        (b"5u", 5000),
        (b"6n", 6),
        (b"0S", 1),
        (b"00000007S", 7_000_000_000),
        (b"99999999H", 99_999_999 * 3_600_000_000_000),
    ],
)
def test_a_timeout_is_read_in_each_unit(text, ns):
    assert terms((b"grpc-timeout", text)).timeout_ns == ns


@pytest.mark.parametrize(
    "text",
    [b"", b"1", b"S", b"1s", b"1 S", b"-1S", b"+1S", b"1.5S", b"123456789S", b"1SS", "\u0661S".encode()],
)
def test_another_spelling_of_a_timeout_is_refused(text):
    problem = terms((b"grpc-timeout", text)).problem
    assert isinstance(problem, Invalid) and "grpc-timeout" in str(problem)


@pytest.mark.parametrize(("text", "coding"), [(b"identity", ""), (b"gzip", "gzip"), (b"deflate", "deflate")])
def test_codings_are_those_of_http(text, coding):
    assert terms((b"grpc-encoding", text)).coding == coding
    assert isinstance(terms((b"grpc-encoding", text.upper())).problem, UnknownEncoding)


def test_what_may_come_once_may_not_come_twice():
    for name, value in ((b"grpc-timeout", b"1S"), (b"grpc-encoding", b"gzip")):
        assert "more than one" in str(terms((name, value), (name, value)).problem)


def test_a_path_leads_to_its_rpc_or_nowhere():
    assert terms(path="/a/Unary").answer is not None
    assert terms(path="/a/Stream").open is not None
    assert terms().answer is terms().open is terms().problem is None
    for path in ("/", "/a/unary", "/a/Unary/", "/a/Unary?x", "*"):
        assert isinstance(terms(path=path).problem, Unsupported)
    assert len(str(terms(path="/" + "x" * 5000).problem)) < 200


def test_what_is_no_grpc_call_is_refused_in_http_s_words():
    reader = Reader(SERVICE)
    assert reader.read(head(method=b"GET")).refusal == 405
    assert reader.read(head(INFER, (b"content-type", b"application/grpc"))).refusal == 415
    for said, status in (
        (b"application/grpc+proto", 0),
        (b"application/grpc;x=y", 0),
        (b"application/grpc-web", 415),
        (b"application/json", 415),
        (b"Application/grpc", 415),
        (b"", 415),
    ):
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b"content-type", said)]
        assert reader.read(Head(fields)).refusal == status


def test_metadata_are_all_fields_but_the_transport_s():
    peer = terms(
        (b"grpc-timeout", b"1S"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"content-length", b"5"),
        (b"host", b"x"),
        (b"user-agent", b"me"),
        (b"x-user-id", b"u"),
        (b"x-user-id", b"v"),
        (b"trace-bin", base64.b64encode(b"\0\xff\0").rstrip(b"=")),
        (b"wrong-bin", b"%%%"),
    ).peer
    assert list(peer.headers) == [
        (b"user-agent", b"me"),
        (b"x-user-id", b"u"),
        (b"x-user-id", b"v"),
        (b"trace-bin", b"\0\xff\0"),
        (b"wrong-bin", b"%%%"),
    ]


def test_equal_metadata_have_one_peer_whatever_the_deadline():
    reader = Reader(SERVICE)
    one = reader.read(head(INFER, (b"x-user-id", b"u"), (b"grpc-timeout", b"1S")))
    other = reader.read(head("/a/Unary", (b"x-user-id", b"u"), (b"grpc-timeout", b"2S")))
    assert one.peer is other.peer
    assert one.peer is not reader.read(head(INFER, (b"x-user-id", b"v"))).peer


def test_nothing_need_be_done_before_a_message_unless_there_is_a_deadline_or_a_refusal():
    assert terms().quiet and terms(path="/a/Unary").quiet
    assert not terms(path="/a/Stream").quiet and not terms(path="/x").quiet
    assert not terms((b"grpc-timeout", b"1S")).quiet
