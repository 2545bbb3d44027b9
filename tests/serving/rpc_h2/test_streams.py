"""How do streams of messages fare on our own HTTP/2?"""

from __future__ import annotations

import contextlib
import gzip
import struct

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as v2

from tests.serving.http2.calling import (
    INFER,
    LIVE,
    STREAM,
    Caller,
    framed,
    question,
)
from tests.serving.rpc_h2.serving_h2 import LARGE, SLOW, X
from tests.talking import eventually

# --- Streams.


def test_messages_of_a_stream_may_come_in_any_frames(caller):
    sent = b"".join(framed(question("echo", X + number, str(number))) for number in range(20))
    for step in (1 << 24, 1, 7, 150):
        id_ = caller.open(STREAM)
        caller.send(id_, sent, step=step + 1)
        call = caller.wait(id_)
        answers = [v2.ModelStreamInferResponse.FromString(message) for _, message in call.messages]
        assert [each.infer_response.id for each in answers] == [str(number) for number in range(20)]
        assert call.status == 0


def test_compressed_messages_of_a_stream_keep_their_order(caller):
    sent = b""
    for number in range(6):
        length = 30_000 if number % 2 else 4
        x = np.random.default_rng(number).standard_normal((1, length)).astype(np.float32)
        sent += framed(gzip.compress(question("echo", x, str(number))), 1)
    id_ = caller.open(STREAM, ("grpc-encoding", "gzip"))
    caller.send(id_, sent)
    call = caller.wait(id_)
    answers = [v2.ModelStreamInferResponse.FromString(message) for _, message in call.messages]
    assert [each.infer_response.id for each in answers] == [str(number) for number in range(6)]


@pytest.mark.parametrize(
    ("sent", "metadata", "status", "words"),
    [
        (framed(b"", 2), (), 3, "neither"),
        (framed(b"hello")[:-1], (), 3, "middle of a message"),
        (struct.pack(">BI", 0, 9 << 20), (), 8, "longer"),
        (framed(b"x", 1), (), 3, "does not say how"),
        (framed(b"hello", 1), (("grpc-encoding", "gzip"),), 3, "not valid gzip"),
        (framed(bytes(60_000), 1), (("grpc-encoding", "gzip"),), 3, "not valid gzip"),
        (framed(gzip.compress(bytes(64 << 20)), 1), (("grpc-encoding", "gzip"),), 8, "inflated"),
    ],
)
def test_a_stream_with_a_wrong_message_ends_with_its_status(caller, sent, metadata, status, words):
    id_ = caller.open(STREAM, *metadata)
    caller.send(id_, sent)
    call = caller.wait(id_)
    assert call.status == status and words in call.text


def test_a_stream_whose_client_does_not_read_is_not_read_on_and_its_memory_is_bounded(running):
    sent = framed(question("echo", LARGE[:1]))
    with Caller(running.grpc, window=1000) as caller:
        caller.acknowledges = False
        id_ = caller.open(STREAM)
        caller.socket.settimeout(1)
        asked = 0
        with contextlib.suppress(TimeoutError):
            while asked < 100:
                while caller.h2.local_flow_control_window(id_) < len(sent):
                    caller.read()
                caller.send(id_, sent, ended=False)
                asked += 1
        assert 0 < asked < 20
        assert running.rpc.bytes_now < 4 << 20
        assert running.rpc.unsent.bytes_now < 16 << 20
        with Caller(running.grpc) as other:
            assert other.ask(INFER, question("echo", X)).status == 0
        caller.socket.settimeout(10)
        caller.acknowledges = True
        caller.h2.increment_flow_control_window(10_000_000)
        caller.h2.increment_flow_control_window(10_000_000, id_)
        caller.flush()
        caller.send(id_, b"")
        call = caller.wait(id_)
        assert (call.status, len(call.messages)) == (0, asked)
    assert eventually(lambda: running.rpc.bytes_now == running.rpc.unsent.bytes_now == 0)


def test_a_stream_that_is_cancelled_lets_everything_go(running):
    lane = running.gateway.find("spin").lane
    with Caller(running.grpc) as caller:
        id_ = caller.open(STREAM)
        for _ in range(5):
            caller.send(id_, framed(question("spin", SLOW)), ended=False)
        assert eventually(lambda: len(lane) > 0)
        caller.h2.reset_stream(id_)
        caller.flush()
        assert eventually(lambda: len(lane) == 0)
        assert caller.ask(LIVE, b"").status == 0
    assert eventually(lambda: running.rpc.bytes_now == 0)


def test_the_window_of_a_stream_is_opened_as_its_messages_are_taken(caller):
    id_ = caller.open(STREAM)
    for _ in range(12):
        caller.send(id_, framed(question("echo", LARGE)), ended=False)
        caller.socket.settimeout(10)
    caller.send(id_, b"")
    assert len(caller.wait(id_).messages) == 12
