"""What a call's metadata ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.table import Route, Share, Sticky
from serving.errors import Invalid
from serving.rpc.peer import Peer
from serving.ways import Caller
from serving.wire import Call, InferRequest


@pytest.mark.parametrize(
    ("headers", "named", "id_"),
    [
        ([], "", b""),
        ([(b"user-agent", b"x"), (b"grpc-timeout", b"1S")], "", b""),
        ([(b"x-turnout-version", b"7")], "7", b""),
        ([(b"x-turnout-alias", b"champion"), (b"x-request-id", b"17")], "@champion", b"17"),
    ],
)
def test_a_version_an_alias_and_an_id_are_found(headers, named, id_):
    peer = Peer(headers)
    assert (peer.named, peer.request_id, peer.problem) == (named, id_, None)
    assert peer.headers is headers


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ([(b"x-turnout-version", b"7")] * 2, "more than one x-turnout-version header"),
        ([(b"x-turnout-version", b"7"), (b"x-turnout-alias", b"a")], "both x-turnout-version and"),
        ([(b"x-turnout-version", b"latest")], "x-turnout-version header is malformed"),
        ([(b"x-turnout-alias", b"\xff")], "x-turnout-alias header is malformed"),
        ([(b"x-request-id", b'a"')], "x-request-id header is malformed"),
    ],
)
def test_what_is_wrong_with_them_is_kept_for_who_asks(headers, says):
    peer = Peer(headers)
    assert isinstance(peer.problem, Invalid)
    assert says in str(peer.problem)
    assert peer.problem.__traceback__ is None
    assert peer.named == ""


@given(st.binary(min_size=1, max_size=20))
def test_a_caller_known_by_a_header_is_the_same_one_by_metadata(value):
    route = Route((Share("8", 5000), Share("7", 5000)), sticky=Sticky(("header:X-User-Id",), "salt"))
    caller = Caller("m", route)
    request = InferRequest(Call(()), (), None)  # type: ignore[arg-type]
    slots = {caller.slot(request, Peer([(b"a", b"b"), (b"x-user-id", value)])) for _ in range(3)}
    assert len(slots) == 1
    assert slots.pop() >= 0
    assert caller.slot(request, Peer([(b"a", value)])) == -1
