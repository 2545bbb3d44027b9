"""Load over gRPC: many calls on a connection, each accounted for, whatever the server does."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import numpy as np
import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.arrivals import Arrivals
from serving.bench.load import Load
from serving.bench.messages import Speech, calling, framed
from serving.bench.outcomes import NOT_YET, UNREADABLE, Outcome, Outcomes
from serving.bench.outlet import Outlet
from serving.bench.plan import Plan
from serving.bench.questions import ID_BYTES, pool, rows_of
from serving.bench.report import document
from serving.bench.trailers import KNOWN_MAX, STATUSES, Trailers
from serving.http2 import frames, settings
from serving.http2.errors import ConnectionFault
from serving.http2.frames import DATA, END_STREAM, HEADER, RST_STREAM
from serving.rpc.fields import pack
from serving.rpc.messages import service_pb2
from serving.wire import DATATYPES, TensorSpec
from tests.answering_calls import OPENING, AnsweringCalls, good, headers, message

SPECS = [TensorSpec("x", DATATYPES["FP32"], (-1, 4))]


def plan(at: tuple[str, int], rate: float, seconds: float, *, streams: int = 64, **more: Any) -> Plan:
    questions = pool(Speech("m"), rows_of(more.pop("specs", SPECS), 1, None, 0), more.pop("pool", 64))
    given_ = {"arrivals": Arrivals.CONSTANT, "seconds": seconds, "connections": 4, **more}
    return Plan(at, "m", questions, rate, calling=calling("test", streams=streams), **given_)


def loaded(server: AnsweringCalls, rate: float, seconds: float, **more: Any) -> Load:
    load = Load(plan(server.at, rate, seconds, **more))
    load.run()
    return load


def test_each_call_has_its_own_id_and_is_answered():
    with AnsweringCalls() as server:
        load = loaded(server, 500, 0.6)
        ids = [id_ for _, id_ in server.asked]
    assert load.tally.outcomes == {"OK": 300}
    assert len(set(ids)) == 300 and {len(each) for each in ids} == {ID_BYTES}
    assert document(load._plan, load)["versions"] == {"7": 300}
    assert document(load._plan, load)["protocol"] == "grpc"


def refused(stream: int, status: int) -> bytes:
    return headers(
        stream, OPENING + pack("grpc-status", str(status)) + pack("grpc-message", "no%21"), ended=True
    )


FAULTS = {
    "lost": lambda _stream: None,
    "mixed": lambda stream: good(stream, b"f" * 16),
    "unreadable": lambda _stream: b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2,
    "UNAVAILABLE": lambda stream: refused(stream, 14),
    "17": lambda stream: refused(stream, 17),
    "502": lambda stream: headers(stream, b"\x08\x03502", ended=True),
}


@pytest.mark.parametrize("what", FAULTS)
def test_each_kind_of_failure_is_counted_as_what_it_is(what):
    def reply(number, stream, id_):
        return good(stream, id_) if number % 4 else FAULTS[what](stream)

    with AnsweringCalls(reply) as server:
        # One call at a time on each: a connection that ends takes no other along.
        load = loaded(server, 200, 0.5, connections=16, streams=1)
    assert load.tally.outcomes == {"OK": 75, what: 25}


def test_a_stream_that_is_broken_off_is_lost_and_the_connection_goes_on():
    def reply(number, stream, id_):
        return good(stream, id_) if number % 2 else frames.frame(RST_STREAM, 0, stream, b"\0\0\0\7")

    with AnsweringCalls(reply) as server:
        load = loaded(server, 200, 0.5, connections=1)
        assert server.connections == 1
    assert load.tally.outcomes == {"OK": 50, "lost": 50}


@pytest.mark.parametrize("size", [1, 7, 64])
def test_an_answer_in_pieces_is_the_answer(size):
    def reply(_number, stream, id_):
        whole = message(id_)
        data = b"".join(frames.frame(DATA, 0, stream, whole[at : at + 5]) for at in range(0, len(whole), 5))
        closing = pack("grpc-status", "0") + pack("turnout-route", "7;3;x")
        return headers(stream, OPENING) + data + headers(stream, closing, ended=True)

    with AnsweringCalls(reply, piece_bytes=size) as server:
        load = loaded(server, 50, 0.3)
    assert load.tally.outcomes == {"OK": 15}


def test_a_padded_answer_whose_trailers_come_in_two_frames_is_the_answer():
    def reply(_number, stream, id_):
        data = frames.frame(DATA, frames.PADDED, stream, b"\3" + message(id_) + b"\0\0\0")
        closing = pack("grpc-status", "0")
        first = frames.frame(frames.HEADERS, END_STREAM, stream, closing[:5])
        return (
            headers(stream, OPENING)
            + data
            + first
            + frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream, closing[5:])
        )

    with AnsweringCalls(reply) as server:
        assert loaded(server, 50, 0.3).tally.outcomes == {"OK": 15}


def test_a_server_that_leaves_is_left_once_its_calls_are_answered():
    def reply(number, stream, id_):
        goodbye = frames.goaway(stream, 0) if number % 10 == 9 else b""  # type: ignore[arg-type]
        return goodbye + good(stream, id_)

    with AnsweringCalls(reply) as server:
        load = loaded(server, 200, 0.5, connections=1, connections_max=1, streams=1)
        assert server.connections >= 10
    assert load.tally.outcomes == {"OK": 100}


def test_no_more_calls_are_under_way_than_the_server_allows():
    with AnsweringCalls(settings={settings.MAX_CONCURRENT_STREAMS: 3}) as server:
        load = loaded(server, 0, 0.3, arrivals=Arrivals.CLOSED, connections=1, connections_max=1)
        assert 1 <= server.most <= 3
    assert set(load.tally.outcomes) == {"OK"}


def test_a_server_without_a_table_is_sent_nothing_that_needs_one():
    with AnsweringCalls(settings={settings.HEADER_TABLE_SIZE: 0}) as server:
        assert loaded(server, 100, 0.2).tally.outcomes == {"OK": 20}
        assert {each[":path"] for each in server.fields} == {"/inference.GRPCInferenceService/ModelInfer"}


def test_what_is_never_answered_is_too_late_and_its_connection_is_not_asked_again():
    with AnsweringCalls(lambda _number, _stream, _id: b"", mute=True) as server:
        load = loaded(server, 100, 0.6, timeout_s=0.2, connections=2)
        assert server.connections > 2 and server.resets
    assert load.tally.outcomes == {"timeout": 60}
    assert load.tally.whole().latency.quantile_ms(0.5) >= 200


def test_a_server_that_says_nothing_at_all_is_no_reason_to_wait_for_ever():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        load = Load(plan(silent.getsockname()[:2], 100, 0.2, timeout_s=0.2))
        load.run()
    assert load.tally.outcomes == {"timeout": 20} and load.asked == 0


def test_callers_and_metadata_are_in_the_head_of_each_call():
    questions = pool(Speech("m", "3", "X-User-Id", 3), rows_of(SPECS, 1, None, 0), 6)
    with AnsweringCalls() as server:
        how = calling("test", [("X-A", "b")])
        load = Load(Plan(server.at, "m", questions, 100, Arrivals.CONSTANT, 0.12, calling=how, connections=1))
        load.run()
        told = [(each["x-a"], each["x-user-id"]) for each in server.fields]
    assert sorted(told) == sorted(("b", f"caller-{number % 3:07d}") for number in range(12))


def test_a_message_has_its_id_where_it_is_written():
    arrays = {"x": np.ones((2, 4), np.float32), "words": np.array([["a"], ["bc"]], object)}
    asked = Speech("a-model", "12").question(arrays)
    asked.content[asked.id_at : asked.id_at + ID_BYTES] = b"0123456789abcdef"
    said = service_pb2.ModelInferRequest.FromString(bytes(asked.content[5:]))
    assert (said.id, said.model_name, said.model_version) == ("0123456789abcdef", "a-model", "12")
    assert [list(each.shape) for each in said.inputs] == [[2, 4], [2, 1]]
    assert said.raw_input_contents[1] == b"\1\0\0\0a\2\0\0\0bc"
    assert struct.unpack(">BI", asked.content[:5]) == (0, len(asked.content) - 5)


# What answers say

closings = st.lists(
    st.tuples(st.sampled_from([0, 3, 14, 16]), st.sampled_from(["1", "7", "12"]), st.integers(1, 5)),
    min_size=1,
    max_size=60,
)


@given(closings, st.booleans())
def test_trailers_mean_what_they_say_however_hpack_writes_them(told, huffman):
    encoder, outcomes = Encoder(), Outcomes()
    trailers = Trailers(outcomes)
    for status, version, revision in told:
        fields = [("grpc-status", str(status)), ("turnout-route", f"{version};{revision};x")]
        block = encoder.encode(fields, huffman=huffman)
        said = trailers.known.get(block) or trailers.read(block)
        assert outcomes.met[said.code] == Outcome(STATUSES[status], version, revision)
        assert said.good == (status == 0)


def test_a_block_that_changes_the_table_is_not_remembered_by_its_bytes():
    encoder, outcomes = Encoder(), Outcomes()
    trailers = Trailers(outcomes)
    first = encoder.encode([("grpc-status", "0")])
    assert outcomes.met[trailers.read(first).code].good and first not in trailers.known
    again = encoder.encode([("grpc-status", "0")])
    assert trailers.read(again).good and again in trailers.known
    trailers.read(encoder.encode([("grpc-status", "14")]))
    assert again not in trailers.known


def test_what_is_kept_of_them_is_bounded():
    trailers = Trailers(Outcomes())
    for number in range(KNOWN_MAX + 10):
        trailers.read(pack("grpc-status", "0") + pack("x", str(number)))
    assert len(trailers.known) <= KNOWN_MAX


def test_a_refusal_says_why():
    trailers = Trailers(Outcomes())
    said = trailers.read(OPENING + pack("grpc-status", "5") + pack("grpc-message", "no model %27x%27"))
    assert said.text == "NOT_FOUND: no model 'x'"


@pytest.mark.parametrize(
    ("block", "code"),
    [(OPENING, NOT_YET), (pack("grpc-status", "x"), UNREADABLE), (pack("a", "b"), UNREADABLE)],
)
def test_what_is_no_status_is_none(block, code):
    assert Trailers(Outcomes()).read(block).code == code


# What is sent


def sent(far: socket.socket) -> tuple[dict[int, bytes], dict[int, bool]]:
    """Return what has arrived of each stream's message, and whether that was all."""
    far.setblocking(False)
    data = b""
    while True:
        try:
            data += far.recv(1 << 20)
        except BlockingIOError:
            break
    got: dict[int, bytes] = {}
    over: dict[int, bool] = {}
    at = 0
    while at < len(data):
        high, low, kind, flags, stream = HEADER.unpack_from(data, at)
        at += 9 + (high << 16 | low)
        if kind == DATA:
            got[stream] = got.get(stream, b"") + data[at - (high << 16 | low) : at]
            over[stream] = bool(flags & END_STREAM)
    return got, over


