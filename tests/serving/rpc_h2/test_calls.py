"""How do calls fare on our own HTTP/2, right ones and wrong ones, compressed, late and cancelled?"""

from __future__ import annotations

import gzip
import struct
import time
import zlib

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as v2

from serving.http2.errors import Code
from tests.serving.http2.calling import (
    INFER,
    LIVE,
    READY,
    WATCH,
    Caller,
    framed,
    question,
    said,
)
from tests.serving.rpc_h2.serving_h2 import ENDLESS, LARGE, X
from tests.talking import eventually

# --- Calls.


@pytest.mark.parametrize(
    ("step", "padding"), [(1 << 24, 0), (1, 0), (2, 0), (4, 0), (5, 0), (100, 0), (50, 7)]
)
def test_a_message_is_the_same_in_whatever_frames_it_comes(caller, step, padding):
    call = caller.ask(INFER, question("echo", X, "7"), step=step + padding + 1, padding=padding)
    ((flag, message),) = call.messages
    assert (call.status, flag) == (0, 0)
    assert np.array_equal(said(message), X)
    assert v2.ModelInferResponse.FromString(message).id == "7"
    assert call.headers[":status"] == "200" and call.headers["content-type"] == "application/grpc"
    assert call.trailers["turnout-route"].startswith("1;")


@pytest.mark.parametrize("step", [1 << 24, 16_384, 1000, 99_999])
def test_a_large_message_is_too(caller, step):
    for _ in range(2):
        call = caller.ask(INFER, question("echo", LARGE), step=step)
        assert np.array_equal(said(call.messages[0][1]), LARGE)


def test_many_calls_of_one_connection_are_answered_each_with_its_own(caller):
    ids = [caller.open(INFER) for _ in range(30)]
    for number, id_ in enumerate(ids):
        caller.send(id_, framed(question("echo", X + number, str(number))))
    for number, id_ in enumerate(ids):
        (_, message) = caller.wait(id_).messages[0]
        assert np.array_equal(said(message), X + number)
        assert v2.ModelInferResponse.FromString(message).id == str(number)


def test_a_client_with_a_small_window_gets_all_of_a_large_answer(running):
    for window in (1, 1000, 20_000):
        with Caller(running.grpc, window=window) as caller:
            x = LARGE[:1, : 50 * window + 7]
            assert np.array_equal(said(caller.ask(INFER, question("echo", x)).messages[0][1]), x)


def test_trailers_of_a_request_end_it(caller):
    id_ = caller.open(INFER)
    caller.send(id_, framed(question("echo", X)), ended=False)
    caller.h2.send_headers(id_, [("x-checksum", "1")], end_stream=True)
    caller.flush()
    assert caller.wait(id_).status == 0


def test_other_rpcs_are_answered_too(caller):
    assert v2.ServerLiveResponse.FromString(caller.ask(LIVE, b"").messages[0][1]).live
    asked = v2.ModelReadyRequest(name="echo").SerializeToString()
    assert v2.ModelReadyResponse.FromString(caller.ask(READY, asked).messages[0][1]).ready


# --- What is no call, or a wrong one.


@pytest.mark.parametrize(
    ("pseudo", "status"),
    [
        ({"method": "GET"}, "405"),
        ({"content_type": "application/json"}, "415"),
        ({"content_type": "application/grpcx"}, "415"),
        ({"content_type": "application/grpc+json"}, "415"),
    ],
)
def test_what_is_no_grpc_call_gets_http_s_answer(caller, pseudo, status):
    call = caller.wait(caller.open(INFER, **pseudo))
    assert call.headers == {":status": status} and call.data == b""


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc; charset=utf-8"])
def test_other_spellings_of_the_content_type_will_do(caller, content_type):
    id_ = caller.open(LIVE, content_type=content_type)
    caller.send(id_, framed(b""))
    assert caller.wait(id_).status == 0


