"""How do gRPC calls fare on our own HTTP/2? Over real sockets: bounds, deadlines, codings, slowness, the end."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import random
import socket
import ssl
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as v2

from serving.http2.errors import Code
from serving.http2.frames import DATA, frame
from serving.rpc import serve_h2
from tests import models
from tests.e2e.test_tls import _certificate
from tests.running import Running
from tests.serving.http2.calling import (
    INFER,
    LIVE,
    READY,
    STREAM,
    WATCH,
    Caller,
    framed,
    question,
    said,
)
from tests.talking import eventually, give_back_memory

X = np.arange(8, dtype=np.float32).reshape(2, 4)
SLOW = np.full((1, 4), 300_000, np.float32)
ENDLESS = np.full((1, 4), 1e18, np.float32)
LARGE = np.random.default_rng(0).standard_normal((3, 100_000), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("h2")
    models.place(folder / "models", "echo", 1, models.identity("FP32"))
    models.place(folder / "models", "spin", 1, models.spinning())
    yield folder
    give_back_memory()


def serve(folder, **settings: Any) -> Running:
    settings.setdefault("grpc", {})["engine"] = "h2"
    settings.setdefault("engine", {})["inline_us_max"] = 0
    return Running(folder / "models", folder / "state", settings)


@pytest.fixture(scope="module")
def running(folder) -> Iterator[Running]:
    limits = {
        "body_bytes_max": 8 << 20,
        "bodies_bytes_max": 32 << 20,
        "answer_bytes_max": 6 << 20,
        "head_bytes_max": 4096,
    }
    with serve(folder, limits=limits, grpc={"streams_max": 32}) as running:
        yield running
        assert eventually(lambda: running.rpc.bytes_now == 0)
        assert running.rpc.unsent.bytes_now == 0


@pytest.fixture
def caller(running) -> Iterator[Caller]:
    with Caller(running.grpc) as caller:
        yield caller
    assert eventually(lambda: running.rpc.bytes_now == 0 and running.rpc.connections == 0)


def look(running: Running, times: int = 1) -> None:
    """Let the server look at its connections, as it does once a second."""

    async def now() -> None:
        for _ in range(times):
            for connection in list(running.rpc._connections):
                connection.look(time.monotonic_ns())

    running.do(now())


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
    assert time.monotonic() - began_s < 2


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
    assert time.monotonic() - began_s < 1


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
    assert eventually(lambda: len(lane) == 0, 15)
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


# --- Memory.


def test_messages_in_memory_are_bounded_together_and_who_announces_much_must_send_some(folder):
    with serve(folder, limits={"body_bytes_max": 8 << 20, "bodies_bytes_max": 8 << 20}) as running:
        with Caller(running.grpc) as caller:
            announced = struct.pack(">BI", 0, 8 << 20) + b"x"
            ids = [caller.open(INFER) for _ in range(9)]
            for id_ in ids[:8]:
                caller.send(id_, announced, ended=False)
            assert eventually(lambda: running.rpc.bytes_now == 8 << 20)
            caller.send(ids[8], announced, ended=False)
            call = caller.wait(ids[8])
            assert call.status == 14 and "too many large" in call.text
            assert call.trailers == {} and call.headers["grpc-retry-pushback-ms"] == "1000"
            assert caller.ask(INFER, question("echo", X)).status == 0, "small ones find room"
        assert eventually(lambda: running.rpc.bytes_now == 0)


def test_answers_that_are_not_read_are_bounded_and_end_in_time(folder):
    limits = {"send_s_max": 1.0, "bodies_bytes_max": 2_000_000}
    with serve(folder, limits=limits) as running, Caller(running.grpc, window=0) as caller:
        ids = [caller.open(INFER) for _ in range(3)]
        for number, id_ in enumerate(ids, 1):
            caller.send(id_, framed(question("echo", LARGE[:2])))
            assert eventually(lambda number=number: running.rpc.unsent.bytes_now > min(number, 2) * 800_000)
        call = caller.wait(ids[2])
        assert call.status == 14 and "answers" in call.text
        with Caller(running.grpc) as other:
            assert other.ask(INFER, question("echo", X)).status == 0
        for id_ in ids[:2]:
            assert caller.wait(id_).reset == Code.ENHANCE_YOUR_CALM
        assert running.rpc.unsent.bytes_now == 0
        assert caller.wait(caller.open(INFER, ("grpc-timeout", "x"))).status == 3


def test_a_client_that_reads_nothing_at_all_is_cut_off(folder):
    with serve(folder, limits={"send_s_max": 1.0}) as running:
        with Caller(running.grpc, window=2**31 - 1, timeout_s=0.5) as caller:
            caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.h2.increment_flow_control_window(2**31 - 1 - 65_535)
            sent = framed(question("echo", LARGE[:2]))
            with contextlib.suppress(TimeoutError):
                for _ in range(15):
                    id_ = caller.open(INFER)
                    for at in range(0, len(sent), 16_384):
                        part = sent[at : at + 16_384]
                        ended = at + 16_384 >= len(sent)
                        caller.socket.sendall(frame(DATA, int(ended), id_, part))
            assert eventually(lambda: running.rpc.connections == 0, 15)
        assert eventually(lambda: running.rpc.unsent.bytes_now == running.rpc.bytes_now == 0)


def _streams_max(running: Running) -> int:
    return max(each.core.streams_max for each in list(running.rpc._connections))


def test_calls_of_all_connections_are_bounded_together(running, monkeypatch):
    monkeypatch.setattr(serve_h2, "CALLS_MAX", 3)
    with Caller(running.grpc) as caller:
        assert caller.ask(LIVE, b"").status == 0
        ids = [caller.open(INFER) for _ in range(4)]
        assert eventually(lambda: _streams_max(running) == 0)
        assert caller.wait(caller.open(INFER)).reset == Code.REFUSED_STREAM
        for id_ in ids:
            caller.h2.reset_stream(id_)
        caller.flush()
        assert eventually(lambda: _streams_max(running) == 32)
        assert caller.ask(LIVE, b"").status == 0


# --- Time.


TIGHT = {"receive_s_max": 1.0, "idle_s_max": 2.0, "send_s_max": 2.0, "connections_max": 4}


@pytest.fixture(scope="module")
def tight_one(folder) -> Iterator[Running]:
    with serve(folder, limits=TIGHT) as running:
        yield running


@pytest.fixture
def tight(tight_one) -> Running:
    assert eventually(lambda: tight_one.rpc.connections == 0, 10)
    return tight_one


def test_a_message_that_does_not_arrive_in_time_is_refused(tight):
    with Caller(tight.grpc) as caller:
        bare = caller.open(INFER)
        half = caller.open(INFER)
        caller.send(half, framed(question("echo", X))[:20], ended=False)
        for id_ in (bare, half):
            call = caller.wait(id_)
            assert call.status == 4 and "limits.receive_s_max" in call.text
        assert caller.ask(LIVE, b"").status == 0


def test_half_a_message_of_a_stream_is_refused_in_time_but_a_quiet_stream_is_not(tight):
    with Caller(tight.grpc) as caller:
        quiet, half = caller.open(STREAM), caller.open(STREAM)
        caller.send(half, framed(question("echo", X))[:20], ended=False)
        assert caller.wait(half).status == 4
        look(tight, 1)
        caller.send(quiet, framed(question("echo", X)))
        assert caller.wait(quiet).status == 0


@pytest.mark.parametrize(
    "sent", [b"", b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01"], ids=["nothing", "half", "TLS"]
)
def test_a_client_that_does_not_greet_is_cut_off(tight, sent):
    host, port = tight.grpc.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(sent)
        began_s = time.monotonic()
        while client.recv(65536):
            pass
        assert time.monotonic() - began_s < 5


def test_an_idle_connection_is_told_goodbye_whatever_it_pings(tight):
    with Caller(tight.grpc) as caller:
        assert caller.ask(LIVE, b"").status == 0
        began_s = time.monotonic()
        caller.socket.settimeout(0.3)
        while not caller.closed and time.monotonic() - began_s < 10:
            caller.h2.ping(b"12345678")
            time.sleep(0.02)
            try:
                caller.flush()
                caller.read()
            except TimeoutError:
                continue
            except OSError:
                break
        assert [each.error_code for each in caller.gone] == [Code.NO_ERROR] * 2
        assert 1.5 < time.monotonic() - began_s < 8


def test_a_client_with_open_streams_is_asked_whether_it_is_there_and_cut_off_if_it_is_not(tight):
    with Caller(tight.grpc) as caller:
        caller.send(caller.open(WATCH), framed(b""), ended=False)
        while not caller.pings:
            caller.read()
        began_s = time.monotonic()
        while time.monotonic() - began_s < 4:  # It answers pings by reading.
            caller.socket.settimeout(0.5)
            try:
                assert caller.read()
            except TimeoutError:
                continue
        assert tight.rpc.connections == 1
        began_s = time.monotonic()
        assert eventually(lambda: tight.rpc.connections == 0, 10)  # Now it reads nothing.


def test_connections_beyond_the_number_allowed_are_told(tight):
    with Caller(tight.grpc) as one, Caller(tight.grpc) as two, Caller(tight.grpc) as three:
        with Caller(tight.grpc) as four:
            for each in (one, two, three, four):
                assert each.ask(LIVE, b"").status == 0
            with Caller(tight.grpc) as fifth:
                fifth.wait_closed()
                assert [each.error_code for each in fifth.gone] == [Code.ENHANCE_YOUR_CALM]
            assert four.ask(LIVE, b"").status == 0
        assert eventually(lambda: tight.rpc.connections == 3)
        with Caller(tight.grpc) as again:
            assert again.ask(LIVE, b"").status == 0


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
        assert eventually(lambda: len(lane) == 0, 15)
        assert caller.ask(LIVE, b"").status == 0
    assert eventually(lambda: running.rpc.bytes_now == 0)


def test_the_window_of_a_stream_is_opened_as_its_messages_are_taken(caller):
    id_ = caller.open(STREAM)
    for _ in range(12):
        caller.send(id_, framed(question("echo", LARGE)), ended=False)
        caller.socket.settimeout(10)
    caller.send(id_, b"")
    assert len(caller.wait(id_).messages) == 12


# --- The end.


def test_a_drain_answers_what_is_under_way_and_says_goodbye(folder):
    with serve(folder) as running, Caller(running.grpc) as caller, Caller(running.grpc) as idle:
        assert idle.ask(LIVE, b"").status == 0
        id_ = caller.open(INFER)
        caller.send(id_, framed(question("spin", SLOW)))
        stream = caller.open(STREAM)
        caller.send(stream, framed(question("echo", X)), ended=False)
        watched = caller.open(WATCH)
        caller.send(watched, framed(b""), ended=False)
        assert eventually(lambda: len(running.gateway.find("spin").lane) == 1)
        draining = threading.Thread(target=running.drain)
        draining.start()
        idle.wait_closed()
        assert [each.error_code for each in idle.gone] == [Code.NO_ERROR] * 2
        assert caller.wait(id_).status == 0
        assert caller.wait(stream).status in (0, 14)
        assert len(caller.calls[stream].messages) == 1
        assert caller.wait(watched).status in (0, 14)
        caller.wait_closed()
        assert [each.last_stream_id for each in caller.gone] == [2**31 - 1, watched]
        draining.join(10)
        with pytest.raises(OSError):
            Caller(running.grpc)


# --- Hostile clients over a socket.


def test_what_clients_are_cut_off_for_is_counted_and_told(running):
    before = dict(running.rpc.faults)
    with Caller(running.grpc) as caller:
        caller.socket.sendall(
            b"\0\0\x08\x06\0\0\0\0\0" + bytes(8) + (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)) * 2000
        )
        caller.wait_closed()
        assert caller.gone[-1].error_code == Code.ENHANCE_YOUR_CALM
        assert b"PING" in caller.gone[-1].additional_data
    with Caller(running.grpc) as caller:
        for _ in range(600):
            id_ = caller.open(LIVE)
            caller.h2.reset_stream(id_)
            try:
                caller.flush()
            except OSError:
                break
        caller.wait_closed()
    assert running.rpc.faults["ENHANCE_YOUR_CALM"] == before["ENHANCE_YOUR_CALM"] + 2


def test_garbage_harms_nobody_else(running, caller):
    rng = random.Random(7)
    host, port = running.grpc.rsplit(":", 1)
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    for number in range(60):
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall((greeting if number % 3 else b"") + rng.randbytes(rng.randrange(1, 3000)))
            if number % 2:
                client.shutdown(socket.SHUT_WR)
    assert np.array_equal(said(caller.ask(INFER, question("echo", X)).messages[0][1]), X)
    assert eventually(lambda: running.rpc.connections == 1, 10)


def test_tls_without_http_2_is_refused(folder, tmp_path):
    certificate, key = _certificate(tmp_path)
    server = {"tls_certificate": str(certificate), "tls_key": str(key)}
    context = ssl.create_default_context(cafile=str(certificate))
    with serve(folder, server=server) as running:
        with Caller(running.grpc, tls=context) as caller:
            caller.wait_closed()
            assert caller.gone[-1].error_code == Code.INADEQUATE_SECURITY
        context.set_alpn_protocols(["h2"])
        with Caller(running.grpc, tls=context) as caller:
            assert np.array_equal(said(caller.ask(INFER, question("echo", LARGE)).messages[0][1]), LARGE)
        context.set_alpn_protocols(["http/1.1"])
        with Caller(running.grpc, tls=context) as caller:
            caller.wait_closed()


def test_a_connection_that_is_closed_is_freed_without_the_garbage_collector(running):
    caller = Caller(running.grpc)
    for path, message in (
        (LIVE, b""),
        (INFER, question("echo", X)),
        (INFER, b"?"),
        (STREAM, question("echo", X)),
    ):
        caller.ask(path, message)
    caller.open(INFER)
    caller.send(caller.open(STREAM), framed(question("echo", X)), ended=False)
    caller.send(caller.open(WATCH), framed(b""), ended=False)
    (known,) = [weakref.ref(each) for each in running.rpc._connections]
    gc.disable()
    try:
        caller.socket.close()
        assert eventually(lambda: known() is None)
    finally:
        gc.enable()


def test_an_idle_connection_costs_little_memory(running):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    host, port = running.grpc.rsplit(":", 1)
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    before, clients = resident(), []
    for _ in range(400):
        client = socket.create_connection((host, int(port)), timeout=5)
        client.sendall(greeting)
        clients.append(client)
    assert eventually(lambda: running.rpc.connections >= 400)
    grown = resident() - before
    for client in clients:
        client.close()
    assert grown / 400 < 32 * 1024