@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=6),
    st.integers(0, 30_000),
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 50_000)), max_size=12),
)
def test_no_more_is_sent_than_the_peer_has_room_for_and_all_of_it_as_soon_as_it_has(lengths, window, wider):
    near, far = socket.socketpair()
    with near, far:
        for each in (near, far):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        near.setblocking(False)
        outlet = Outlet(near)
        outlet.settle({settings.INITIAL_WINDOW_SIZE: window})
        streams = {2 * index + 1: bytes([index]) * length for index, length in enumerate(lengths)}
        for stream, content in streams.items():
            outlet.call(stream, b"\x88", content)
        whole, rooms = 65_535, dict.fromkeys(streams, window)
        for place, increment in wider:
            stream = 0 if place == 0 or 2 * place - 1 not in streams else 2 * place - 1
            outlet.widen(stream, increment)
            whole, rooms = (
                (whole + increment, rooms)
                if not stream
                else (whole, {**rooms, stream: rooms[stream] + increment})
            )
        assert outlet.flush() and not outlet.rest
        got, over = sent(far)
    assert sum(map(len, got.values())) <= whole
    for stream, content in streams.items():
        here = got.get(stream, b"")
        assert content.startswith(here) and len(here) <= rooms[stream]
        assert over.get(stream, False) == (stream not in outlet.unsent)
    waiting = [stream for stream in outlet.unsent if len(got.get(stream, b"")) < rooms[stream]]
    assert not waiting or sum(map(len, got.values())) == whole