WRONG = {
    "an unknown rpc": ("/inference.GRPCInferenceService/Nothing", framed(b""), (), 12, "no rpc"),
    "no message": (INFER, b"", (), 3, "ended before its message"),
    "half a prefix": (INFER, b"\0\0", (), 3, "ended before its message"),
    "half a message": (INFER, framed(b"hello")[:-1], (), 3, "ended before its message"),
    "two messages": (INFER, framed(b"") * 2, (), 3, "more than one message"),
    "a message and more": (LIVE, framed(b"") + b"\0", (), 3, "more than one message"),
    "a flag that is none": (INFER, framed(b"", 2), (), 3, "neither compressed nor plain"),
    "a message too large": (INFER, struct.pack(">BI", 0, (8 << 20) + 1), (), 8, "longer than 8388608 bytes"),
    "a message beyond all": (INFER, struct.pack(">BI", 0, 2**32 - 1) + b"x", (), 8, "longer than"),
    "an unknown coding": (INFER, framed(b""), (("grpc-encoding", "br"),), 12, "grpc-encoding is not known"),
    "a coding twice": (
        INFER,
        framed(b""),
        (("grpc-encoding", "gzip"),) * 2,
        3,
        "more than one grpc-encoding",
    ),
    "a compressed message of no coding": (INFER, framed(b"x", 1), (), 3, "does not say how"),
    "a message that is not gzip": (
        INFER,
        framed(b"hello", 1),
        (("grpc-encoding", "gzip"),),
        3,
        "not valid gzip",
    ),
    "a large one that is not": (
        INFER,
        framed(bytes(50_000), 1),
        (("grpc-encoding", "deflate"),),
        3,
        "not valid deflate",
    ),
    "a bomb": (
        INFER,
        framed(gzip.compress(bytes(9 << 20)), 1),
        (("grpc-encoding", "gzip"),),
        8,
        "limits.body_bytes_max",
    ),
    "a larger bomb": (
        INFER,
        framed(gzip.compress(bytes(64 << 20)), 1),
        (("grpc-encoding", "gzip"),),
        8,
        "limits.body_bytes_max",
    ),
    "a timeout in words": (INFER, framed(b""), (("grpc-timeout", "soon"),), 3, "grpc-timeout"),
    "a timeout with a sign": (INFER, framed(b""), (("grpc-timeout", "-1S"),), 3, "grpc-timeout"),
    "a timeout too long": (INFER, framed(b""), (("grpc-timeout", "123456789S"),), 3, "grpc-timeout"),
    "no protobuf": (INFER, framed(b"\xff\xff"), (), 3, "the message is no"),
    "no such model": (INFER, framed(question("nobody", X)), (), 5, "no model 'nobody'"),
    "metadata that is wrong": (
        INFER,
        framed(question("echo", X)),
        (("x-turnout-version", "x"),),
        3,
        "x-turnout-version",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_gets_its_status_and_the_connection_goes_on(caller, running, case):
    path, sent, metadata, status, words = WRONG[case]
    before = sum(running.rpc.rejections.values())
    id_ = caller.open(path, *metadata)
    caller.send(id_, sent)
    call = caller.wait(id_)
    assert call.status == status
    assert words in call.text
    assert call.data == b"" and call.trailers == {}, "trailers alone"
    assert sum(running.rpc.rejections.values()) == before + 1
    assert ("grpc-accept-encoding" in call.headers) == (case == "an unknown coding")
    assert caller.ask(LIVE, b"").status == 0


def test_a_call_is_refused_before_its_message_is_there_and_its_client_is_told_to_stop(caller):
    id_ = caller.open(INFER)
    caller.send(id_, struct.pack(">BI", 0, (8 << 20) + 1), ended=False)
    call = caller.wait(id_)
    assert call.status == 8
    assert eventually(lambda: caller.ask(LIVE, b"").status == 0 and call.reset == Code.NO_ERROR)


def test_a_status_in_words_is_percent_encoded(caller):
    model = "naïve 100% " + "x" * 5000
    call = caller.ask(INFER, v2.ModelInferRequest(model_name=model).SerializeToString())
    assert call.status in (3, 5)
    assert call.text.isascii() and len(call.text) <= 4096
    if "na" in call.text:
        assert "na%C3%AFve 100%25" in call.text


# --- Codings.


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("x", [X, LARGE], ids=["small", "large"])
def test_a_compressed_call_is_answered_compressed_where_that_pays(caller, coding, compress, x):
    x = np.zeros_like(x)
    id_ = caller.open(INFER, ("grpc-encoding", coding))
    caller.send(id_, framed(compress(question("echo", x)), 1))
    call = caller.wait(id_)
    ((flag, message),) = call.messages
    assert call.headers["grpc-encoding"] == coding
    assert flag == (x.nbytes > 1400)
    plain = zlib.decompress(message, 47) if flag else message
    assert np.array_equal(said(plain), x)


def test_messages_of_a_coding_may_come_plain(caller):
    call = caller.ask(INFER, question("echo", X), ("grpc-encoding", "gzip"))
    assert call.status == 0


# --- Deadlines and cancellation.


@pytest.mark.parametrize("timeout", ["1n", "1u", "20m"])
def test_a_deadline_that_passes_is_told(caller, timeout):
    began_s = time.monotonic()
    call = caller.ask(INFER, question("spin", ENDLESS), ("grpc-timeout", timeout))
    assert call.status == 4 and ("deadline" in call.text or "in time" in call.text)
    assert time.monotonic() - began_s < 20


def test_a_deadline_that_does_not_pass_is_none(caller):
    for timeout in ("99999999H", "1H", "2M", "30S", "30000m"):
        assert caller.ask(INFER, question("echo", X), ("grpc-timeout", timeout)).status == 0


def test_a_deadline_runs_from_the_call_s_beginning_not_from_its_message(caller):
    id_ = caller.open(INFER, ("grpc-timeout", "50m"))
    time.sleep(0.1)
    caller.send(id_, framed(question("echo", X)))
    assert caller.wait(id_).status == 4


def test_a_stream_has_a_deadline_too(caller):
    id_ = caller.open(WATCH, ("grpc-timeout", "100m"))
    caller.send(id_, framed(b""))
    began_s = time.monotonic()
    call = caller.wait(id_)
    assert call.status == 4 and len(call.messages) == 1
    assert time.monotonic() - began_s < 20


def test_a_cancelled_call_is_dropped_and_so_are_those_of_a_client_that_is_gone(running):
    lane = running.gateway.find("spin").lane
    with Caller(running.grpc) as caller:
        ids = [caller.open(INFER, ("grpc-timeout", "10S")) for _ in range(3)]
        for id_ in ids:
            caller.send(id_, framed(question("spin", ENDLESS)))
        assert eventually(lambda: len(lane) == 3)
        caller.h2.reset_stream(ids[2], Code.CANCEL)
        caller.flush()
        assert caller.ask(LIVE, b"").status == 0
    assert eventually(lambda: len(lane) == 0)
    assert eventually(lambda: running.rpc.bytes_now == 0)


def test_nothing_of_a_message_stays_when_its_call_is_broken_off(running):
    with Caller(running.grpc) as caller:
        id_ = caller.open(INFER)
        caller.send(id_, framed(question("echo", LARGE))[:500_000], ended=False)
        assert eventually(lambda: running.rpc.bytes_now > 400_000)
        caller.h2.reset_stream(id_, Code.CANCEL)
        caller.flush()
        assert eventually(lambda: running.rpc.bytes_now == 0)
        id_ = caller.open(INFER)
        caller.send(id_, framed(question("echo", LARGE))[:500_000], ended=False)
        assert eventually(lambda: running.rpc.bytes_now > 400_000)
    assert eventually(lambda: running.rpc.bytes_now == 0)