def test_a_window_that_is_too_large_is_a_fault():
    near, far = socket.socketpair()
    with near, far, pytest.raises(ConnectionFault, match="too large"):
        Outlet(near).widen(0, (1 << 31) - 1)


def test_what_the_socket_does_not_take_is_sent_later_and_in_order():
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        outlet = Outlet(near)
        outlet.settle({settings.INITIAL_WINDOW_SIZE: 1 << 30, settings.MAX_FRAME_SIZE: 1 << 20})
        outlet.widen(0, 1 << 30)
        content = np.arange(1_000_000, dtype=np.uint32).tobytes()
        outlet.call(1, b"\x88", content)
        received: list[bytes] = []
        reading = threading.Thread(target=lambda: received.extend(iter(lambda: far.recv(1 << 16), b"")))
        assert outlet.flush() and outlet.rest
        reading.start()
        while outlet.rest:
            assert outlet.flush()
        near.shutdown(socket.SHUT_WR)
        reading.join(30)
    data, got, at = b"".join(received), b"", 0
    while at < len(data):
        high, low, kind, _, _ = HEADER.unpack_from(data, at)
        at += 9 + (high << 16 | low)
        got += data[at - (high << 16 | low) : at] if kind == DATA else b""
    assert got == content


def test_the_three_header_blocks_of_a_call_say_the_same():
    how = calling("here:1", [("a", "b")])
    decoder = Decoder()
    first, usual = (decoder.decode(each) for each in (how.opening, how.usual))
    assert first == usual == Decoder().decode(how.plain)
    assert len(how.usual) < 20
    assert framed(b"abc") == b"\0\0\0\0\3abc"
